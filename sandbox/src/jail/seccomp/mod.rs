//! Which system calls the threads of the VMM process may make.
//!
//! ```text
//!   main ── filter: the union of all lists, and clone3 answers ENOSYS
//!     ├─ control ── + its own list
//!     ├─ vcpuN ──── + its own list
//!     └─ virtio-… ─ + its own list          each thread has all filters above it
//! ```
//!
//! A thread's list narrows what a flaw in its code can be used for at once. Threads share memory, so
//! who has taken over one of them in full can make another one work for him: what holds then is the
//! union, which is the filter of all. No list has a call that makes or opens a file by an absolute
//! path outside the jail's root, a process, a mount, a namespace, or a socket other than a Unix one.
//!
//! A refused call is no error that the thread could go on with: the kernel raises SIGSYS, whose handler
//! says which thread made which call and ends the process. `--seccomp log` lets such calls pass and has
//! the kernel log them.

mod lists;
mod violation;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use lists::{Call, When};

/// What happens to a system call that is not on its thread's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeccompMode {
    /// It ends the VMM process, with a message.
    #[default]
    Enforce,
    /// It passes, and the kernel logs it: for finding what is missing on a list.
    Log,
    /// It passes: there are no filters.
    Off,
}

impl fmt::Display for SeccompMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Log => "log",
            Self::Off => "off",
        })
    }
}

impl FromStr for SeccompMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            _ => Err(format!("`{text}` is no mode; write enforce, log or off")),
        }
    }
}

/// Kinds of threads of the VMM process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thread {
    /// Builds the machine, starts and stops devices, waits.
    Main,
    /// Hears from the sandbox.
    Control,
    /// Runs a virtual CPU.
    Vcpu,
    /// Serves sockets.
    Vsock,
    /// Serves random numbers.
    Rng,
    /// Gives memory back that the guest has freed.
    Balloon,
    /// Plugs and unplugs memory.
    Mem,
    /// Serves the network.
    Net,
    /// Serves a disk.
    Blk,
    /// Serves files.
    Fs,
}

impl Thread {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Main,
        Self::Control,
        Self::Vcpu,
        Self::Vsock,
        Self::Rng,
        Self::Balloon,
        Self::Mem,
        Self::Net,
        Self::Blk,
        Self::Fs,
    ];
}

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// A list that cannot be a filter.
    #[error("the list of system calls of thread {thread:?} cannot be a filter")]
    List {
        /// Whose list.
        thread: Thread,
        /// What is wrong with it.
        #[source]
        source: seccompiler::BackendError,
    },
    /// The kernel does not take it.
    #[error("the kernel refuses a filter of system calls; --seccomp off runs without")]
    Install(#[source] seccompiler::Error),
    /// The handler of refused calls cannot be set.
    #[error("SIGSYS cannot be handled")]
    Handler(#[source] std::io::Error),
}

/// The filters of a process, ready to be installed.
#[derive(Clone, Debug, Default)]
pub struct Filters(Arc<BTreeMap<Thread, Vec<BpfProgram>>>);

impl Filters {
    /// Makes the filters of all threads.
    ///
    /// # Errors
    /// [`SeccompError`]; in the mode [`SeccompMode::Off`] there are none and nothing fails.
    pub fn new(mode: SeccompMode) -> Result<Self, SeccompError> {
        let refused = match mode {
            SeccompMode::Enforce => SeccompAction::Trap,
            SeccompMode::Log => SeccompAction::Log,
            SeccompMode::Off => return Ok(Self::default()),
        };
        violation::handle().map_err(SeccompError::Handler)?;
        let programs = Thread::ALL.into_iter().map(|thread| {
            let compiled = compile(thread, refused.clone());
            let compiled = compiled.map_err(|source| SeccompError::List { thread, source })?;
            Ok((thread, compiled))
        });
        Ok(Self(Arc::new(programs.collect::<Result<_, _>>()?)))
    }

    /// Narrows the calling thread to its list, for good. Threads that it starts are no wider.
    ///
    /// # Errors
    /// [`SeccompError::Install`].
    pub fn install(&self, thread: Thread) -> Result<(), SeccompError> {
        for program in self.0.get(&thread).into_iter().flatten() {
            seccompiler::apply_filter(program).map_err(SeccompError::Install)?;
        }
        Ok(())
    }
}

fn compile(
    thread: Thread,
    refused: SeccompAction,
) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut unconditional = Vec::new();
    for call in lists::of(thread).into_iter().flatten() {
        let alternatives = conditions(call)?;
        if alternatives.is_empty() {
            unconditional.push(call.number);
        }
        rules.entry(call.number).or_default().extend(alternatives);
    }
    // No rule means no condition; one that another list gives does not narrow it.
    for number in unconditional {
        rules.insert(number, Vec::new());
    }
    let filter = |rules, otherwise, listed| {
        SeccompFilter::new(rules, otherwise, listed, TargetArch::x86_64)?.try_into()
    };
    let mut programs = vec![filter(rules, refused, SeccompAction::Allow)?];
    if thread == Thread::Main {
        let hidden = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let answer = SeccompAction::Errno(libc::ENOSYS as u32);
        programs.push(filter(hidden, SeccompAction::Allow, answer)?);
    }
    Ok(programs)
}

/// The alternatives under which a call is allowed; none means always.
fn conditions(call: &Call) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let dword = |argument, value: u32| {
        SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            value.into(),
        )
    };
    let conditions = match call.when {
        When::Always => return Ok(Vec::new()),
        When::Is(argument, values) => values
            .iter()
            .map(|value| dword(argument, *value))
            .collect::<Result<_, _>>()?,
        When::Without(argument, bits) => vec![SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::MaskedEq(bits),
            0,
        )?],
        When::OnSelf(argument) => vec![dword(argument, std::process::id())?],
    };
    conditions
        .into_iter()
        .map(|condition| SeccompRule::new(vec![condition]))
        .collect()
}

#[cfg(test)]
mod tests;
