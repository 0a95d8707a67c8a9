//! The agent's first connection: says hello, and says why if it has to die.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_protocol::frame::read_message;
use agent_protocol::proto::{AgentEvent, AgentHello, agent_event};
use agent_protocol::{LIFELINE_PORT, check_versions};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::events::{EventSink, PodEvent};
use crate::launch::VmmProcess;
use crate::pod::PodError;

/// How long a hello that has begun may take to arrive.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);

/// The socket on which the agent is awaited. Gone from the file system as soon as it has come: no
/// container can pose as an agent later.
pub struct Awaiting {
    listener: UnixListener,
    path: PathBuf,
}

/// What the agent said before it died, if it did.
#[derive(Clone, Debug, Default)]
pub struct LastWords(Arc<Mutex<Option<String>>>);

impl LastWords {
    /// The agent's reason, if it gave one.
    pub fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Awaiting {
    /// Listens where the VMM looks when the guest dials the lifeline's port.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(vsock: &Path) -> io::Result<Self> {
        let path = PathBuf::from(format!("{}_{LIFELINE_PORT}", vsock.display()));
        Ok(Self {
            listener: UnixListener::bind(&path)?,
            path,
        })
    }

    /// Waits until the agent says hello.
    ///
    /// # Errors
    /// [`PodError`] when the VM ends first, the time is over or the agent is of another version.
    pub fn hello(
        self,
        vmm: &VmmProcess,
        timeout: Duration,
        cancel: Option<BorrowedFd<'_>>,
        events: EventSink,
    ) -> Result<(AgentHello, LastWords), PodError> {
        let deadline = Instant::now() + timeout;
        let mut stream = loop {
            // Without a way to cancel, the listener stands in twice.
            let cancel_or_listener = cancel.unwrap_or(self.listener.as_fd());
            let fds = [self.listener.as_fd(), vmm.control(), cancel_or_listener];
            let ready = wait(&fds, deadline)?;
            if ready[2] && cancel.is_some() {
                return Err(PodError::Cancelled);
            }
            if ready[1] {
                vmm.next_report()?;
            }
            if ready[0] {
                let (stream, _) = self.listener.accept().map_err(PodError::Connect)?;
                break stream;
            }
        };
        // Whoever connects and stays silent must not hold the start longer than allowed either.
        loop {
            let cancel_or_stream = cancel.unwrap_or(stream.as_fd());
            let ready = wait(&[stream.as_fd(), vmm.control(), cancel_or_stream], deadline)?;
            if ready[2] && cancel.is_some() {
                return Err(PodError::Cancelled);
            }
            if ready[0] {
                break;
            }
            vmm.next_report()?;
        }
        stream
            .set_read_timeout(Some(HELLO_TIMEOUT))
            .map_err(PodError::Connect)?;
        let first: Option<AgentEvent> = read_message(&mut stream).map_err(PodError::Hello)?;
        let hello = match first.and_then(|event| event.event) {
            Some(agent_event::Event::Hello(hello)) => hello,
            Some(agent_event::Event::Failure(failure)) => {
                return Err(PodError::Agent {
                    message: failure.message,
                });
            }
            _ => {
                return Err(PodError::Agent {
                    message: "it did not say hello first".into(),
                });
            }
        };
        check_versions(agent_protocol::PROTOCOL_VERSION, hello.protocol_version)
            .map_err(PodError::Version)?;
        stream.set_read_timeout(None).map_err(PodError::Connect)?;
        Ok((hello, listen_on(stream, events)))
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits until one of the descriptors is readable; tells which.
fn wait(fds: &[BorrowedFd<'_>; 3], deadline: Instant) -> Result<[bool; 3], PodError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(PodError::BootTimeout);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut set = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut set, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) | Ok(0) => {}
            Err(errno) => return Err(PodError::Connect(errno.into())),
            Ok(_) => return Ok(set.map(|fd| !fd.revents().is_empty())),
        }
    }
}

/// Keeps reading what the agent says.
fn listen_on(mut stream: UnixStream, mut events: EventSink) -> LastWords {
    let words = LastWords::default();
    let heard = words.clone();
    let reader = std::thread::Builder::new()
        .name("lifeline".into())
        .stack_size(128 * 1024);
    // Without this thread a failure is still seen, only without its reason.
    let _ = reader.spawn(move || {
        while let Ok(Some(event)) = read_message::<AgentEvent, _>(&mut stream) {
            if let Some(agent_event::Event::Failure(failure)) = &event.event {
                let mut last = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some(failure.message.clone());
            }
            if let Some(event) = PodEvent::from_wire(event) {
                events.tell(event);
            }
        }
        events.tell(PodEvent::AgentGone);
    });
    words
}
