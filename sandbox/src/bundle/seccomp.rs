//! A seccomp profile of an OCI configuration, compiled for the guest's kernel.
//!
//! ```text
//!   profile ──▶ decisions by system call ──▶ segments of equal decisions ──▶ binary search in BPF
//! ```
//!
//! It is done on the host: the agent installs a program and needs to know nothing about profiles.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::bpf::{Comparison, Condition, Program};
use crate::container::SeccompFilter;

/// Most instructions of a filter (the kernel's BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;
/// From here on, numbers are of the x32 ABI, which the guest's kernel does not have.
const X32_BIT: u32 = 0x4000_0000;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
const MAX_ERRNO: u32 = 4095;
/// Arguments of a system call.
const MAX_ARGS: u32 = 6;

const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// Why a profile cannot be carried over.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// It has not the form of one.
    #[error("is malformed")]
    Malformed(#[source] serde_json::Error),
    /// An action that a guest has no one to carry out for, or that is unknown.
    #[error("action {0} is not supported")]
    Action(String),
    /// A comparison that is unknown.
    #[error("comparison {0} is unknown")]
    Comparison(String),
    /// An argument's number beyond the last.
    #[error("argument {0}: system calls have {MAX_ARGS}")]
    Argument(u32),
    /// A flag that is unknown or needs somebody to listen.
    #[error("flag {0} is not supported")]
    Flag(String),
    /// It is for other processors alone.
    #[error("it is not for x86-64")]
    Architecture,
    /// It is too long.
    #[error("has {0} instructions when compiled, at most {MAX_INSTRUCTIONS} are allowed")]
    TooLong(usize),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default, rename = "listenerMetadata")]
    _listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// What becomes of one system call: the first alternative whose conditions all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Decision {
    alternatives: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

/// Compiles `linux.seccomp`.
///
/// # Errors
/// [`SeccompError`].
pub fn compile(profile: Value) -> Result<SeccompFilter, SeccompError> {
    let profile: Profile = serde_json::from_value(profile).map_err(SeccompError::Malformed)?;
    if profile.listener_path.is_some() {
        return Err(SeccompError::Action("SCMP_ACT_NOTIFY".into()));
    }
    let architectures = profile.architectures.as_deref().unwrap_or_default();
    // An empty list is the machine's own.
    if !architectures.is_empty() && !architectures.iter().any(|arch| arch == "SCMP_ARCH_X86_64") {
        return Err(SeccompError::Architecture);
    }
    let flags = profile.flags.as_deref().unwrap_or_default();
    let program = program(&profile)?;
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(program.len()));
    }
    Ok(SeccompFilter {
        program: program.bytes(),
        flags: flags
            .iter()
            .try_fold(0, |all, name| Ok(all | flag(name)?))?,
    })
}

fn flag(name: &str) -> Result<u32, SeccompError> {
    match name {
        // The filter is installed by a process of one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(2),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(4),
        other => Err(SeccompError::Flag(other.into())),
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let errno = errno.unwrap_or(EPERM).min(MAX_ERRNO);
    match name {
        "SCMP_ACT_ALLOW" => Ok(RET_ALLOW),
        "SCMP_ACT_ERRNO" => Ok(RET_ERRNO | errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(RET_KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => Ok(RET_KILL_PROCESS),
        "SCMP_ACT_TRAP" => Ok(RET_TRAP),
        "SCMP_ACT_LOG" => Ok(RET_LOG),
        "SCMP_ACT_TRACE" => Ok(RET_TRACE | errno),
        other => Err(SeccompError::Action(other.into())),
    }
}

fn condition(argument: &Argument) -> Result<Condition, SeccompError> {
    if argument.index >= MAX_ARGS {
        return Err(SeccompError::Argument(argument.index));
    }
    let (value, second) = (argument.value, argument.value_two);
    let comparison = match argument.op.as_str() {
        "SCMP_CMP_NE" => Comparison::NotEqual(value),
        "SCMP_CMP_EQ" => Comparison::Equal(value),
        "SCMP_CMP_LT" => Comparison::Less(value),
        "SCMP_CMP_LE" => Comparison::LessOrEqual(value),
        "SCMP_CMP_GT" => Comparison::Greater(value),
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual(value),
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual {
            mask: value,
            value: second,
        },
        other => return Err(SeccompError::Comparison(other.into())),
    };
    Ok(Condition {
        argument: argument.index,
        comparison,
    })
}

fn decisions(profile: &Profile, default: u32) -> Result<BTreeMap<u32, Decision>, SeccompError> {
    let mut decisions = BTreeMap::<u32, Decision>::new();
    for rule in profile.syscalls.iter().flatten() {
        let action = action(&rule.action, rule.errno_ret)?;
        let conditions = rule.args.iter().flatten().map(condition);
        let conditions: Vec<_> = conditions.collect::<Result<_, _>>()?;
        let alternatives = alternatives(conditions);
        for name in &rule.names {
            // Profiles name calls of all processors, and of newer kernels.
            let Ok(number) = name.parse::<syscalls::Sysno>() else {
                continue;
            };
            let number = u32::try_from(number.id()).unwrap_or(X32_BIT);
            let decision = decisions.entry(number).or_insert_with(|| Decision {
                alternatives: Vec::new(),
                otherwise: default,
            });
            if alternatives.is_empty() {
                decision.otherwise = action;
            }
            for alternative in &alternatives {
                decision.alternatives.push((alternative.clone(), action));
            }
        }
    }
    Ok(decisions)
}

/// All conditions of a rule must hold, except that several on one argument are alternatives, as
/// container runtimes have it.
fn alternatives(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let repeated = conditions.iter().enumerate().any(|(index, condition)| {
        conditions[..index]
            .iter()
            .any(|earlier| earlier.argument == condition.argument)
    });
    if conditions.is_empty() {
        Vec::new()
    } else if repeated {
        conditions.into_iter().map(|one| vec![one]).collect()
    } else {
        vec![conditions]
    }
}

fn program(profile: &Profile) -> Result<Program, SeccompError> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut segments: Vec<(u32, Decision)> = Vec::new();
    let mut push = |from: u32, decision: Decision| match segments.last() {
        Some((_, last)) if *last == decision => {}
        _ => segments.push((from, decision)),
    };
    let otherwise = |otherwise| Decision {
        alternatives: Vec::new(),
        otherwise,
    };
    push(0, otherwise(default));
    for (number, decision) in decisions(profile, default)? {
        push(number, decision);
        push(number + 1, otherwise(default));
    }
    push(X32_BIT, otherwise(RET_ERRNO | ENOSYS));
    // A call at a segment's start replaces an empty segment there.
    segments.dedup_by(|next, last| {
        let same = next.0 == last.0;
        if same {
            last.1 = next.1.clone();
        }
        same
    });
    let mut program = Program::new(RET_KILL_PROCESS);
    search(&mut program, &segments);
    Ok(program)
}

fn search(program: &mut Program, segments: &[(u32, Decision)]) {
    if let [(_, decision)] = segments {
        for (conditions, action) in &decision.alternatives {
            program.if_all(conditions, *action);
        }
        program.ret(decision.otherwise);
        return;
    }
    let (left, right) = segments.split_at(segments.len() / 2);
    let Some((from, _)) = right.first() else {
        return;
    };
    let branch = program.branch_if_at_least(*from);
    search(program, left);
    program.land(branch);
    search(program, right);
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
