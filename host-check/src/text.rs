//! A report for people: failures first, each with what to do.

use std::fmt::Write;

use crate::check::{Finding, Group, Status};
use crate::report::{Report, Verdict};

/// How the text is to look.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Colour, as on a terminal.
    pub colour: bool,
    /// The first line stays whole, for programs that read it.
    pub whole_first_line: bool,
}

/// Columns of the status at the left.
const STATUS: usize = 6;
/// Columns of a label in a failure's details.
const LABEL: usize = 11;

impl Style {
    fn paint(self, status: Status, text: &str) -> String {
        let code = match status {
            Status::Fail => "1;31",
            Status::Warn => "33",
            Status::Pass => "32",
            Status::Info => "36",
            Status::Skip => "2",
        };
        self.paint_with(code, text)
    }

    fn paint_with(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A line at the left margin, its continuations under its own beginning.
    fn wrap(self, out: &mut String, first: &str, indent: usize, text: &str) {
        let mut line = String::from(first);
        // What is shown of `first`, without colour codes, is as wide as the indent.
        let mut column = indent;
        for (index, word) in text.split_whitespace().enumerate() {
            let width = word.chars().count();
            if index > 0 && column + 1 + width > self.width {
                let _ = writeln!(out, "{}", line.trim_end());
                line = " ".repeat(indent);
                column = indent;
            } else if index > 0 {
                line.push(' ');
                column += 1;
            }
            line.push_str(word);
            column += width;
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }

    fn label(self, out: &mut String, label: &str, text: &str) {
        if !text.is_empty() {
            let first = format!("{:STATUS$}{label:LABEL$}", "");
            self.wrap(out, &first, STATUS + LABEL, text);
        }
    }

    /// What went wrong, under the id.
    fn head(self, out: &mut String, word: &str, finding: &Finding) {
        let word = self.paint(finding.status, &format!("{word:STATUS$}"));
        let _ = writeln!(out, "\n{word}{}", self.paint_with("1", finding.id));
        let first = " ".repeat(STATUS);
        self.wrap(out, &first, STATUS, &finding.message);
    }

    /// `info  kvm.nested  message`.
    fn title(self, out: &mut String, word: &str, finding: &Finding, width: usize, text: &str) {
        let id = format!("{:width$}", finding.id);
        let first = format!(
            "{}{}  ",
            self.paint(finding.status, &format!("{word:STATUS$}")),
            self.paint_with("1", &id)
        );
        self.wrap(out, &first, STATUS + width + 2, text);
    }
}

/// The whole report.
#[must_use]
pub fn report(report: &Report, style: Style) -> String {
    let mut out = String::new();
    verdict(&mut out, report, style);
    machine(&mut out, report, style);
    for finding in report.with_status(Status::Fail) {
        style.head(&mut out, "FAIL", finding);
        details(&mut out, finding, style);
    }
    for finding in report.with_status(Status::Warn) {
        style.head(&mut out, "warn", finding);
        style.label(&mut out, "why", finding.why);
        style.label(&mut out, "do", &finding.remedy);
    }
    short(&mut out, report, style);
    passed(&mut out, report, style);
    summary(&mut out, report, style);
    out
}

/// One finding, whatever its status.
pub(crate) fn title(out: &mut String, finding: &Finding, style: Style) {
    let word = match finding.status {
        Status::Pass => "ok",
        Status::Info => "info",
        Status::Skip => "skip",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    style.title(out, word, finding, finding.id.len(), &finding.message);
}

/// What was found and what to do, label by label.
pub(crate) fn details(out: &mut String, finding: &Finding, style: Style) {
    style.label(out, "parameter", &finding.parameter);
    style.label(out, "found", &finding.observed);
    style.label(out, "needed", finding.expected);
    style.label(out, "why", finding.why);
    style.label(out, "do", &finding.remedy);
}

/// A paragraph of a page: wrapped, except lists and literal lines.
pub(crate) fn paragraph(out: &mut String, text: &str, style: Style) {
    let literal = text.starts_with("```") || text.starts_with('|');
    for line in text.lines().filter(|line| !line.starts_with("```")) {
        match line.strip_prefix("- ") {
            _ if literal => *out += &format!("    {line}\n"),
            Some(item) => style.wrap(out, "- ", 2, item),
            None => style.wrap(out, "", 0, line),
        }
    }
}

fn verdict(out: &mut String, report: &Report, style: Style) {
    let (status, word) = match report.verdict {
        Verdict::Ready => (Status::Pass, "Ready"),
        Verdict::NotReady => (Status::Fail, "Not ready"),
    };
    let rest = report.headline.strip_prefix(word).unwrap_or_default();
    let mut text = String::new();
    let width = if style.whole_first_line {
        usize::MAX
    } else {
        style.width
    };
    Style { width, ..style }.wrap(&mut text, "", 0, &format!("{word}{rest}"));
    match text.strip_prefix(word) {
        Some(rest) => *out += &format!("{}{rest}", style.paint(status, word)),
        None => *out += &text,
    }
}

fn machine(out: &mut String, report: &Report, style: Style) {
    let host = &report.host;
    let mut parts = vec![host.cpu.clone()];
    if let Some(kernel) = &host.kernel {
        parts.push(format!("Linux {kernel}"));
    }
    parts.push(match &host.hypervisor {
        Some(hypervisor) => format!("VM on {hypervisor}"),
        None => "bare metal".to_owned(),
    });
    if let Some(cloud) = host.cloud {
        parts.push(match host.azure_generation {
            Some(generation) => format!("{cloud} (Generation {generation})"),
            None => cloud.to_string(),
        });
    }
    if let Some(container) = &host.container {
        parts.push(format!("in a container ({container})"));
    }
    parts.retain(|part| !part.is_empty());
    style.wrap(out, "", 0, &parts.join(", "));
}

/// What is good to know and what could not be looked at: a line each, aligned.
fn short(out: &mut String, report: &Report, style: Style) {
    let findings: Vec<&Finding> = report
        .with_status(Status::Info)
        .chain(report.with_status(Status::Skip))
        .filter(|finding| finding.applies)
        .collect();
    let width = findings.iter().map(|finding| finding.id.len()).max();
    if !findings.is_empty() {
        out.push('\n');
    }
    for finding in findings {
        let (word, text) = match finding.status {
            // What would let it be looked at.
            Status::Skip if !finding.remedy.is_empty() => {
                ("skip", format!("{}: {}", finding.message, finding.remedy))
            }
            Status::Skip => ("skip", finding.message.clone()),
            _ => ("info", finding.message.clone()),
        };
        style.title(out, word, finding, width.unwrap_or(0), &text);
    }
}

/// What passed: a line for each group.
fn passed(out: &mut String, report: &Report, style: Style) {
    let mut groups: Vec<(Group, Vec<&str>)> = Vec::new();
    for finding in report.with_status(Status::Pass) {
        let subject = finding
            .id
            .split_once('.')
            .map_or(finding.id, |(_, rest)| rest);
        match groups.last_mut() {
            Some((group, subjects)) if *group == finding.group => subjects.push(subject),
            _ => groups.push((finding.group, vec![subject])),
        }
    }
    let width = groups.iter().map(|(group, _)| group.word().len()).max();
    if !groups.is_empty() {
        out.push('\n');
    }
    for (group, subjects) in groups {
        let width = width.unwrap_or(0);
        let first = format!(
            "{}{:width$}  ",
            style.paint(Status::Pass, &format!("{:STATUS$}", "ok")),
            group.word()
        );
        style.wrap(out, &first, STATUS + width + 2, &subjects.join(", "));
    }
}

fn summary(out: &mut String, report: &Report, style: Style) {
    let count = |status| {
        let findings = report.with_status(status);
        findings.filter(|finding| finding.applies).count()
    };
    let counts = [
        (count(Status::Fail), "failed"),
        (count(Status::Warn), "to be improved"),
        (count(Status::Pass), "passed"),
        (count(Status::Info), "for information"),
        (count(Status::Skip), "could not be looked at"),
    ];
    let shown: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let mut text = shown.join(", ");
    if count(Status::Skip) > 0 && !report.root {
        text += "; as root, `podvmm check` sees more";
    }
    out.push('\n');
    style.wrap(out, "", 0, &format!("{text}."));
    style.wrap(
        out,
        "",
        0,
        "`podvmm check --explain ID` tells more about one of them.",
    );
}
