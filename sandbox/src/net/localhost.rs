//! The localhost of a pod's network namespace, where the host looks for the pod's own.
//!
//! ```text
//!   network namespace                                       guest
//!   who dials ──▶ 127.0.0.1:PORT ─ ─ ✕ nobody listens       server on 127.0.0.1:PORT
//!                       │                                      ▲
//!                       ▼ BPF, at the lookup of the socket      │ stream over vsock
//!                 one listener for all ports ──▶ caller ────────┘
//! ```
//!
//! Port forwarding dials `localhost` in there, while the servers listen in the guest. A program that the
//! kernel asks when it looks for a connection's socket (`BPF_PROG_TYPE_SK_LOOKUP`, since Linux 5.9) gives
//! every TCP port of 127.0.0.0/8 to one listening socket; an accepted connection's own address still is
//! the one that was dialed. No rule of a firewall is needed, and nothing stays: the program is in force
//! as long as its descriptor is open.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use super::bpf::{self, Instruction};
use super::{NetError, Netns};

/// Listens on all TCP ports of a network namespace's localhost.
#[derive(Debug)]
pub struct Localhost {
    listener: TcpListener,
    attached: OwnedFd,
}

impl Localhost {
    /// Takes over the localhost of `netns`. Only addresses of IPv4: who looks for a server tries them
    /// first.
    ///
    /// # Errors
    /// [`NetError::Localhost`]: the kernel is older than 5.9, or without BPF.
    pub fn listen(netns: &Netns) -> Result<Self, NetError> {
        let failed = |cause| NetError::Localhost { cause };
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed))?;
        let attached = steer(&listener, netns).map_err(failed)?;
        Ok(Self { listener, attached })
    }

    /// The socket, and what has to be kept as long as connections are to come to it.
    #[must_use]
    pub fn into_parts(self) -> (TcpListener, OwnedFd) {
        (self.listener, self.attached)
    }
}

fn steer(listener: &TcpListener, netns: &Netns) -> io::Result<OwnedFd> {
    let table = bpf::socket_table()?;
    bpf::put(&table, listener)?;
    let program = bpf::load(&program(&table))?;
    // The program holds the table, and what is attached the program.
    bpf::attach(&program, netns)
}

/// Members of `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;

/// Helpers of the kernel.
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

/// The program's answer: go on, with the socket that was chosen or as ever.
const SK_PASS: i32 = 1;
/// First byte of 127.0.0.0/8, which is the lowest of an address read in the network's order.
const LOOPBACK: i32 = 127;

/// Chooses the socket of `table` for TCP to 127.0.0.0/8.
fn program(table: &OwnedFd) -> [Instruction; 24] {
    let to_end = |at: i16| 22 - at - 1;
    [
        copy(6, 1),
        load(2, 1, PROTOCOL),
        unless_equal(2, libc::IPPROTO_TCP, to_end(2)),
        load(2, 1, FAMILY),
        unless_equal(2, libc::AF_INET, to_end(4)),
        load(2, 1, LOCAL_IP4),
        and(2, 0xff),
        unless_equal(2, LOOPBACK, to_end(7)),
        // The key, on the stack: 0.
        instruction(0x62, 10, 0, -4, 0),
        copy(2, 10),
        add(2, -4),
        // The table's address, which the kernel puts in the place of the descriptor; two words.
        instruction(0x18, 1, 1, 0, table.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        call(MAP_LOOKUP_ELEM),
        // No socket: as ever.
        instruction(0x15, 0, 0, to_end(14), 0),
        copy(7, 0),
        copy(1, 6),
        copy(2, 7),
        set(3, 0),
        call(SK_ASSIGN),
        copy(1, 7),
        call(SK_RELEASE),
        set(0, SK_PASS),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    }
}

/// Copies a register.
fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// Puts a number into a register.
fn set(to: u8, number: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, number)
}

fn add(to: u8, number: i32) -> Instruction {
    instruction(0x07, to, 0, 0, number)
}

fn and(to: u8, number: i32) -> Instruction {
    instruction(0x57, to, 0, 0, number)
}

/// Reads 32 bits at an offset to the address in a register.
fn load(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// Leaves out so many instructions.
fn unless_equal(register: u8, number: i32, leave_out: i16) -> Instruction {
    instruction(0x55, register, 0, leave_out, number)
}

fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}
