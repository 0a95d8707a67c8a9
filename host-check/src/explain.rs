//! The long story of a check: its section of `docs/host-checks.md`.

use crate::check::{Check, Finding};
use crate::checks;
use crate::text::Style;

/// The page that `doc` of a finding points into.
pub const PAGE: &str = include_str!("../../docs/host-checks.md");

/// The check of this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Check> {
    checks::all().find(|check| check.id == id)
}

/// The ids that are spelt like this one, for somebody who mistyped it.
#[must_use]
pub fn similar(id: &str) -> Vec<&'static str> {
    let word = id.rsplit('.').next().unwrap_or(id);
    let fits = |known: &str| !word.is_empty() && (known.contains(word) || known.starts_with(id));
    checks::all()
        .map(|check| check.id)
        .filter(|known| fits(known))
        .collect()
}

/// The section of an id, without its heading.
#[must_use]
pub fn section(id: &str) -> Option<&'static str> {
    let heading = format!("### {id}\n");
    let start = PAGE.find(&format!("\n{heading}"))? + 1 + heading.len();
    let rest = &PAGE[start..];
    let end = rest.find("\n#").unwrap_or(rest.len());
    Some(rest[..end].trim())
}

/// What is known of a check in general, and what it found here.
#[must_use]
pub fn explain(finding: &Finding, style: Style) -> String {
    let mut out = String::new();
    crate::text::title(&mut out, finding, style);
    crate::text::details(&mut out, finding, style);
    if let Some(section) = section(finding.id) {
        for paragraph in section.split("\n\n") {
            out.push('\n');
            crate::text::paragraph(&mut out, paragraph, style);
        }
    }
    out
}
