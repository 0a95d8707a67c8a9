//! A pod's VM grows and shrinks while it runs.
//!
//! ```text
//!   grow:    VMM: vCPUs, memory ──▶ agent: CPUs online    wait: the guest's kernel plugs memory
//!   shrink:  VMM: wants memory back, agent: CPUs offline  wait: it unplugs what it can do without
//! ```
//!
//! Waiting ends when nothing has changed for a while: a guest can be busy, or not willing.

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
    let mut since = Instant::now();
    while size.memory != size.wanted_memory {
        let patience = if size.memory < size.wanted_memory {
            GROWING
        } else {
            SHRINKING
        };
        if since.elapsed() > patience {
            break;
        }
        sleep(LOOK);
        let now = vmm.size()?;
        if now != size {
            (size, since) = (now, Instant::now());
        }
    }
    Ok(size)
}
