//! Shares without surroundings.
//!
//! A descriptor of a directory leads further than below it: `openat(fd, "..")` goes up to the root of
//! its mount and beyond. A clone of the mount from that directory on is attached nowhere, so `..` ends
//! in it. The clone's own flags hold whatever the device thinks: a read-only share is read-only for
//! the kernel, nothing in it is executed, and its device nodes open nothing.
//!
//! Cloning takes CAP_SYS_ADMIN over the mount namespace. Without it a child makes a user and a mount
//! namespace, where everything is at its old place, clones there and sends the descriptors back.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};

use super::sys;

/// Longest path that the kernel resolves.
const PATH_MAX: usize = 4096;

/// What the VMM may do in a share, and whether it has what is mounted below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether all changes are refused.
    pub read_only: bool,
    /// Whether mounts below it belong to it.
    pub submounts: bool,
    /// Whether it is a mount without surroundings already, which is given as it is.
    pub detached: bool,
}

/// Clones each file or directory as a mount of its own that is attached nowhere.
///
/// # Errors
/// The first of the system's reasons: a host may allow neither clones nor user namespaces.
pub fn confine(shares: &[(BorrowedFd<'_>, Terms)]) -> io::Result<Vec<OwnedFd>> {
    let here: Result<Vec<_>, Errno> = shares
        .iter()
        .map(|(fd, terms)| clone_mount(*fd, *terms))
        .collect();
    match here {
        Err(Errno::PERM) => confine_in_child(shares),
        other => Ok(other?),
    }
}

/// Has the device nodes of a mount that is attached nowhere open nothing from now on: what is open stays
/// so, and cannot be opened anew on other terms.
///
/// # Errors
/// The system's reason.
pub fn close_devices(mount: &OwnedFd) -> io::Result<()> {
    sys::add_mount_attributes(mount, libc::MOUNT_ATTR_NODEV, false)
}

fn clone_mount(fd: BorrowedFd<'_>, terms: Terms) -> Result<OwnedFd, Errno> {
    let mount = if terms.detached {
        rustix::io::fcntl_dupfd_cloexec(fd, 0)?
    } else {
        clone_of(fd, terms.submounts)?
    };
    let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    if terms.read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    sys::add_mount_attributes(&mount, attributes, true).map_err(errno)?;
    Ok(mount)
}

fn clone_of(fd: BorrowedFd<'_>, submounts: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if submounts {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    match open_tree(fd, c"", flags) {
        // What is mounted below could be there to hide something, so a user namespace keeps it.
        Err(Errno::INVAL) if !submounts => open_tree(fd, c"", flags | OpenTreeFlags::AT_RECURSIVE),
        other => other,
    }
}

fn errno(error: io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

fn confine_in_child(shares: &[(BorrowedFd<'_>, Terms)]) -> io::Result<Vec<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let child = sys::fork(|| clone_and_send(shares, &theirs))?;
    drop(theirs);
    let received = shares.iter().map(|_| receive(&ours)).collect();
    // A caller that ignores SIGCHLD has it reaped already.
    let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
    received
}

/// The child: nothing but system calls, since other threads may have held any lock.
fn clone_and_send(shares: &[(BorrowedFd<'_>, Terms)], to: &OwnedFd) -> i32 {
    let apart = sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).map_err(errno);
    for (fd, terms) in shares {
        let cloned = apart
            .and_then(|()| same_in_this_namespace(*fd))
            .and_then(|found| clone_mount(found.as_fd(), *terms));
        if send(to, cloned).is_err() {
            return 1;
        }
    }
    0
}

/// What `fd` stands for, as this mount namespace has it: opened by its path, and the same file.
fn same_in_this_namespace(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let proc_fds = rustix::fs::open(
        c"/proc/self/fd",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let number = rustix::path::DecInt::from_fd(fd);
    let mut path = [MaybeUninit::uninit(); PATH_MAX];
    let (path, rest) = rustix::fs::readlinkat_raw(&proc_fds, number.as_c_str(), &mut path)?;
    // The end of the string, which the system does not write.
    rest.first_mut().ok_or(Errno::NAMETOOLONG)?.write(0);
    let mut name = [0; PATH_MAX];
    name[..path.len()].copy_from_slice(path);
    let path = std::ffi::CStr::from_bytes_until_nul(&name).map_err(|_| Errno::NAMETOOLONG)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, flags, Mode::empty())?;
    let (wanted, got) = (rustix::fs::fstat(fd)?, rustix::fs::fstat(&found)?);
    if (wanted.st_dev, wanted.st_ino) != (got.st_dev, got.st_ino) {
        // Somebody has put something else there.
        return Err(Errno::STALE);
    }
    Ok(found)
}

/// One packet: zero and a descriptor, or an error number.
fn send(to: &OwnedFd, cloned: Result<OwnedFd, Errno>) -> Result<(), Errno> {
    let (code, fd) = match &cloned {
        Ok(fd) => (0, Some(fd.as_fd())),
        Err(errno) => (errno.raw_os_error(), None),
    };
    let code = code.to_ne_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [IoSlice::new(&code)];
    rustix::net::sendmsg(to, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(from: &OwnedFd) -> io::Result<OwnedFd> {
    let mut code = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut code)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(from, &mut parts, &mut ancillary, flags)
    })?;
    if received.bytes != code.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let code = i32::from_ne_bytes(code);
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Whether nothing above `dir` can be reached from it.
#[cfg(test)]
fn is_walled(dir: &OwnedFd) -> bool {
    let identity = |fd: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(fd).unwrap();
        (stat.st_dev, stat.st_ino)
    };
    let up = rustix::fs::openat(dir, c"..", OFlags::PATH, Mode::empty()).unwrap();
    identity(up.as_fd()) == identity(dir.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("podvmm-confine-{}-{name}", std::process::id()));
            std::fs::create_dir_all(path.join("inner")).unwrap();
            Self(path)
        }

        fn open(&self) -> OwnedFd {
            rustix::fs::open(&self.0, OFlags::PATH, Mode::empty()).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    type Confine = fn(&[(BorrowedFd<'_>, Terms)]) -> io::Result<Vec<OwnedFd>>;

    fn check(name: &str, by: Confine) {
        let dir = Dir::new(name);
        let open = dir.open();
        assert!(
            !is_walled(&open),
            "the test's own directory has something above it"
        );
        let terms = |read_only| Terms {
            read_only,
            submounts: true,
            detached: false,
        };
        let shares = [(open.as_fd(), terms(false)), (open.as_fd(), terms(true))];
        let cloned = match by(&shares) {
            Ok(cloned) => cloned,
            Err(error) => {
                println!("skipped: this machine allows no clones of mounts: {error}");
                return;
            }
        };
        let make = |at: &OwnedFd, name: &str| rustix::fs::mkdirat(at, name, Mode::RWXU);
        assert_eq!(make(&cloned[0], "new"), Ok(()));
        assert_eq!(make(&cloned[1], "newer"), Err(Errno::ROFS));
        assert!(dir.0.join("new").exists() && !dir.0.join("newer").exists());
        assert!(cloned.iter().all(is_walled));
        // Nor by way of a directory below that is moved out meanwhile.
        let inner = rustix::fs::openat(&cloned[0], c"inner", OFlags::PATH, Mode::empty()).unwrap();
        let outside = Dir::new(&format!("{name}-outside"));
        std::fs::rename(dir.0.join("inner"), outside.0.join("inner/moved")).unwrap();
        let up = rustix::fs::openat(&inner, c"..", OFlags::PATH, Mode::empty());
        assert_eq!(up.err(), Some(Errno::NOENT));
    }

    #[test]
    fn case_11_a_share_has_nothing_above_it() {
        check("here", confine);
    }

    #[test]
    fn case_11_nor_has_one_that_a_user_shares() {
        check("child", confine_in_child);
    }

    #[test]
    fn case_10_a_path_that_leads_elsewhere_by_now_is_refused() {
        let dir = Dir::new("swapped");
        let in_a_namespace = || -> io::Result<io::Result<Vec<OwnedFd>>> {
            sys::unshare(libc::CLONE_NEWNS)?;
            use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
            mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )?;
            let open = dir.open();
            mount("none", &dir.0, "tmpfs", MountFlags::empty(), None)?;
            let terms = Terms {
                read_only: true,
                ..Terms::default()
            };
            Ok(confine_in_child(&[(open.as_fd(), terms)]))
        };
        let cloned = std::thread::scope(|scope| scope.spawn(in_a_namespace).join().unwrap());
        match cloned {
            Err(error) => println!("skipped: only root can put something there: {error}"),
            Ok(cloned) => {
                let error = cloned.unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
            }
        }
    }
}
