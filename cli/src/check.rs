//! `podvmm check`: can this machine run pods, and if not, exactly why?

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, bail};
use host_check::host::Host;
use host_check::text::Style;
use host_check::{Live, Options, Recorded, Recorder, Report, Verdict, explain, text};

use crate::args::Check;
use crate::terminal;

/// Status for wrong usage and internal errors.
pub const WRONG: u8 = 2;
const NOT_READY: u8 = 1;

/// Columns of text that does not go to a terminal.
const WIDTH: usize = 80;
/// Longer lines are hard to read, shorter ones leave no room beside the ids.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=100;

/// Makes the checks, prints what they found and gives the status.
pub fn check(args: &Check) -> anyhow::Result<u8> {
    let host: Box<dyn Host> = match &args.recorded {
        Some(dir) => Box::new(Recorded::load(dir).context("--recorded")?),
        None => Box::new(Live::new()),
    };
    let host = host.as_ref();
    let options = Options {
        purpose: args.purpose,
        strict: args.strict,
        fast: false,
    };
    if let Some(id) = &args.explain {
        return explain_one(id, host, options);
    }
    let report = match &args.record {
        Some(dir) => record(dir, host, options)?,
        None => host_check::check(host, options),
    };
    print(&if args.json {
        serde_json::to_string_pretty(&report.to_json())? + "\n"
    } else if args.labels {
        let labels = host_check::labels(&report);
        labels
            .map(|(name, value)| format!("{name}={value}\n"))
            .concat()
    } else {
        text::report(&report, style())
    })?;
    Ok(match report.verdict {
        Verdict::Ready => 0,
        Verdict::NotReady => NOT_READY,
    })
}

fn record(dir: &Path, host: &dyn Host, options: Options) -> anyhow::Result<Report> {
    let recorder = Recorder::new(host);
    let report = host_check::check(&recorder, options);
    recorder.write(dir)?;
    eprintln!(
        "podvmm: recorded in {}; look at it before you send it to anybody",
        dir.display()
    );
    Ok(report)
}

fn explain_one(id: &str, host: &dyn Host, options: Options) -> anyhow::Result<u8> {
    let Some(check) = explain::find(id) else {
        let similar = explain::similar(id);
        if similar.is_empty() {
            bail!("--explain {id}: there is no such check; `podvmm check --json` names them all");
        }
        bail!(
            "--explain {id}: there is no such check; is it {}?",
            similar.join(" or ")
        );
    };
    let report = host_check::check_with(host, options, [check]);
    for finding in &report.checks {
        print(&explain::explain(finding, style()))?;
    }
    Ok(0)
}

fn style() -> Style {
    let terminal = io::stdout().is_terminal();
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let columns = match terminal::size() {
        (_, columns) if terminal && columns > 0 => usize::from(columns),
        _ => WIDTH,
    };
    Style {
        width: columns.clamp(*WIDTHS.start(), *WIDTHS.end()),
        colour: terminal && !dumb && !set("NO_COLOR"),
        whole_first_line: !terminal,
    }
}

/// Prints to whoever still listens: `podvmm ps | head` is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output cannot be written")
        }
        _ => Ok(()),
    }
}
