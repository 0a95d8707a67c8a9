//! Container logs, as CRI has them: time, stream, tag and the line.
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F a whole line
//! 2026-01-02T03:04:05.678901234Z stderr P the first part of a long one
//! ```

/// One entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it was written, in RFC 3339.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the line goes on in the next entry of this stream.
    pub partial: bool,
    /// The line without its end.
    pub text: &'a str,
}

/// An entry that is not of the format.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of the log is not in CRI's format: {line:?}")]
pub struct BadEntry {
    number: usize,
    line: String,
}

/// The entries of a log.
///
/// # Errors
///
/// Names the first line that is not of the format.
pub fn parse(log: &str) -> Result<Vec<Entry<'_>>, BadEntry> {
    log.lines()
        .enumerate()
        .map(|(index, line)| {
            entry(line).ok_or_else(|| BadEntry {
                number: index + 1,
                line: line.to_owned(),
            })
        })
        .collect()
}

/// What was written to a stream, parts put together.
#[must_use]
pub fn written(entries: &[Entry<'_>], stream: &str) -> String {
    entries
        .iter()
        .filter(|entry| entry.stream == stream)
        .flat_map(|entry| [entry.text, if entry.partial { "" } else { "\n" }])
        .collect()
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let mut words = line.splitn(4, ' ');
    let (time, stream, tag, text) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let timed = time.len() >= "2026-01-02T03:04:05Z".len()
        && time.as_bytes()[4] == b'-'
        && time.as_bytes()[10] == b'T'
        && (time.ends_with('Z') || time[11..].contains(['+', '-']));
    let named = matches!(stream, "stdout" | "stderr") && matches!(tag, "F" | "P");
    (timed && named).then_some(Entry {
        time,
        stream,
        partial: tag == "P",
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.678901234Z";

    #[test]
    fn lines_and_parts_of_lines_are_put_together_by_stream() {
        let log = format!(
            "{TIME} stdout P one \n{TIME} stderr F oh\n{TIME} stdout F and a half\n{TIME} stdout F \n"
        );
        let entries = parse(&log).unwrap();
        assert_eq!(written(&entries, "stdout"), "one and a half\n\n");
        assert_eq!(written(&entries, "stderr"), "oh\n");
    }

    #[test]
    fn what_is_not_of_the_format_is_named() {
        for bad in [
            "a plain line",
            "2026-01-02T03:04:05Z stdout X text",
            "2026-01-02T03:04:05Z stdin F text",
            "yesterday stdout F text",
            "",
        ] {
            let log = format!("{TIME} stdout F fine\n{bad}\n");
            assert!(
                parse(&log).unwrap_err().to_string().contains("line 2"),
                "{bad}"
            );
        }
    }
}
