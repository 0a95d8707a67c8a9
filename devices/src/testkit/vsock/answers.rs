//! What the guest does by itself: it takes packets and answers them as Linux does.

use std::time::Instant;

use vmm_sys_util::epoll::EpollEvent;

use super::socket::Socket;
use super::{GuestVsock, PATIENCE, SocketId, State};
use crate::vsock::spec::{Header, Op, SHUTDOWN_BOTH};

impl GuestVsock {
    /// Takes everything that the device has delivered; whether there was anything.
    pub fn poll(&mut self) -> bool {
        let mut is_news = false;
        while let Some(event) = self.rings.take_event(&mut self.driver) {
            self.events.push(event);
            // As Linux: all connections are lost.
            self.sockets.clear();
            is_news = true;
        }
        while let Some(header) = self.rings.receive(&mut self.driver) {
            self.handle(&header);
            is_news = true;
        }
        if is_news {
            self.rings.refill(&mut self.driver);
        }
        is_news
    }

    /// Polls until `ready` gives something, sleeping on the interrupt line in between.
    ///
    /// # Panics
    /// When that takes more than 20 seconds.
    pub fn wait_for<T>(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let is_news = self.poll();
            if let Some(result) = ready(self) {
                return result;
            }
            if !is_news {
                assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
                // The time limit covers conditions that the device does not announce.
                let _ = self.wake.wait(2, &mut [EpollEvent::default()]);
            }
        }
    }

    pub(super) fn control(&mut self, id: SocketId, op: Op, flags: u32) {
        let cid = self.cid;
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        let header = socket.header(cid, id, op, flags, 0);
        self.send_packet(&header, &[]);
    }

    fn handle(&mut self, header: &Header) {
        let id = SocketId {
            guest_port: header.dst_port.get(),
            host_port: header.src_port.get(),
        };
        let op = Op::new(header.op.get()).expect("a known operation");
        if op == Op::Request && self.listening.contains(&id.guest_port) {
            let mut socket = Socket::new(State::Connected, self.buffer);
            socket.take_credit(header);
            self.sockets.insert(id, socket);
            self.accepted.push_back(id);
            return self.control(id, Op::Response, 0);
        }
        let Some(socket) = self.sockets.get_mut(&id) else {
            self.strays.push_back(*header);
            if op != Op::Rst {
                let reply = self.header(id, Op::Rst as u16);
                self.send_packet(&reply, &[]);
            }
            return;
        };
        socket.take_credit(header);
        match op {
            Op::Response => socket.state = State::Connected,
            Op::Rst => {
                socket.state = State::Closed;
                socket.peer_shut = SHUTDOWN_BOTH;
            }
            Op::Shutdown => {
                socket.peer_shut |= header.flags.get();
                // As Linux: over on both sides and nothing left to read, so confirm.
                if socket.peer_shut == SHUTDOWN_BOTH && socket.data.is_empty() {
                    socket.state = State::Closed;
                    self.control(id, Op::Rst, 0);
                }
            }
            Op::Rw => {
                let len = header.len.get() as usize;
                socket.data.extend(self.rings.payload(len));
                assert!(
                    !self.is_credit_checked || socket.data.len() <= self.buffer as usize,
                    "the device went beyond its credit"
                );
            }
            Op::CreditRequest => self.control(id, Op::CreditUpdate, 0),
            Op::CreditUpdate | Op::Request => {}
        }
    }
}
