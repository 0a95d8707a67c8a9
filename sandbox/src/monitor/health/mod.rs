//! How it is seen that a container works, and what runs beside its start and its end.
//!
//! ```text
//!   started ── postStart ──▶ Watch: asks, counts ──▶ ready or not ready, in the record
//!                              │ too many failures
//!                              ▼
//!              ending: preStop ── stop signal ── SIGKILL      ◀── stop, deadline
//!                      └───────── grace ────────────┘
//! ```
//!
//! All of it is as the kubelet has it: what counts, when, and in which words it is told.
//!
//! # Map
//! - `state`: what answers come to, without time or system calls.
//! - `watch`: the thread that asks.
//! - `question`: one question, or hook; `http`: those over HTTP; `command`: those that are commands.
//! - `ending`: a container's last moments.

mod command;
pub(super) mod ending;
mod http;
pub(super) mod question;
mod state;
mod tls;
pub(super) mod watch;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A container's probes and hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Has it started? The other probes wait for that.
    pub startup: Option<Probe>,
    /// Does it still work?
    pub liveness: Option<Probe>,
    /// Can it be used?
    pub readiness: Option<Probe>,
    /// Runs once the command has started; what fails ends the container.
    pub post_start: Option<Hook>,
    /// Runs before the container is asked to end, within its grace.
    pub pre_stop: Option<Hook>,
}

impl Health {
    /// Whether the container can be used from its start on.
    #[must_use]
    pub fn is_ready_at_once(&self) -> bool {
        self.startup.is_none() && self.readiness.is_none()
    }

    fn probe(&self, kind: Kind) -> Option<&Probe> {
        match kind {
            Kind::Startup => self.startup.as_ref(),
            Kind::Liveness => self.liveness.as_ref(),
            Kind::Readiness => self.readiness.as_ref(),
        }
    }
}

/// A question that is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What is asked.
    pub question: Question,
    /// When, and how often the same answer counts.
    pub timing: Timing,
    /// How long the container is given to end if this probe ends it; the pod's time if it does not say.
    pub grace: Option<Duration>,
}

/// When a probe asks, and how often the same answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// After the container's start.
    pub initial_delay: Duration,
    /// From an answer to the next question.
    pub period: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Good answers in a row.
    pub successes: u32,
    /// Bad answers in a row.
    pub failures: u32,
}

/// How a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// A command in the container: status 0 is good.
    Exec(Vec<String>),
    /// A request: a status of 200 to 399 is good.
    Http(HttpGet),
    /// A connection.
    Tcp {
        /// As the machine that the pod runs on resolves it; the pod itself without one.
        host: Option<String>,
        /// Port.
        port: u16,
    },
}

/// A request over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGet {
    /// Over TLS, whatever the certificate.
    pub tls: bool,
    /// As the machine that the pod runs on resolves it; the pod itself without one.
    pub host: Option<String>,
    /// Port.
    pub port: u16,
    /// With the slash at its beginning.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
}

/// What runs beside a container's start or end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Hook {
    /// A command in the container.
    Exec(Vec<String>),
    /// A request; any answer is good.
    Http(HttpGet),
    /// A pause.
    Sleep(Duration),
}

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Has it started?
    Startup,
    /// Does it still work?
    Liveness,
    /// Can it be used?
    Readiness,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}
