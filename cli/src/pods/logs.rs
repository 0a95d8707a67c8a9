//! `podvmm logs`: reads the files that the pod's monitor writes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use sandbox::logs::{self, Entry, LogReader, Stream, Watch};
use sandbox::monitor::{ContainerPhase, PodRecord, PodStore, PodView};
use serde_json::json;

use crate::args::Logs;

/// How often it is looked whether a container still writes, even if nothing was written.
const LOOK: Duration = Duration::from_millis(500);

pub fn logs(args: &Logs, root: Option<&Path>) -> anyhow::Result<u8> {
    let store = super::store(root);
    let view = store.get(&args.target.pod)?;
    let container = container(&view, args.target.container.as_deref())?;
    if view.record.as_ref().is_some_and(|record| record.foreground) {
        bail!(
            "pod {}: it runs in the foreground, and its output goes where it was started; only pods of `run -d` have a log",
            view.name
        );
    }
    let log = Log {
        path: logs::path(&view.dir, &container),
        pod: view.name.clone(),
        container,
    };
    match log.print(args, &store) {
        // Who reads us has read enough.
        Err(error)
            if error
                .downcast_ref()
                .is_some_and(|e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(0)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(0),
    }
}

/// The container that is meant.
fn container(view: &PodView, named: Option<&str>) -> anyhow::Result<String> {
    let record = view.record.as_ref().with_context(|| {
        format!(
            "pod {}: nothing is known of its containers: {}",
            view.name,
            view.reason.as_deref().unwrap_or("it has no record")
        )
    })?;
    let found = match named {
        Some(name) => record.container(name),
        None => record.containers.iter().find(|c| !c.init),
    };
    match found {
        Some(container) => Ok(container.name.clone()),
        None => bail!(
            "pod {} has no container {:?}; it has {}",
            view.name,
            named.unwrap_or_default(),
            names(record)
        ),
    }
}

fn names(record: &PodRecord) -> String {
    let names: Vec<_> = record.containers.iter().map(|c| c.name.as_str()).collect();
    names.join(", ")
}

struct Log {
    path: PathBuf,
    pod: String,
    container: String,
}

impl Log {
    fn print(&self, args: &Logs, store: &PodStore) -> anyhow::Result<()> {
        let printer = Printer::new(args);
        // Watched before the first look: nothing is written unseen.
        let watch = self.path.parent().map(Watch::new);
        let mut reader = LogReader::new(&self.path);
        let since = args.since.map(|since| since.0);
        let is_wanted = |entry: &Entry| since.is_none_or(|since| entry.time >= since);
        let read = |error| anyhow::Error::new(error).context("the log cannot be read");
        if args.tail.0 == usize::MAX {
            self.print_new(&mut reader, &printer, &is_wanted)?;
        } else {
            let last = reader.last(args.tail.0).map_err(read)?;
            for entry in last.iter().filter(|entry| is_wanted(entry)) {
                printer.print(entry)?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        loop {
            // Asked first: what was written before the end is printed after it.
            let has_ended = self.has_ended(store);
            self.print_new(&mut reader, &printer, &is_wanted)?;
            if has_ended {
                return Ok(());
            }
            match &watch {
                Some(Ok(watch)) => watch.wait(LOOK).context("the log cannot be watched")?,
                _ => std::thread::sleep(LOOK),
            }
        }
    }

    fn print_new(
        &self,
        reader: &mut LogReader,
        printer: &Printer,
        is_wanted: &dyn Fn(&Entry) -> bool,
    ) -> anyhow::Result<()> {
        while let Some(entry) = reader.next().context("the log cannot be read")? {
            if is_wanted(&entry) {
                printer.print(&entry)?;
            }
        }
        Ok(())
    }

    /// Whether nothing more will be written.
    fn has_ended(&self, store: &PodStore) -> bool {
        let Ok(view) = store.get(&self.pod) else {
            return true;
        };
        let record = view.record.as_ref();
        let container = record.and_then(|record| record.container(&self.container));
        !view.is_alive() || container.is_none_or(|c| c.phase == ContainerPhase::Exited)
    }
}

/// How lines are shown.
struct Printer {
    timestamps: bool,
    json: bool,
}

impl Printer {
    fn new(args: &Logs) -> Self {
        Self {
            timestamps: args.timestamps,
            json: args.json,
        }
    }

    fn print(&self, entry: &Entry) -> io::Result<()> {
        let text = self.text(entry);
        if self.json || entry.stream == Stream::Stdout {
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            out.flush()
        } else {
            io::stderr().write_all(&text)
        }
    }

    fn text(&self, entry: &Entry) -> Vec<u8> {
        if self.json {
            let object = json!({
                "time": entry.time,
                "stream": entry.stream,
                "partial": !entry.is_whole,
                "content": String::from_utf8_lossy(&entry.content),
            });
            return format!("{object}\n").into_bytes();
        }
        let mut text = Vec::new();
        if self.timestamps {
            text.extend_from_slice(format!("{} ", entry.time).as_bytes());
        }
        text.extend_from_slice(&entry.content);
        // A part goes on where it is; with times, each is a line, as there is one for each.
        if entry.is_whole || self.timestamps {
            text.push(b'\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use sandbox::timestamp::Timestamp;

    use super::*;

    fn entry(content: &str, is_whole: bool) -> Entry {
        Entry {
            time: Timestamp::from_nanos(1),
            stream: Stream::Stdout,
            is_whole,
            content: content.into(),
        }
    }

    #[test]
    fn parts_of_a_line_are_put_together() {
        let plain = Printer {
            timestamps: false,
            json: false,
        };
        let text = [entry("a", false), entry("b", true)].map(|entry| plain.text(&entry));
        assert_eq!(text.concat(), b"ab\n");
    }

    #[test]
    fn lines_have_their_times() {
        let timed = Printer {
            timestamps: true,
            json: false,
        };
        assert_eq!(
            timed.text(&entry("x", true)),
            b"1970-01-01T00:00:00.000000001Z x\n"
        );
        let json = Printer {
            timestamps: false,
            json: true,
        };
        let object: serde_json::Value =
            serde_json::from_slice(&json.text(&entry("x\u{1}", true))).unwrap();
        assert_eq!(object["content"], "x\u{1}");
        assert_eq!(object["time"], "1970-01-01T00:00:00.000000001Z");
    }
}
