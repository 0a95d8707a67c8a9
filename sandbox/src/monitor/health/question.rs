//! One question, or one hook, and what came of it.

use std::time::{Duration, Instant};

use super::command::{self, Ran};
use super::http::{self, Connection};
use super::{Hook, Probe, Question};
use crate::monitor::plan::ContainerPlan;
use crate::monitor::shared::{Shared, State};
use crate::pod::Pod;

/// Longest time for a hook that is a request.
const HOOK_REQUEST: Duration = Duration::from_secs(30);

/// What a probe was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::monitor) enum Answer {
    /// All is well.
    Good,
    /// It is not, or there was no answer in time.
    Bad(String),
    /// The question could not be asked.
    None(String),
}

/// Asks, and waits for the answer, at most as long as the probe says.
pub(super) fn ask(pod: &Pod, plan: &ContainerPlan, probe: &Probe) -> Answer {
    let timeout = probe.timing.timeout;
    match &probe.question {
        Question::Exec(args) => match command::run(pod, plan, args, Some(timeout)) {
            Ran::Exited { code: 0, .. } => Answer::Good,
            Ran::Exited { output, .. } => Answer::Bad(output),
            Ran::TimedOut => Answer::Bad(command::timed_out(args)),
            Ran::Failed(why) => Answer::None(why),
        },
        Question::Http(get) => match http::get(pod, get, Instant::now() + timeout) {
            Ok(200..=399) => Answer::Good,
            Ok(status) => Answer::Bad(format!("HTTP probe failed with statuscode: {status}")),
            Err(why) => Answer::Bad(why),
        },
        Question::Tcp { host, port } => {
            let until = Instant::now() + timeout;
            match Connection::dial(pod, host.as_deref(), *port, until) {
                Ok(_) => Answer::Good,
                Err(error) => Answer::Bad(error.told()),
            }
        }
    }
}

/// Runs a hook, at most for `limit`; a pause ends when `is_over`.
pub(in crate::monitor) fn run_hook(
    shared: &Shared,
    pod: &Pod,
    plan: &ContainerPlan,
    hook: &Hook,
    limit: Option<Duration>,
    is_over: impl Fn(&State) -> bool,
) -> Result<(), String> {
    match hook {
        Hook::Exec(args) => match command::run(pod, plan, args, limit) {
            Ran::Exited { code: 0, .. } => Ok(()),
            Ran::Exited { code, output } => {
                let output = Some(output).filter(|output| !output.is_empty());
                let output = output.map(|output| format!(": {output}"));
                let command = args.join(" ");
                let said = output.unwrap_or_default();
                Err(format!("Exec({command}): exit status {code}{said}"))
            }
            Ran::TimedOut => Err(command::timed_out(args)),
            Ran::Failed(why) => Err(why),
        },
        Hook::Http(get) => {
            let limit = limit.map_or(HOOK_REQUEST, |limit| limit.min(HOOK_REQUEST));
            http::get(pod, get, Instant::now() + limit).map(drop)
        }
        Hook::Sleep(time) => {
            let time = limit.map_or(*time, |limit| limit.min(*time));
            shared.wait_until(Some(time), is_over);
            Ok(())
        }
    }
}
