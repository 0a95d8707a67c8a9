//! Reading a log that is being written and rotated.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::line::{Entry, MAX_CONTENT};
use super::rotated;
use super::writer::MAX_FILES;

/// Longest line of a file: content and what is before it.
const MAX_LINE: usize = MAX_CONTENT + 128;

/// Reads a log from its oldest line on, through rotations.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: Option<Open>,
    /// The beginning of a line whose end is not written yet.
    line: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    reader: BufReader<File>,
    inode: u64,
    /// Whether it was seen to have been rotated: nothing is written to it any more.
    is_finished: bool,
}

impl Open {
    fn new(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Ok(Some(Self {
            inode: file.metadata()?.ino(),
            reader: BufReader::new(file),
            is_finished: false,
        }))
    }
}

impl LogReader {
    /// Reads the log whose newest file is `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            line: Vec::new(),
        }
    }

    /// The next line; `None` when there is none yet.
    ///
    /// # Errors
    /// When a file cannot be read.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator that has ended does not go on"
    )]
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let Some(open) = &mut self.file else {
                self.file = self.oldest()?;
                if self.file.is_none() {
                    return Ok(None);
                }
                continue;
            };
            open.reader.read_until(b'\n', &mut self.line)?;
            if self.line.pop_if(|byte| *byte == b'\n').is_some() {
                let entry = Entry::parse(&self.line);
                self.line.clear();
                match entry {
                    Some(entry) => return Ok(Some(entry)),
                    None => continue,
                }
            }
            if self.line.len() > MAX_LINE {
                // No line of ours.
                self.line.clear();
            }
            if !open.is_finished {
                // What was written before the rotation is read before the next file.
                open.is_finished = inode(&self.path) != Some(open.inode);
                if !open.is_finished {
                    return Ok(None);
                }
                continue;
            }
            let inode = open.inode;
            match self.after(inode)? {
                Some(next) => {
                    self.file = Some(next);
                    self.line.clear();
                }
                None => return Ok(None),
            }
        }
    }

    /// The lines that there are now, but no more than the last `count`. Parts of one line are one.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn last(&mut self, count: usize) -> io::Result<VecDeque<Entry>> {
        let mut kept = VecDeque::new();
        let mut whole = 0;
        while let Some(entry) = self.next()? {
            whole += usize::from(entry.is_whole);
            kept.push_back(entry);
            while whole > count {
                whole -= usize::from(kept.pop_front().is_some_and(|entry| entry.is_whole));
            }
        }
        // One that is still being written is a line too.
        if kept.back().is_some_and(|entry| !entry.is_whole) && whole == count {
            while let Some(entry) = kept.pop_front() {
                if entry.is_whole {
                    break;
                }
            }
        }
        Ok(kept)
    }

    fn oldest(&self) -> io::Result<Option<Open>> {
        for age in (0..MAX_FILES).rev() {
            if let Some(open) = Open::new(&rotated(&self.path, age))? {
                return Ok(Some(open));
            }
        }
        Ok(None)
    }

    /// The file after the one with this number, or the oldest if that is gone.
    fn after(&self, read: u64) -> io::Result<Option<Open>> {
        let age = (1..MAX_FILES).find(|age| inode(&rotated(&self.path, *age)) == Some(read));
        match age {
            Some(age) => Open::new(&rotated(&self.path, age - 1)),
            None => self.oldest(),
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| meta.ino())
}

/// Tells when something was written to the files of a directory.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Watches `dir` from now on.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, dir, events)?;
        Ok(Self(inotify))
    }

    /// Waits until something was written since the last call, at most `limit`.
    ///
    /// # Errors
    /// When that cannot be waited for.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut set = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut set, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        while events.next().is_ok() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::logs::{LogFile, LogLimits, Stream};

    struct Log(PathBuf, LogFile);

    impl Log {
        fn new(test: &str, max_files: u32) -> Self {
            let dir = format!("podvmm-reader-{}-{test}", std::process::id());
            let path = std::env::temp_dir().join(dir).join("main.log");
            let limits = LogLimits {
                max_size: 200,
                max_files,
            };
            let file = LogFile::open(&path, limits).unwrap();
            Self(path, file)
        }

        fn write(&mut self, text: &str) {
            self.1.append(Stream::Stdout, text.as_bytes()).unwrap();
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    fn text(entries: impl IntoIterator<Item = Entry>) -> String {
        let mut text = String::new();
        for entry in entries {
            text.push_str(&String::from_utf8_lossy(&entry.content));
            text.push(if entry.is_whole { '\n' } else { '|' });
        }
        text
    }

    fn rest(reader: &mut LogReader) -> String {
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            entries.push(entry);
        }
        text(entries)
    }

    #[test]
    fn a_reader_follows_through_rotations() {
        let mut log = Log::new("follow", 10);
        let mut reader = LogReader::new(&log.0);
        assert_eq!(rest(&mut reader), "");
        for n in 0..20 {
            log.write(&format!("line {n}\n"));
            assert_eq!(rest(&mut reader), format!("line {n}\n"));
        }
        // Several rotations between two looks.
        let mut expected = String::new();
        for n in 20..40 {
            log.write(&format!("line {n}\n"));
            expected.push_str(&format!("line {n}\n"));
        }
        assert!(rotated(&log.0, 5).exists());
        assert_eq!(rest(&mut reader), expected);
    }

    #[test]
    fn a_reader_that_was_overtaken_goes_on_with_what_is_left() {
        let mut log = Log::new("overtaken", 2);
        let mut reader = LogReader::new(&log.0);
        log.write("first\n");
        assert_eq!(rest(&mut reader), "first\n");
        for n in 0..40 {
            log.write(&format!("line {n}\n"));
        }
        let rest = rest(&mut reader);
        // The file that it has open is still there for it.
        assert!(rest.starts_with("line 0\n"), "{rest}");
        assert!(rest.ends_with("line 39\n"), "{rest}");
        assert!(!rest.contains("line 20\n"), "{rest}");
    }

    #[test]
    fn a_line_without_its_end_waits_for_it() {
        let log = Log::new("torn", 2);
        let mut reader = LogReader::new(&log.0);
        let line = b"2026-01-01T00:00:00Z stdout F whole\n";
        fs::write(&log.0, &line[..20]).unwrap();
        assert_eq!(rest(&mut reader), "");
        let mut file = File::options().append(true).open(&log.0).unwrap();
        io::Write::write_all(&mut file, &line[20..]).unwrap();
        assert_eq!(rest(&mut reader), "whole\n");
    }

    #[test]
    fn the_last_lines_are_counted_with_their_parts() {
        let mut log = Log::new("tail", 10);
        for part in ["a\n", "b", "b\n", "c\n", "d"] {
            log.write(part);
        }
        let last = |count| text(LogReader::new(&log.0).last(count).unwrap());
        assert_eq!(last(0), "");
        assert_eq!(last(1), "d|");
        assert_eq!(last(2), "c\nd|");
        assert_eq!(last(3), "b|b\nc\nd|");
        assert_eq!(last(usize::MAX), "a\nb|b\nc\nd|");
    }

    #[test]
    fn a_watch_tells_of_what_is_written() {
        let mut log = Log::new("watch", 2);
        let watch = Watch::new(log.0.parent().unwrap()).unwrap();
        log.write("x\n");
        let began = std::time::Instant::now();
        watch.wait(Duration::from_secs(60)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(30));
        watch.wait(Duration::from_millis(1)).unwrap();
    }
}
