//! What the agent and a container's first process say to each other before that becomes the command.
//!
//! ```text
//!   agent                       first process
//!     │ ◄── Ready [terminal] ──── everything but exec is done
//!     │ ──── start ─────────────►
//!     │ ◄── end of file ───────── exec has closed the socket: the command runs
//!     │ ◄── NotFound, ... ─────── or why not
//! ```

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Longest text of a message in bytes; the rest is cut.
const MAX_TEXT_LEN: usize = 4096;

/// From the first process.
#[derive(Debug)]
pub(crate) enum Message {
    /// Waiting for the start. Holds the terminal's master side if there is one.
    Ready(Option<OwnedFd>),
    /// Cannot become a container.
    SetupFailed(String),
    /// No such command.
    CommandNotFound(String),
    /// There is such a file, but it cannot be executed.
    CommandNotExecutable(String),
    /// The command could not be executed for another reason.
    ExecFailed(String),
    /// The command runs, or the process ended; only its exit status tells which.
    Closed,
}

const READY: u8 = 0;
const SETUP_FAILED: u8 = 1;
const NOT_FOUND: u8 = 2;
const NOT_EXECUTABLE: u8 = 3;
const EXEC_FAILED: u8 = 4;

/// A connection for one container: the agent's end, which does not block, and the other.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (agent, child) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::ioctl_fionbio(&agent, true)?;
    Ok((agent, child))
}

/// Lets the first process go on to the command.
pub(crate) fn send_start(socket: impl AsFd) -> io::Result<()> {
    rustix::net::send(socket, &[1], SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for [`send_start`]; false if the agent will not send it any more.
pub(crate) fn wait_for_start(socket: impl AsFd) -> io::Result<bool> {
    let mut byte = [0];
    let receive = || rustix::net::recv(&socket, &mut byte, RecvFlags::empty());
    let (count, _) = rustix::io::retry_on_intr(receive)?;
    Ok(count > 0)
}

/// Sends one message, from the first process.
pub(crate) fn send(socket: impl AsFd, message: &Message) -> io::Result<()> {
    let (kind, text, terminal) = match message {
        Message::Ready(terminal) => (READY, "", terminal.as_ref()),
        Message::SetupFailed(text) => (SETUP_FAILED, text.as_str(), None),
        Message::CommandNotFound(text) => (NOT_FOUND, text.as_str(), None),
        Message::CommandNotExecutable(text) => (NOT_EXECUTABLE, text.as_str(), None),
        Message::ExecFailed(text) => (EXEC_FAILED, text.as_str(), None),
        Message::Closed => return Ok(()),
    };
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT_LEN)];
    let fds: Vec<BorrowedFd<'_>> = terminal.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let parts = [
        IoSlice::new(std::slice::from_ref(&kind)),
        IoSlice::new(text),
    ];
    rustix::net::sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes one message if there is one.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut bytes = [0; 1 + MAX_TEXT_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let result = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    );
    let count = match result {
        Ok(message) => message.bytes,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    let terminal = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .next();
    let Some((kind, text)) = bytes[..count].split_first() else {
        return Ok(Some(Message::Closed));
    };
    let text = String::from_utf8_lossy(text).into_owned();
    Ok(Some(match *kind {
        READY => Message::Ready(terminal),
        NOT_FOUND => Message::CommandNotFound(text),
        NOT_EXECUTABLE => Message::CommandNotExecutable(text),
        EXEC_FAILED => Message::ExecFailed(text),
        _ => Message::SetupFailed(text),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_their_terminal_arrive() {
        let (agent, child) = pair().unwrap();
        assert!(receive(&agent).unwrap().is_none());
        let terminal = std::fs::File::open("/dev/null").unwrap().into();
        send(&child, &Message::Ready(Some(terminal))).unwrap();
        send(&child, &Message::CommandNotFound("nope".to_owned())).unwrap();
        drop(child);
        assert!(matches!(
            receive(&agent).unwrap(),
            Some(Message::Ready(Some(_)))
        ));
        assert!(
            matches!(receive(&agent).unwrap(), Some(Message::CommandNotFound(text)) if text == "nope")
        );
        assert!(matches!(receive(&agent).unwrap(), Some(Message::Closed)));
    }

    #[test]
    fn a_long_text_is_cut_not_lost() {
        let (agent, child) = pair().unwrap();
        send(&child, &Message::SetupFailed("x".repeat(100_000))).unwrap();
        let Some(Message::SetupFailed(text)) = receive(&agent).unwrap() else {
            panic!("another message");
        };
        assert_eq!(text.len(), MAX_TEXT_LEN);
    }

    #[test]
    fn start_and_its_absence_are_told_apart() {
        let (agent, child) = pair().unwrap();
        send_start(&agent).unwrap();
        assert!(wait_for_start(&child).unwrap());
        drop(agent);
        assert!(!wait_for_start(&child).unwrap());
    }
}
