//! Ways out that are tried. None does harm where it works: the test runs each outside a jail as well,
//! to know that it would.
#![allow(
    unsafe_code,
    reason = "makes system calls that nobody else here has a use for"
)]

use std::ffi::CStr;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use libc::c_long;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

/// What an attempt has at hand.
pub struct Surroundings {
    pub writable: OwnedFd,
    pub read_only: OwnedFd,
    pub proc_fds: OwnedFd,
    pub number: u32,
}

pub type Attempt = fn(&Surroundings) -> io::Result<()>;

/// The attempt of this name.
pub fn named(name: &str) -> Option<Attempt> {
    ATTEMPTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, attempt)| *attempt)
}

const ATTEMPTS: &[(&str, Attempt)] = &[
    ("read-a-host-file", |_| read(CWD, c"/etc/passwd")),
    ("climb-from-a-share", |s| {
        read(&s.writable, c"../../../../../../../../../../etc/passwd")
    }),
    ("climb-from-proc", |s| read(&s.proc_fds, c"../../version")),
    ("look-at-a-process", |s| {
        let path = std::ffi::CString::new(format!("../../{}/cmdline", s.number))?;
        read(&s.proc_fds, &path)
    }),
    ("write-to-a-read-only-share", |s| {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(&s.read_only, c"new", flags, Mode::RUSR)?;
        Ok(())
    }),
    ("write-to-the-root", |_| {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        rustix::fs::openat(CWD, c"/podvmm-jail-payload", flags, Mode::RUSR)?;
        rustix::fs::unlinkat(CWD, c"/podvmm-jail-payload", rustix::fs::AtFlags::empty())?;
        Ok(())
    }),
    ("open-a-device-node", |s| read(&s.writable, c"node")),
    ("make-a-device-node", |s| {
        let device = rustix::fs::makedev(8, 0);
        let (kind, mode) = (FileType::BlockDevice, Mode::RUSR);
        Ok(rustix::fs::mknodat(
            &s.writable,
            c"disk",
            kind,
            mode,
            device,
        )?)
    }),
    ("map-a-file-to-execute", |s| {
        let file = rustix::fs::openat(&s.writable, c"program", OFlags::RDONLY, Mode::empty())?;
        map_executable(libc::MAP_PRIVATE, file.as_raw_fd())
    }),
    ("map-memory-to-execute", |_| {
        map_executable(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }),
    ("open-by-handle", open_by_handle),
    ("execute", |_| {
        let arguments = [c"true".as_ptr(), ptr::null()];
        // SAFETY: a C string and null-terminated arrays of C strings, all alive.
        unsafe {
            libc::execve(
                c"/bin/true".as_ptr(),
                arguments.as_ptr(),
                [ptr::null()].as_ptr(),
            )
        };
        Err(io::Error::last_os_error())
    }),
    ("fork", |_| {
        // SAFETY: the child ends at once.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: it has no conditions.
            0 => unsafe { libc::_exit(0) },
            _ => Ok(()),
        }
    }),
    ("signal-a-process", |s| {
        call(libc::SYS_kill, [s.number.into(), 0, 0, 0])
    }),
    ("trace-a-process", |s| {
        const PTRACE_SEIZE: c_long = 0x4206;
        call(libc::SYS_ptrace, [PTRACE_SEIZE, s.number.into(), 0, 0])
    }),
    ("connect-by-network", |s| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let port = u16::try_from(s.number).map_err(io::Error::other)?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        Ok(rustix::net::connect(&socket, &address)?)
    }),
    ("connect-to-an-abstract-socket", |s| {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        let name = format!("podvmm-jail-{}", s.number);
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
        Ok(rustix::net::connect(&socket, &address)?)
    }),
    ("make-a-mount", |_| {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
        let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::empty())?;
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(&context, FsMountFlags::empty(), MountAttrFlags::empty())?;
        Ok(())
    }),
    ("change-the-root", |_| Ok(rustix::process::chroot(c"/")?)),
    ("name-the-host", |_| {
        let name = rustix::system::uname();
        Ok(rustix::system::sethostname(name.nodename().to_bytes())?)
    }),
    ("become-root", |_| call(libc::SYS_setresuid, [0, 0, 0, 0])),
    ("gain-a-capability", |_| {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let mut sets = capabilities(None)?;
        sets.permitted |= CapabilitySet::SYS_ADMIN;
        sets.effective |= CapabilitySet::SYS_ADMIN;
        Ok(set_capabilities(None, sets)?)
    }),
    ("make-a-user-namespace", |_| {
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0])
    }),
    ("allow-core-dumps", |_| {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        Ok(setrlimit(Resource::Core, unlimited)?)
    }),
    ("read-the-kernel-log", |_| {
        const READ_ALL: c_long = 3;
        let mut buffer = [0u8; 16];
        let address = buffer.as_mut_ptr() as c_long;
        call(libc::SYS_syslog, [READ_ALL, address, 16, 0])
    }),
    ("survive-the-warden", |_| {
        Ok(rustix::process::set_parent_process_death_signal(None)?)
    }),
    ("make-an-io-ring", |_| {
        let mut parameters = [0u64; 32];
        let address = parameters.as_mut_ptr() as c_long;
        call(libc::SYS_io_uring_setup, [1, address, 0, 0])
    }),
    ("type-into-the-terminal", |_| {
        // Whatever standard error is, the call is refused for its number.
        let letter = b"x".as_ptr() as c_long;
        let tiocsti = libc::TIOCSTI as c_long;
        call(libc::SYS_ioctl, [2, tiocsti, letter, 0])
    }),
];

fn read(dir: impl std::os::fd::AsFd, path: &CStr) -> io::Result<()> {
    let file = rustix::fs::openat(dir, path, OFlags::RDONLY, Mode::empty())?;
    let mut byte = [0];
    rustix::io::read(&file, &mut byte[..])?;
    Ok(())
}

fn map_executable(flags: i32, fd: i32) -> io::Result<()> {
    let prot = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody uses.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), 4096, prot, flags, fd, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reaches a file of a file system by number, wherever it is.
fn open_by_handle(surroundings: &Surroundings) -> io::Result<()> {
    /// `struct file_handle` with room.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        data: [0; 128],
    };
    let mut mount = 0i32;
    let dir = surroundings.writable.as_raw_fd();
    let address = &raw mut handle as c_long;
    // SAFETY: the kernel reads a C string and writes a handle within its room and an integer.
    let named = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir,
            c"program".as_ptr(),
            address,
            &raw mut mount,
            0,
        )
    };
    if named == -1 {
        return Err(io::Error::last_os_error());
    }
    // A descriptor that is no O_PATH one is needed to say which file system.
    let dir = rustix::fs::openat(&surroundings.writable, c".", OFlags::RDONLY, Mode::empty())?;
    let flags = libc::O_RDONLY.into();
    call(
        libc::SYS_open_by_handle_at,
        [dir.as_raw_fd().into(), address, flags, 0],
    )
}

fn call(number: c_long, arguments: [c_long; 4]) -> io::Result<()> {
    let [a, b, c, d] = arguments;
    // SAFETY: the callers pass numbers, or addresses of memory that the call may use and that lives.
    if unsafe { libc::syscall(number, a, b, c, d) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
