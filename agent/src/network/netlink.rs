//! A conversation with the kernel's routing tables.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Link;
use super::wire::{self, Attributes, Message, Messages};
use crate::sys::network;

/// Longest answer that is read at once: what the kernel makes of a list at most.
const ANSWER_LEN: usize = 32 * 1024;
/// `struct nlmsgerr`: an error number, then the request's header.
const ERROR_LEN: usize = 20;
/// NLMSGERR_ATTR_MSG of linux/netlink.h.
const ERROR_TEXT: u16 = 1;

/// A socket of NETLINK_ROUTE.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is number 0.
            None,
        )?;
        // Errors are then told in words as well, where the kernel has some.
        network::explain_errors(&socket)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request that is acknowledged.
    pub(super) fn acknowledged(&mut self, message: Message) -> io::Result<()> {
        let sequence = self.send(message)?;
        let answer = self.receive()?;
        for (header, body) in Messages(&answer) {
            if header.sequence == sequence && header.kind == libc::NLMSG_ERROR as u16 {
                return acknowledgement(body);
            }
        }
        Err(io::Error::other("the kernel gave no acknowledgement"))
    }

    /// Lists all interfaces.
    pub(super) fn list_links(&mut self) -> io::Result<Vec<Link>> {
        let sequence = self.send(wire::list_links())?;
        let mut links = Vec::new();
        loop {
            let answer = self.receive()?;
            for (header, body) in Messages(&answer) {
                match i32::from(header.kind) {
                    _ if header.sequence != sequence => {}
                    libc::NLMSG_DONE => return Ok(links),
                    libc::NLMSG_ERROR => acknowledgement(body)?,
                    kind if kind == i32::from(libc::RTM_NEWLINK) => links.extend(wire::link(body)),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: Message) -> io::Result<u32> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(self.sequence)
    }

    /// Reads what there is. The kernel has answered by the time that a request has been sent.
    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; ANSWER_LEN];
        let (count, _) =
            match rustix::net::recv(&self.socket, answer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return Err(io::Error::other("the kernel gave no answer")),
                result => result?,
            };
        answer.truncate(count);
        Ok(answer)
    }
}

/// What an NLMSG_ERROR says; number 0 is no error.
fn acknowledgement(body: &[u8]) -> io::Result<()> {
    let Some((number, _)) = body.split_first_chunk() else {
        return Err(io::Error::other("the kernel's answer is too short"));
    };
    let number = i32::from_ne_bytes(*number);
    if number == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(-number);
    let words = Attributes(body.get(ERROR_LEN..).unwrap_or_default())
        .find(|(kind, _)| *kind == ERROR_TEXT)
        .map(|(_, text)| String::from_utf8_lossy(text.strip_suffix(b"\0").unwrap_or(text)));
    Err(match words {
        Some(words) => io::Error::new(error.kind(), format!("{words} ({error})")),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_the_kernels_words() {
        acknowledgement(&[0; ERROR_LEN]).unwrap();
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.resize(ERROR_LEN, 0);
        let plain = acknowledgement(&body).unwrap_err();
        assert_eq!(plain.raw_os_error(), Some(libc::EINVAL));
        body.extend(7u16.to_ne_bytes());
        body.extend(ERROR_TEXT.to_ne_bytes());
        body.extend(b"no\0\0");
        let told = acknowledgement(&body).unwrap_err().to_string();
        assert!(
            told.starts_with("no\0 (") || told.starts_with("no ("),
            "{told}"
        );
        assert!(acknowledgement(&[1]).is_err());
    }
}
