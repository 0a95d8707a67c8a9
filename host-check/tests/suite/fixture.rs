//! Recorded machines and what is expected of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use podvmm_host_check::check::UnknownPurpose;
use podvmm_host_check::checks;
use podvmm_host_check::{
    Check, Finding, Options, Purpose, Recorded, Report, Status, Verdict, check_with,
};
use serde::Deserialize;

/// What a machine must lead to. The sets are whole: nothing else may fail, warn and so on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    verdict: String,
    /// Words of the headline.
    headline: Vec<String>,
    /// Words of each failure: parameter, observation, message or remedy.
    #[serde(default)]
    fail: BTreeMap<String, Vec<String>>,
    /// The same of each warning.
    #[serde(default)]
    warn: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    info: BTreeSet<String>,
    /// What could not be read. What does not apply is not listed.
    #[serde(default)]
    skip: BTreeSet<String>,
}

/// A recorded machine.
pub struct Fixture {
    pub name: String,
    pub host: Recorded,
    pub expected: BTreeMap<String, Expected>,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/hosts")
}

/// All of them, by name.
pub fn all() -> Vec<Fixture> {
    let mut names: Vec<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.iter().map(|name| load(name)).collect()
}

/// One of them.
pub fn load(name: &str) -> Fixture {
    let dir = directory().join(name);
    let expected = fs::read_to_string(dir.join("expect.json")).unwrap();
    Fixture {
        name: name.to_owned(),
        host: Recorded::load(&dir).unwrap_or_else(|error| panic!("{name}: {error:?}")),
        expected: serde_json::from_str(&expected).unwrap_or_else(|error| panic!("{name}: {error}")),
    }
}

impl Fixture {
    /// The findings of some of the checks.
    pub fn report(&self, purpose: Purpose, checks: &[&'static Check]) -> Report {
        let options = Options {
            purpose,
            ..Options::default()
        };
        check_with(&self.host, options, checks.iter().copied())
    }

    /// Whether each purpose leads to what is expected; what differs otherwise.
    pub fn verify(&self, checks: &[&'static Check]) -> Result<(), String> {
        for (purpose, expected) in &self.expected {
            let purpose = purpose
                .parse()
                .map_err(|error: UnknownPurpose| format!("{}: {error}", self.name))?;
            let report = self.report(purpose, checks);
            expected
                .verify(&report)
                .map_err(|difference| format!("{} for {purpose}: {difference}", self.name))?;
        }
        Ok(())
    }
}

impl Expected {
    fn verify(&self, report: &Report) -> Result<(), String> {
        let verdict = match report.verdict {
            Verdict::Ready => "ready",
            Verdict::NotReady => "not-ready",
        };
        if verdict != self.verdict {
            return Err(format!("{verdict}: {}", report.headline));
        }
        has_words(&report.headline, &self.headline)?;
        for (status, expected) in [(Status::Fail, &self.fail), (Status::Warn, &self.warn)] {
            same(status, report, expected.keys())?;
            for finding in report.with_status(status) {
                has_words(&all_text(finding), &expected[finding.id])?;
                if finding.remedy.is_empty() {
                    return Err(format!("{}: no remedy", finding.id));
                }
            }
        }
        same(Status::Info, report, &self.info)?;
        same(Status::Skip, report, &self.skip)
    }
}

fn all_text(finding: &Finding) -> String {
    [
        &finding.parameter,
        &finding.observed,
        &finding.message,
        &finding.remedy,
    ]
    .map(String::as_str)
    .join(" | ")
}

fn has_words(text: &str, words: &[String]) -> Result<(), String> {
    match words.iter().find(|word| !text.contains(*word)) {
        Some(word) => Err(format!("no {word:?} in: {text}")),
        None => Ok(()),
    }
}

fn same<'e>(
    status: Status,
    report: &Report,
    expected: impl IntoIterator<Item = &'e String>,
) -> Result<(), String> {
    let found: BTreeSet<&str> = report
        .with_status(status)
        .filter(|finding| finding.applies)
        .map(|finding| finding.id)
        .collect();
    let expected: BTreeSet<&str> = expected.into_iter().map(String::as_str).collect();
    if found == expected {
        return Ok(());
    }
    let surplus: Vec<_> = found.difference(&expected).collect();
    let lacking: Vec<_> = expected.difference(&found).collect();
    Err(format!(
        "{status:?}: not expected: {surplus:?}, missing: {lacking:?}"
    ))
}

/// All checks.
pub fn all_checks() -> Vec<&'static Check> {
    checks::all().collect()
}
