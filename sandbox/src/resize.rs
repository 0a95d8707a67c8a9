//! A pod's VM grows and shrinks while it runs.
//!
//! ```text
//!   grow:    VMM: vCPUs, memory ──▶ agent: CPUs online    wait: the guest's kernel plugs memory
//!   shrink:  VMM: wants memory back, agent: CPUs offline  wait: it unplugs what it can do without
//! ```
//!
//! Waiting ends when the guest has come no nearer to its size for a while, as it can be busy, or not willing,
//! and after a minute at the latest: it is not for the guest to say how long a caller is held up.

use std::thread::sleep;
use std::time::{Duration, Instant};

use agent_protocol::proto::{AgentClient, OnlineCpusRequest};
use serde::{Deserialize, Serialize};
use vmm::{MemorySize, VcpuCount};

use crate::control::MachineSize;
use crate::guest::call_context;
use crate::launch::VmmProcess;
use crate::pod::PodError;

/// How long a guest may take for its next piece of memory. One that has no CPU for a while is slow.
const GROWING: Duration = Duration::from_secs(5);
/// How long it may take until it gives the next piece back, which it may not be able to at all.
const SHRINKING: Duration = Duration::from_millis(500);
/// How long it is waited for in all, however steadily it comes nearer. It goes on by itself after that.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How large a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSize {
    /// vCPUs that are online.
    pub vcpus: u64,
    /// Most that it can be resized to.
    pub max_vcpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes that it is to have: fewer where the guest could not do without, yet.
    pub wanted_memory: u64,
    /// Most bytes that it can be resized to.
    pub max_memory: u64,
}

pub(crate) fn resize(
    vmm: &VmmProcess,
    agent: &AgentClient,
    vcpus: VcpuCount,
    memory: MemorySize,
) -> Result<PodSize, PodError> {
    vmm.resize(vcpus, memory)?;
    let online = bring_online(agent, vcpus.get().into())?;
    Ok(of(settle(vmm)?, online))
}

pub(crate) fn size(vmm: &VmmProcess, agent: &AgentClient) -> Result<PodSize, PodError> {
    let online = agent.stats(call_context(), &Default::default());
    let online = online.map_err(|source| PodError::Call {
        call: "Stats",
        source,
    })?;
    Ok(of(vmm.size()?, online.guest.get_or_default().online_cpus))
}

fn of(machine: MachineSize, online: u32) -> PodSize {
    PodSize {
        vcpus: online.into(),
        max_vcpus: machine.max_vcpus,
        memory: machine.memory,
        wanted_memory: machine.wanted_memory,
        max_memory: machine.max_memory,
    }
}

fn bring_online(agent: &AgentClient, count: u32) -> Result<u32, PodError> {
    let request = OnlineCpusRequest {
        count,
        ..Default::default()
    };
    let answer = agent.online_cpus(call_context(), &request);
    let answer = answer.map_err(|source| PodError::Call {
        call: "OnlineCpus",
        source,
    })?;
    Ok(answer.online)
}

/// Waits until the guest has the memory that it is to have, or gets no nearer to it.
fn settle(vmm: &VmmProcess) -> Result<MachineSize, PodError> {
    let mut size = vmm.size()?;
    let mut waiting = Waiting::new(Instant::now());
    while waiting.goes_on(&size, Instant::now()) {
        sleep(LOOK);
        size = vmm.size()?;
    }
    Ok(size)
}

/// How long it has been waited for a guest, and what has come of it.
struct Waiting {
    began: Instant,
    /// Bytes that it was away from its size when it was nearest. A guest that goes back and forth gets no
    /// nearer.
    nearest: u64,
    /// When it was that for the first time.
    since: Instant,
}

impl Waiting {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            nearest: u64::MAX,
            since: now,
        }
    }

    /// Whether to wait on for a guest that is of this size now.
    fn goes_on(&mut self, size: &MachineSize, now: Instant) -> bool {
        let distance = size.memory.abs_diff(size.wanted_memory);
        if distance < self.nearest {
            (self.nearest, self.since) = (distance, now);
        }
        let patience = if size.memory < size.wanted_memory {
            GROWING
        } else {
            SHRINKING
        };
        distance > 0
            && now.duration_since(self.since) <= patience
            && now.duration_since(self.began) <= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 2 << 20;

    /// How long it is waited for a guest of so many blocks, of which 1000 are wanted, when `blocks` says how
    /// many it has after so many looks.
    fn waited(blocks: impl Fn(u64) -> u64) -> Duration {
        let began = Instant::now();
        let mut waiting = Waiting::new(began);
        for look in 0u32.. {
            let size = MachineSize {
                vcpus: 1,
                max_vcpus: 1,
                memory: blocks(look.into()) * BLOCK,
                wanted_memory: 1000 * BLOCK,
                max_memory: 1000 * BLOCK,
            };
            let passed = LOOK * look;
            if !waiting.goes_on(&size, began + passed) {
                return passed;
            }
            assert!(passed < 2 * LONGEST, "there is no end");
        }
        unreachable!()
    }

    #[test]
    fn a_guest_is_waited_for_while_it_gets_nearer() {
        assert_eq!(waited(|_| 1000), Duration::ZERO);
        assert_eq!(waited(|look| look.min(1000)), 1000 * LOOK);
        assert_eq!(waited(|look| 2000 - look.min(1000)), 1000 * LOOK);
        // One that is slow, but not for ever.
        assert_eq!(
            waited(|look| (look / 50).min(100)),
            5000 * LOOK + GROWING + LOOK
        );
    }

    #[test]
    fn case_24_a_guest_that_gets_no_nearer_holds_nobody_up() {
        let grows = waited(|_| 10);
        let shrinks = waited(|_| 1010);
        assert!(grows <= GROWING + LOOK && shrinks <= SHRINKING + LOOK);
        // There is always something new about these.
        assert!(waited(|look| 10 + look % 2) <= GROWING + 2 * LOOK);
        assert!(waited(|look| 1010 + look % 2) <= SHRINKING + 2 * LOOK);
        assert!(waited(|look| 10 + look % 900 / 10) <= 2 * GROWING);
        // And this one will never be through.
        assert!(waited(|look| look / 900) <= LONGEST + LOOK);
    }
}
