//! bpf(2): a program of the kernel's that chooses the socket for a connection.
#![allow(unsafe_code, reason = "no safe wrapper knows bpf(2)")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use zerocopy::{Immutable, IntoBytes};

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

const MAP_TYPE_SOCKMAP: u32 = 15;
const PROG_TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;

/// Says nothing about who may use it: no helper that is called is for programs under the GPL alone.
const LICENSE: &CStr = c"Apache-2.0";

/// One instruction.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u8,
    /// Source register in the upper four bits, destination in the lower.
    pub registers: u8,
    /// Of memory, or of the instruction to go on with.
    pub offset: i16,
    /// A constant.
    pub immediate: i32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapUpdate {
    map: i32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LinkCreate {
    program: i32,
    target: i32,
    attach_type: u32,
    flags: u32,
}

/// A table with room for one listening socket.
pub fn socket_table() -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        map_type: MAP_TYPE_SOCKMAP,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<u64>() as u32,
        max_entries: 1,
    };
    // SAFETY: the attributes have no addresses.
    descriptor(unsafe { bpf(MAP_CREATE, &attributes) })
}

/// Puts a socket into a table of one.
pub fn put(table: &OwnedFd, socket: impl AsFd) -> io::Result<()> {
    let key = 0_u32;
    let value = u64::from(socket.as_fd().as_raw_fd().cast_unsigned());
    let attributes = MapUpdate {
        map: table.as_raw_fd(),
        _pad: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: key and value have the sizes that the table was made with, and outlive the call, which
    // reads them and keeps no address.
    done(unsafe { bpf(MAP_UPDATE_ELEM, &attributes) }).map(drop)
}

/// Has the kernel check a program that chooses sockets, and translate it.
pub fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..9].copy_from_slice(b"localhost");
    let attributes = ProgramLoad {
        program_type: PROG_TYPE_SK_LOOKUP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: LICENSE.as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        expected_attach_type: ATTACH_SK_LOOKUP,
    };
    // SAFETY: there are as many instructions as said and the licence ends with a zero; both outlive the
    // call, which copies them.
    descriptor(unsafe { bpf(PROG_LOAD, &attributes) })
}

/// Puts a program in force in a network namespace, for as long as the descriptor is open.
pub fn attach(program: &OwnedFd, netns: impl AsFd) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd(),
        target: netns.as_fd().as_raw_fd(),
        attach_type: ATTACH_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: the attributes have no addresses.
    descriptor(unsafe { bpf(LINK_CREATE, &attributes) })
}

/// # Safety
/// Addresses in the attributes must be of what the command reads or writes there.
unsafe fn bpf<T: IntoBytes + Immutable>(command: libc::c_int, attributes: &T) -> libc::c_long {
    // SAFETY: the attributes are as long as said; the caller vouches for the addresses in them.
    unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_bytes().as_ptr(),
            size_of::<T>(),
        )
    }
}

fn done(result: libc::c_long) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = done(result)?;
    // SAFETY: the kernel has just made this descriptor for the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
