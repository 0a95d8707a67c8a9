//! The methods of service Agent about what containers and the guest have and use.

use std::collections::HashMap;

use agent_protocol::names::ExecId;
use agent_protocol::proto::{
    AttachBlockRequest, AttachBlockResponse, DetachBlockRequest, DetachBlockResponse,
    ListProcessesRequest, ListProcessesResponse, OnlineCpusRequest, OnlineCpusResponse,
    PauseContainerRequest, PauseContainerResponse, ProcessInfo, ResumeContainerRequest,
    ResumeContainerResponse, SetupNetworkRequest, SetupNetworkResponse, StatsRequest,
    StatsResponse, UpdateContainerRequest, UpdateContainerResponse,
};

use rustix::process::Pid;

use super::service::Reply;
use super::{Refusal, ReplyTo, answer};
use crate::blocks::Slots;
use crate::container::Update;
use crate::cpus::Cpus;
use crate::events::{Interest, Kind, Token};
use crate::job::Subject;
use crate::network;
use crate::server::Agent;
use crate::stats;

/// Most processes of a container that are listed.
const MAX_PROCESSES: usize = 16_384;

pub(super) fn set_up_network(request: &SetupNetworkRequest) -> Reply<SetupNetworkResponse> {
    network::set_up(request)?;
    Ok(Some(SetupNetworkResponse::new()))
}

pub(super) fn online_cpus(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &OnlineCpusRequest,
) -> Reply<OnlineCpusResponse> {
    let (count, now) = (request.count, cpus()?);
    if count == 0 || count > now.present {
        return Err(Refusal::invalid(format!(
            "count {count}: the guest has {} CPUs",
            now.present
        )));
    }
    if count == now.online {
        return Ok(Some(now));
    }
    let work = || Cpus::of_guest().bring_online(count);
    agent.jobs.start(Subject::Cpus, reply, work)?;
    Ok(None)
}

/// How many CPUs there are now.
pub(super) fn cpus() -> Result<OnlineCpusResponse, Refusal> {
    let cpus = Cpus::of_guest();
    let failed = |error| Refusal::internal(format!("CPUs: {error}"));
    Ok(OnlineCpusResponse {
        online: cpus.online().map_err(failed)?,
        present: cpus.present().map_err(failed)?,
        ..Default::default()
    })
}

pub(super) fn attach_block(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &AttachBlockRequest,
) -> Reply<AttachBlockResponse> {
    let slots = Slots::of_guest();
    let slot = slots.at(request.address)?;
    let subject = Subject::Attach(request.address);
    agent.jobs.start(subject, reply, || slots.bind(&slot))?;
    Ok(None)
}

/// The disk that has come to this address.
pub(super) fn attached(address: u64) -> Result<AttachBlockResponse, Refusal> {
    let slots = Slots::of_guest();
    let disk = slots.disk(&slots.at(address)?).map_err(Refusal::internal)?;
    Ok(AttachBlockResponse {
        major: disk.major,
        minor: disk.minor,
        name: disk.name,
        ..Default::default()
    })
}

pub(super) fn detach_block(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &DetachBlockRequest,
) -> Reply<DetachBlockResponse> {
    let slots = Slots::of_guest();
    let slot = slots.at(request.address)?;
    let subject = Subject::Detach(request.address);
    agent.jobs.start(subject, reply, || slots.unbind(&slot))?;
    Ok(None)
}

pub(super) fn update(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &UpdateContainerRequest,
) -> Reply<UpdateContainerResponse> {
    let container = agent.containers.get(&request.container_id)?;
    let update = Update::new(&request.resources_json)?;
    if !container.is_alive() {
        return Err(Refusal::precondition("the container has exited"));
    }
    let work = || update.apply(container.cgroup());
    let subject = Subject::Limits(container.serial());
    agent.jobs.start(subject, reply, work)?;
    Ok(None)
}

pub(super) fn pause(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &PauseContainerRequest,
) -> Reply<PauseContainerResponse> {
    let container = agent.containers.get(&request.container_id)?;
    let serial = container.serial();
    let Some(events) = container.pause(reply)? else {
        return Ok(Some(PauseContainerResponse::new()));
    };
    let token = Token::new(Kind::FreezerEvents, serial);
    if let Err(error) = agent.poller.add(events, token, Interest::Change) {
        // The answer to this call is taken back.
        let _ = container.resume(&mut Vec::new());
        return Err(Refusal::internal(format!("cgroup.events: {error}")));
    }
    // It may be paused already, before there was anybody to hear of it.
    agent.on_freezer_event(serial);
    Ok(None)
}

pub(super) fn resume(
    agent: &mut Agent,
    request: &ResumeContainerRequest,
) -> Reply<ResumeContainerResponse> {
    let mut answers = Vec::new();
    let container = agent.containers.get(&request.container_id)?;
    let given_up = container.resume(&mut answers)?;
    agent.unwatch(given_up.as_ref());
    for overtaken in answers {
        answer(agent, overtaken);
    }
    Ok(Some(ResumeContainerResponse::new()))
}

pub(super) fn list(
    agent: &mut Agent,
    request: &ListProcessesRequest,
) -> Reply<ListProcessesResponse> {
    let container = agent.containers.get(&request.container_id)?;
    let (pids, all) = container
        .cgroup()
        .processes(MAX_PROCESSES)
        .map_err(|error| Refusal::internal(format!("cgroup.procs: {error}")))?;
    let names: HashMap<Pid, &ExecId> = container.further_pids().collect();
    let info = |pid: Pid| ProcessInfo {
        pid: pid.as_raw_nonzero().get() as u32,
        exec_id: names.get(&pid).map(|id| id.to_string()).unwrap_or_default(),
        ..Default::default()
    };
    Ok(Some(ListProcessesResponse {
        processes: pids.into_iter().map(info).collect(),
        truncated: !all,
        ..Default::default()
    }))
}

pub(super) fn stats(agent: &mut Agent, request: &StatsRequest) -> Reply<StatsResponse> {
    let id = request.container_id.as_str();
    let containers = if id.is_empty() {
        let all = agent.containers.visible();
        all.map(|(id, container)| stats::container(id.as_str(), container.cgroup()))
            .collect()
    } else {
        vec![stats::container(id, agent.containers.get(id)?.cgroup())]
    };
    Ok(Some(stats::response(containers)))
}
