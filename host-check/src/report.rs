//! All findings about a machine, and the verdict.

use serde::Serialize;
use thiserror::Error;

use crate::check::{Check, Finding, Purpose, Status};
use crate::checks;
use crate::facts::Facts;
use crate::host::{Host, Probe, Speed};
use crate::place::{Cloud, Hypervisor};

/// The version of the JSON form. It grows when a field goes away or changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// What is checked, and how strictly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What the machine is to be.
    pub purpose: Purpose,
    /// Warnings count as failures.
    pub strict: bool,
    /// Only what decides whether a machine can be started: the fast subset.
    pub fast: bool,
}

/// Whether pods run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// They do; there may be warnings.
    Ready,
    /// At least one check failed.
    NotReady,
}

/// What kind of machine it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor, as it calls itself.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The hypervisor below; nothing on bare metal.
    pub hypervisor: Option<String>,
    /// Whose machine it is, where known.
    pub cloud: Option<Cloud>,
    /// The model in the firmware's tables: the instance type in some clouds.
    pub model: Option<String>,
    /// 1 or 2 on Azure.
    pub azure_generation: Option<u8>,
    /// The container around us.
    pub container: Option<String>,
}

impl Machine {
    fn of(facts: &Facts<'_>) -> Self {
        let place = facts.place();
        Self {
            cpu: facts.cpu().brand.clone(),
            kernel: facts.line("/proc/sys/kernel/osrelease").ok(),
            hypervisor: match &place.hypervisor {
                Hypervisor::None => None,
                other => Some(other.to_string()),
            },
            cloud: place.cloud,
            model: place.model.clone(),
            azure_generation: place.azure_generation,
            container: place.container.map(|container| container.to_string()),
        }
    }
}

/// All findings about a machine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of podvmm that looked.
    pub podvmm_version: &'static str,
    /// What the machine was to be.
    #[serde(rename = "for")]
    pub purpose: Purpose,
    /// Whether warnings counted as failures.
    pub strict: bool,
    /// Whether pods run here.
    pub verdict: Verdict,
    /// The verdict in one sentence: what failed first, and what to do.
    pub headline: String,
    /// What kind of machine it is.
    pub host: Machine,
    /// What the test machine showed; nothing if it did not run.
    pub probe: Option<Speed>,
    /// All findings, in the order of the checks.
    pub checks: Vec<Finding>,
    /// Whether the checks were made as root.
    pub root: bool,
}

/// A machine cannot run pods: the first reason, and what to do.
#[derive(Clone, Debug, Error)]
#[error(
    "this machine cannot run pods: {}; {} (`podvmm check --explain {}` tells more)",
    cause(.finding), .finding.remedy, .finding.id
)]
pub struct NotReady {
    /// The first check that failed.
    pub finding: Box<Finding>,
}

/// Parameter and message, the parameter once.
fn cause(finding: &Finding) -> String {
    if finding.message.contains(&finding.parameter) {
        finding.message.clone()
    } else {
        format!("{}: {}", finding.parameter, finding.message)
    }
}

/// Checks a machine.
#[must_use]
pub fn check(host: &dyn Host, options: Options) -> Report {
    check_with(host, options, checks::all())
}

/// The same with a choice of checks.
#[must_use]
pub fn check_with<'c>(
    host: &dyn Host,
    options: Options,
    checks: impl IntoIterator<Item = &'c Check>,
) -> Report {
    let facts = Facts::new(host);
    let findings: Vec<Finding> = checks
        .into_iter()
        .filter(|check| check.fast || !options.fast)
        .map(|check| {
            let mut finding = Finding::of(check, &facts, options.purpose);
            if options.strict && finding.status == Status::Warn {
                finding.status = Status::Fail;
            }
            finding
        })
        .collect();
    let failed = findings
        .iter()
        .find(|finding| finding.status == Status::Fail);
    let verdict = match failed {
        Some(_) => Verdict::NotReady,
        None => Verdict::Ready,
    };
    Report {
        schema_version: SCHEMA_VERSION,
        podvmm_version: env!("CARGO_PKG_VERSION"),
        purpose: options.purpose,
        strict: options.strict,
        verdict,
        headline: failed.map_or_else(|| ready(options.purpose), headline),
        host: Machine::of(&facts),
        probe: match facts.probe() {
            Probe::Measured(speed) => Some(*speed),
            _ => None,
        },
        root: facts.identity().is_root(),
        checks: findings,
    }
}

fn ready(purpose: Purpose) -> String {
    match purpose {
        Purpose::Cli => "Ready: this machine runs pods".to_owned(),
        Purpose::Node => "Ready: this machine can be a node that runs pods".to_owned(),
        Purpose::Build => "Ready: this machine can run builds in pods".to_owned(),
    }
}

fn headline(finding: &Finding) -> String {
    let mut text = format!("Not ready: {}", finding.message);
    if !finding.remedy.is_empty() {
        text += &format!("; {}", finding.first_step());
    }
    text
}

impl Report {
    /// The findings of one status, in the order of the checks.
    pub fn with_status(&self, status: Status) -> impl Iterator<Item = &Finding> {
        let findings = self.checks.iter();
        findings.filter(move |finding| finding.status == status)
    }

    /// The verdict as an error that names the first failure and its remedy.
    ///
    /// # Errors
    /// [`NotReady`] if a check failed.
    pub fn ready(&self) -> Result<(), NotReady> {
        match self.with_status(Status::Fail).next() {
            Some(finding) => Err(NotReady {
                finding: Box::new(finding.clone()),
            }),
            None => Ok(()),
        }
    }

    /// The machine-readable form, described by `docs/host-check.schema.json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!(self)
    }
}
