//! The methods of service Agent: which there are, and those about processes.

use agent_protocol::proto::{
    CloseStdinRequest, CloseStdinResponse, CreateContainerRequest, CreateContainerResponse,
    DetachBlockResponse, ExecProcessRequest, ExecProcessResponse, HelloRequest, HelloResponse,
    MakeVolumeRequest, MakeVolumeResponse, PauseContainerResponse, PowerOffRequest,
    PowerOffResponse, ReadVolumeFileRequest, ReadVolumeFileResponse, RemoveContainerRequest,
    RemoveContainerResponse, ResizePtyRequest, ResizePtyResponse, RunProcessResponse,
    SetupPodRequest, SetupPodResponse, SignalContainerRequest, SignalContainerResponse,
    StartContainerRequest, StartContainerResponse, UpdateContainerResponse, WaitContainerRequest,
    WaitContainerResponse,
};
use agent_protocol::{PROTOCOL_VERSION, SERVICE, check_versions};
use protobuf::Message;
use ttrpc::Request;

use super::codec::Incoming;
use super::{Refusal, ReplyTo, resources};
use crate::container::{
    Answer, Container, Fate, Outcome, Pids, Plan, Process, container_id, exec_id, window_size,
};
use crate::events::{Interest, Kind, Poller, Token};
use crate::lifeline;
use crate::pids;
use crate::pod;
use crate::server::Agent;
use crate::volume;

/// A method's answer; none if it comes later.
pub(super) type Reply<T> = Result<Option<T>, Refusal>;

/// Reads a connection and carries out what it asks for. False at its end.
pub(crate) fn serve(agent: &mut Agent, id: u64) -> bool {
    let Some(connection) = agent.connections.get_mut(&id) else {
        return true;
    };
    let mut incoming = Vec::new();
    let open = connection.receive(&mut incoming).unwrap_or(false);
    for message in incoming {
        let (stream, result) = match message {
            Incoming::Bad { stream, refusal } => (stream, Err(refusal)),
            Incoming::Request { stream, request } => {
                let reply = ReplyTo {
                    connection: id,
                    stream,
                };
                match call(agent, reply, &request).transpose() {
                    Some(result) => (stream, result),
                    None => continue,
                }
            }
        };
        if !send(agent, id, stream, result) {
            return false;
        }
    }
    open
}

/// Sends the answer to a call that had to wait; a connection that is gone needs none.
pub(crate) fn answer(agent: &mut Agent, answer: Answer) {
    let result = answer.result.and_then(|outcome| match outcome {
        Outcome::Created(pid) => serialise(&CreateContainerResponse {
            pid,
            ..Default::default()
        }),
        Outcome::Added(pid) => serialise(&ExecProcessResponse {
            pid,
            ..Default::default()
        }),
        Outcome::Removed => serialise(&RemoveContainerResponse::new()),
        Outcome::Paused => serialise(&PauseContainerResponse::new()),
        Outcome::Updated => serialise(&UpdateContainerResponse::new()),
        Outcome::CpusChanged => resources::cpus().and_then(|cpus| serialise(&cpus)),
        Outcome::Attached(address) => {
            resources::attached(address).and_then(|disk| serialise(&disk))
        }
        Outcome::Detached => serialise(&DetachBlockResponse::new()),
        Outcome::Exited(status) => serialise(&exited(status)),
        Outcome::Started(error) => serialise(&StartContainerResponse {
            start_error: error.into(),
            ..Default::default()
        }),
        Outcome::Ran(pid) => serialise(&RunProcessResponse {
            pid,
            ..Default::default()
        }),
        Outcome::NotRun(error) => serialise(&RunProcessResponse {
            start_error: Some(error).into(),
            ..Default::default()
        }),
    });
    let ReplyTo { connection, stream } = answer.to;
    if !send(agent, connection, stream, result) {
        agent.disconnect(connection);
    }
}

fn send(agent: &mut Agent, id: u64, stream: u32, result: Result<Vec<u8>, Refusal>) -> bool {
    match agent.connections.get_mut(&id) {
        Some(connection) => connection.respond(stream, result, &agent.poller).is_ok(),
        None => true,
    }
}

fn call(agent: &mut Agent, reply: ReplyTo, request: &Request) -> Reply<Vec<u8>> {
    if request.service != SERVICE {
        return Err(Refusal::unimplemented(format!(
            "service {:?}",
            request.service
        )));
    }
    let payload = request.payload.as_slice();
    if request.method == "Hello" {
        return method(payload, |request| hello(agent, reply, &request));
    }
    let greeted = agent
        .connections
        .get(&reply.connection)
        .is_some_and(|known| known.greeted);
    if !greeted {
        return Err(Refusal::precondition("the first call must be Hello"));
    }
    if agent.is_stopping() && !matches!(request.method.as_str(), "WaitContainer" | "PowerOff") {
        return Err(Refusal::precondition("the guest is powering off"));
    }
    match request.method.as_str() {
        "SetupPod" => method(payload, |request| setup_pod(agent, &request)),
        "SetupNetwork" => method(payload, |request| resources::set_up_network(&request)),
        "MakeVolume" => method(payload, |request| make_volume(&request)),
        "ReadVolumeFile" => method(payload, |request| read_volume_file(&request)),
        "OnlineCpus" => method(payload, |request| {
            resources::online_cpus(agent, reply, &request)
        }),
        "AttachBlock" => method(payload, |request| {
            resources::attach_block(agent, reply, &request)
        }),
        "DetachBlock" => method(payload, |request| {
            resources::detach_block(agent, reply, &request)
        }),
        "CreateContainer" => method(payload, |request: CreateContainerRequest| {
            let made = create(agent, reply, &request);
            making(agent, request.stdio.get_or_default().ticket, made)
        }),
        "ExecProcess" => method(payload, |request: ExecProcessRequest| {
            let made = exec(agent, reply, &request, false);
            making(agent, request.stdio.get_or_default().ticket, made)
        }),
        "RunProcess" => method(payload, |request: ExecProcessRequest| {
            let made = exec(agent, reply, &request, true);
            making(agent, request.stdio.get_or_default().ticket, made)
        }),
        "StartContainer" => method(payload, |request| start(agent, reply, &request)),
        "WaitContainer" => method(payload, |request| wait(agent, reply, &request)),
        "SignalContainer" => method(payload, |request| signal(agent, &request)),
        "ResizePty" => method(payload, |request| resize(agent, &request)),
        "CloseStdin" => method(payload, |request| close_stdin(agent, &request)),
        "PauseContainer" => method(payload, |request| resources::pause(agent, reply, &request)),
        "ResumeContainer" => method(payload, |request| resources::resume(agent, &request)),
        "UpdateContainer" => method(payload, |request| resources::update(agent, reply, &request)),
        "ListProcesses" => method(payload, |request| resources::list(agent, &request)),
        "Stats" => method(payload, |request| resources::stats(agent, &request)),
        "RemoveContainer" => method(payload, |request| remove(agent, reply, &request)),
        "PowerOff" => method(payload, |request| power_off(agent, &request)),
        other => Err(Refusal::unimplemented(format!("method {other:?}"))),
    }
}

/// Parses a method's request and serialises its response.
fn method<Q: Message, R: Message>(
    payload: &[u8],
    run: impl FnOnce(Q) -> Reply<R>,
) -> Reply<Vec<u8>> {
    let request = Q::parse_from_bytes(payload).map_err(Refusal::invalid)?;
    run(request)?
        .map(|response| serialise(&response))
        .transpose()
}

fn serialise(message: &impl Message) -> Result<Vec<u8>, Refusal> {
    message.write_to_bytes().map_err(Refusal::internal)
}

fn hello(agent: &mut Agent, reply: ReplyTo, request: &HelloRequest) -> Reply<HelloResponse> {
    check_versions(request.protocol_version, PROTOCOL_VERSION).map_err(Refusal::precondition)?;
    if let Some(connection) = agent.connections.get_mut(&reply.connection) {
        connection.greeted = true;
    }
    Ok(Some(lifeline::identity()))
}

fn setup_pod(agent: &mut Agent, request: &SetupPodRequest) -> Reply<SetupPodResponse> {
    if agent.pod_is_set_up {
        return Err(Refusal::precondition("the pod is set up already"));
    }
    pod::set_up(request)?;
    if request.shared_pids {
        let holder = pids::hold();
        agent.shared_pids =
            Some(holder.map_err(|error| {
                Refusal::internal(format!("pid namespace of the pod: {error}"))
            })?);
    }
    agent.pod_is_set_up = true;
    Ok(Some(SetupPodResponse::new()))
}

fn make_volume(request: &MakeVolumeRequest) -> Reply<MakeVolumeResponse> {
    volume::make(request)?;
    Ok(Some(MakeVolumeResponse::new()))
}

fn read_volume_file(request: &ReadVolumeFileRequest) -> Reply<ReadVolumeFileResponse> {
    Ok(Some(ReadVolumeFileResponse {
        data: volume::read(request)?,
        ..Default::default()
    }))
}

fn create(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &CreateContainerRequest,
) -> Reply<CreateContainerResponse> {
    if !agent.pod_is_set_up {
        return Err(Refusal::precondition(
            "SetupPod comes before CreateContainer",
        ));
    }
    let id = container_id(&request.container_id)?;
    agent.containers.check_free(&id)?;
    let plan = Plan::new(request)?;
    let serial = agent.next_id();
    let stdio = request.stdio.get_or_default();
    let pids_of = match &plan.namespaces.pids {
        Pids::Own => None,
        Pids::Of(owner) => Some(agent.containers.get(owner.as_str())?.pids_to_share()?),
        Pids::OfPod => Some(agent.shared_pids.as_ref().ok_or_else(|| {
            Refusal::precondition("the pod has no shared pid namespace; name a container")
        })?),
    };
    let container = Container::create(&id, &plan, pids_of, stdio, serial, reply)?;
    let container = agent.containers.insert(id, container);
    if let Some(process) = container.made(None) {
        await_messages(process, &agent.poller);
    }
    agent.watch_memory(serial);
    Ok(None)
}

/// Turns away the streams of a process that is not to be.
fn making<T>(agent: &mut Agent, ticket: u64, made: Reply<T>) -> Reply<T> {
    made.inspect_err(|refusal| agent.refuse_early(ticket, &refusal.message))
}

fn exec(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &ExecProcessRequest,
    runs: bool,
) -> Reply<ExecProcessResponse> {
    let id = exec_id(&request.exec_id)?;
    agent.containers.check_room_for_further()?;
    let serial = agent.next_id();
    let container = agent.containers.get(&request.container_id)?;
    let process = container.add(id, runs, request, serial, reply)?;
    await_messages(process, &agent.poller);
    Ok(None)
}

/// Waits for what a new process says; what it says answers the call that made it.
fn await_messages(process: &mut Process, poller: &Poller) {
    let token = Token::new(Kind::Handshake, process.serial());
    let added = process.handshake().map_or(Ok(()), |handshake| {
        poller.add(handshake, token, Interest::Read)
    });
    if let Err(error) = added {
        process.fail(format!("wait for messages: {error}"));
    }
}

fn start(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &StartContainerRequest,
) -> Reply<StartContainerResponse> {
    process(agent, &request.container_id, &request.exec_id)?.start(reply)?;
    Ok(None)
}

fn wait(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &WaitContainerRequest,
) -> Reply<WaitContainerResponse> {
    let container = agent.containers.get(&request.container_id)?;
    let status = match (request.forget, request.exec_id.as_str()) {
        (false, exec_id) => container.process(exec_id)?.wait(reply),
        (true, "") => Err(Refusal::invalid("forget needs an exec_id")),
        (true, exec_id) => container.wait_and_forget(exec_id, reply),
    };
    Ok(status?.map(exited))
}

fn exited(status: agent_protocol::proto::ExitStatus) -> WaitContainerResponse {
    WaitContainerResponse {
        status: Some(status).into(),
        ..Default::default()
    }
}

fn signal(agent: &mut Agent, request: &SignalContainerRequest) -> Reply<SignalContainerResponse> {
    let container = agent.containers.get(&request.container_id)?;
    let process = container.process(&request.exec_id)?;
    let signal = i32::try_from(request.signal)
        .ok()
        .filter(|signal| (1..=libc::SIGRTMAX()).contains(signal))
        .ok_or_else(|| Refusal::invalid(format!("signal {}", request.signal)))?;
    match (request.all, request.exec_id.as_str()) {
        (false, _) => process.signal(signal),
        (true, "") => container.signal_all(signal),
        (true, _) => return Err(Refusal::invalid("all and exec_id exclude each other")),
    }
    .map_err(Refusal::internal)?;
    Ok(Some(SignalContainerResponse::new()))
}

fn resize(agent: &mut Agent, request: &ResizePtyRequest) -> Reply<ResizePtyResponse> {
    let size = window_size(request.rows, request.cols)?;
    let process = process(agent, &request.container_id, &request.exec_id)?;
    let streams = process.streams();
    let terminal = streams
        .terminal()
        .ok_or_else(|| Refusal::precondition("no terminal"))?;
    rustix::termios::tcsetwinsize(terminal, size)
        .map_err(|error| Refusal::internal(format!("resize: {error}")))?;
    Ok(Some(ResizePtyResponse::new()))
}

fn close_stdin(agent: &mut Agent, request: &CloseStdinRequest) -> Reply<CloseStdinResponse> {
    let process = process(agent, &request.container_id, &request.exec_id)?;
    let channel = process.streams().close_input();
    process.start_if_complete();
    if let Some(channel) = channel {
        agent.pump.end_source(channel, &agent.poller);
    }
    Ok(Some(CloseStdinResponse::new()))
}

fn remove(
    agent: &mut Agent,
    reply: ReplyTo,
    request: &RemoveContainerRequest,
) -> Reply<RemoveContainerResponse> {
    let container = agent.containers.get(&request.container_id)?;
    let gone = if request.exec_id.is_empty() {
        let fate = container.remove(request.force, reply)?;
        if fate == Fate::Gone {
            agent.forget(&request.container_id);
        }
        fate == Fate::Gone
    } else {
        container.remove_further(&request.exec_id, request.force, reply)?
    };
    Ok(gone.then(RemoveContainerResponse::new))
}

fn power_off(agent: &mut Agent, request: &PowerOffRequest) -> Reply<PowerOffResponse> {
    agent.begin_stop(request.grace_ms);
    Ok(Some(PowerOffResponse::new()))
}

fn process<'a>(agent: &'a mut Agent, id: &str, exec_id: &str) -> Result<&'a mut Process, Refusal> {
    agent.containers.process(id, exec_id)
}
