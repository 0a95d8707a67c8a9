//! A check, and what it finds.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

use crate::facts::Facts;

/// How a check ended, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Pass,
    /// Neither good nor bad, and good to know.
    Info,
    /// Could not be read, or does not apply.
    Skip,
    /// Pods run, and something should be better.
    Warn,
    /// Pods do not run.
    Fail,
}

/// What a machine is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Somebody's own machine, who runs pods by hand.
    #[default]
    Cli,
    /// A node of Kubernetes: many pods, of tenants who do not trust each other.
    Node,
    /// A build machine: jobs of one owner, in pods that are thrown away.
    Build,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cli, Self::Node, Self::Build];
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cli => "cli",
            Self::Node => "node",
            Self::Build => "build",
        })
    }
}

impl FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(text: &str) -> Result<Self, UnknownPurpose> {
        let mut known = Self::ALL.into_iter();
        known
            .find(|purpose| purpose.to_string() == text)
            .ok_or_else(|| UnknownPurpose(text.to_owned()))
    }
}

/// A word that is no purpose.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no purpose; write cli, node or build")]
pub struct UnknownPurpose(pub String);

/// The worst that a check may end in, by purpose.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    /// For [`Purpose::Cli`].
    pub cli: Status,
    /// For [`Purpose::Node`].
    pub node: Status,
    /// For [`Purpose::Build`].
    pub build: Status,
}

impl Weight {
    /// Nothing runs without it.
    pub const VITAL: Self = Self::same(Status::Fail);
    /// Everybody should know.
    pub const ADVICE: Self = Self::same(Status::Warn);
    /// It matters among tenants who do not trust each other.
    pub const TENANTS: Self = Self {
        node: Status::Warn,
        ..Self::same(Status::Info)
    };
    /// A node cannot do without; others can.
    pub const NODE: Self = Self {
        node: Status::Fail,
        ..Self::same(Status::Warn)
    };
    /// Never more than information.
    pub const INFORMATION: Self = Self::same(Status::Info);

    const fn same(status: Status) -> Self {
        Self {
            cli: status,
            node: status,
            build: status,
        }
    }

    /// The worst for this purpose.
    #[must_use]
    pub const fn worst(self, purpose: Purpose) -> Status {
        match purpose {
            Purpose::Cli => self.cli,
            Purpose::Node => self.node,
            Purpose::Build => self.build,
        }
    }
}

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Group {
    Cpu,
    Kvm,
    Probe,
    Place,
    Kernel,
    Cgroup,
    Network,
    Store,
    Limits,
    Hygiene,
}

impl Group {
    /// The word before the dot of an id.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Kvm => "kvm",
            Self::Probe => "probe",
            Self::Place => "place",
            Self::Kernel => "kernel",
            Self::Cgroup => "cgroup",
            Self::Network => "network",
            Self::Store => "store",
            Self::Limits => "limits",
            Self::Hygiene => "hygiene",
        }
    }
}

/// One thing that is looked at.
#[derive(Debug)]
pub struct Check {
    /// Its name, which never changes: group, dot, subject.
    pub id: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// What is at fault when it fails, in the words of the place where it is set.
    pub parameter: &'static str,
    /// What it should be.
    pub expected: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// How bad it can be.
    pub weight: Weight,
    /// Whether it is part of the fast subset, which is made before a pod is started.
    pub fast: bool,
    /// Looks at a machine. It asks `Facts` and nothing else.
    pub look: fn(&Facts<'_>) -> Look,
}

/// What a check saw, before the purpose is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// How it ended.
    pub status: Status,
    /// What was seen.
    pub observed: String,
    /// What that means; for a skip, why nothing was seen.
    pub message: String,
    /// What to do: the first clause alone has to be of use.
    pub remedy: String,
    /// Another parameter than the check's own.
    pub parameter: Option<String>,
    /// It is not for this machine, and not worth a line in the text.
    pub applies: bool,
}

impl Look {
    fn new(status: Status, observed: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status,
            observed: observed.into(),
            message: message.into(),
            remedy: String::new(),
            parameter: None,
            applies: true,
        }
    }

    /// As it should be.
    pub fn pass(observed: impl Into<String>) -> Self {
        let observed = observed.into();
        Self::new(Status::Pass, observed.clone(), observed)
    }

    /// Good to know.
    pub fn info(observed: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Status::Info, observed, message)
    }

    /// Should be better.
    pub fn warn(
        observed: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: remedy.into(),
            ..Self::new(Status::Warn, observed, message)
        }
    }

    /// Pods do not run.
    pub fn fail(
        observed: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: remedy.into(),
            ..Self::new(Status::Fail, observed, message)
        }
    }

    /// It could not be read.
    pub fn skip(why: impl Into<String>) -> Self {
        Self::new(Status::Skip, "", why)
    }

    /// It is not for this machine, or another check has said why.
    pub fn does_not_apply(why: impl Into<String>) -> Self {
        Self {
            applies: false,
            ..Self::skip(why)
        }
    }

    /// What would make a skipped check possible.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: remedy.into(),
            ..self
        }
    }

    /// Names what is at fault here.
    #[must_use]
    pub fn at(self, parameter: impl Into<String>) -> Self {
        Self {
            parameter: Some(parameter.into()),
            ..self
        }
    }
}

/// What a check found on a machine, for a purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's id.
    pub id: &'static str,
    /// The check's group.
    pub group: Group,
    /// How it ended.
    pub status: Status,
    /// What is, or would be, at fault.
    pub parameter: String,
    /// What was seen; empty if nothing was.
    pub observed: String,
    /// What it should be.
    pub expected: &'static str,
    /// What that means here.
    pub message: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do here; empty if nothing is to be done.
    pub remedy: String,
    /// Where it is written down at length.
    pub doc: String,
    /// Whether the check is for this machine at all.
    #[serde(skip)]
    pub applies: bool,
}

impl Finding {
    /// Makes the check.
    #[must_use]
    pub fn of(check: &Check, facts: &Facts<'_>, purpose: Purpose) -> Self {
        let look = (check.look)(facts);
        let status = match look.status {
            Status::Warn | Status::Fail => look.status.min(check.weight.worst(purpose)),
            status => status,
        };
        Self {
            id: check.id,
            group: check.group,
            status,
            parameter: look.parameter.unwrap_or_else(|| check.parameter.to_owned()),
            observed: look.observed,
            expected: check.expected,
            message: look.message,
            why: check.why,
            remedy: look.remedy,
            doc: format!("docs/host-checks.md#{}", anchor(check.id)),
            applies: look.applies,
        }
    }

    /// What to do, in one clause.
    #[must_use]
    pub fn first_step(&self) -> &str {
        self.remedy.split("; ").next().unwrap_or_default()
    }
}

/// Where Markdown puts the section of this id: a heading loses its dots.
#[must_use]
pub fn anchor(id: &str) -> String {
    id.replace('.', "")
}
