//! The connection on which the agent tells the host that it lives, and why it stops.
#![allow(unsafe_code)] // the panic hook knows the connection by number only

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::panic;
use std::sync::atomic::{AtomicI32, Ordering};

use agent_protocol::PROTOCOL_VERSION;
use agent_protocol::frame::encode_frame;
use agent_protocol::proto::{AgentEvent, AgentHello, Failure, HelloResponse};
use protobuf::Message;
use rustix::net::SendFlags;

use crate::kmsg;
use crate::transport::Transport;

/// Longest text of a failure in characters; the rest is cut.
const MAX_FAILURE_LEN: usize = 4096;

/// Descriptor of the lifeline, or -1. Only for failures, which can happen anywhere.
static LIFELINE: AtomicI32 = AtomicI32::new(-1);

/// Dials the host and says hello. Calls must be accepted already.
pub(crate) fn dial(transport: &Transport) -> io::Result<OwnedFd> {
    let socket = transport.dial_lifeline()?;
    let hello = identity();
    let mut event = AgentEvent::new();
    event.set_hello(AgentHello {
        protocol_version: hello.protocol_version,
        agent_version: hello.agent_version,
        kernel_release: hello.kernel_release,
        ..Default::default()
    });
    // A few dozen bytes: a new connection takes them at once.
    rustix::net::send(&socket, &frame(&event), SendFlags::NOSIGNAL)?;
    LIFELINE.store(socket.as_raw_fd(), Ordering::Relaxed);
    Ok(socket)
}

/// What the agent says of itself, here and in answer to the host's hello.
pub(crate) fn identity() -> HelloResponse {
    HelloResponse {
        protocol_version: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        ..Default::default()
    }
}

/// An event as bytes.
pub(crate) fn frame(event: &AgentEvent) -> Vec<u8> {
    // Fails only for events of more than MAX_FRAME_LEN bytes, which the agent does not make.
    event
        .write_to_bytes()
        .ok()
        .and_then(|bytes| encode_frame(&bytes).ok())
        .unwrap_or_default()
}

/// Stops knowing the lifeline: it was closed, or this process is no longer the agent.
pub(crate) fn forget() {
    LIFELINE.store(-1, Ordering::Relaxed);
}

/// Tells the host and the console why the agent cannot go on.
pub(crate) fn report_failure(message: &str) {
    kmsg::log(kmsg::Level::Error, message);
    let lifeline = LIFELINE.load(Ordering::Relaxed);
    if lifeline < 0 {
        return;
    }
    let mut event = AgentEvent::new();
    let message = message.chars().take(MAX_FAILURE_LEN).collect();
    event.set_failure(Failure {
        message,
        ..Default::default()
    });
    // SAFETY: the number is that of the open lifeline; whoever closes it calls `forget` first.
    let socket = unsafe { BorrowedFd::borrow_raw(lifeline) };
    let _ = rustix::net::send(
        socket,
        &frame(&event),
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    );
}

/// Makes a panic a reported failure.
pub(crate) fn report_panics() {
    panic::set_hook(Box::new(|info| {
        report_failure(&format!("agent panicked: {info}"))
    }));
}
