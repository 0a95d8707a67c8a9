//! Whoever listens on a Unix socket, answering or not.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use sandbox::monitor::HostProcess;

/// `__SO_ACCEPTCON` among the flags in `/proc/net/unix`: the socket listens.
const LISTENS: u32 = 1 << 16;

/// What became of a connection.
#[derive(Debug)]
pub enum Dialled {
    /// Nobody listens.
    Nobody,
    /// It is there, though it may not have been accepted.
    Connected(UnixStream),
    /// As many wait to be accepted as can: somebody listens, and has not answered for long.
    Full,
}

/// Connects, and does not wait where it would have to.
pub fn dial(socket: &Path) -> Dialled {
    let connected = SocketAddrUnix::new(socket).and_then(|address| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let ours = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&ours, &address)?;
        let ours = UnixStream::from(ours);
        let waits = ours.set_nonblocking(false);
        waits.map(|()| ours).map_err(|_| Errno::IO)
    });
    match connected {
        Ok(stream) => Dialled::Connected(stream),
        Err(Errno::AGAIN) => Dialled::Full,
        Err(_) => Dialled::Nobody,
    }
}

/// Whether anybody listens.
pub fn is_there(socket: &Path) -> bool {
    !matches!(dial(socket), Dialled::Nobody)
}

/// Kills all processes that have the listening socket, and says whether there were any. They are found by
/// the socket, because one whose queue is full tells nobody who it is.
///
/// # Errors
/// When the processes of this machine cannot be read, or one cannot be signalled.
pub fn kill(socket: &Path) -> io::Result<bool> {
    let inodes = inodes(&fs::read_to_string("/proc/net/unix")?, socket);
    let mut found = false;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // The process comes first: whoever has the number later is not killed for it.
        let Some(process) = HostProcess::of(pid) else {
            continue;
        };
        if has_one_of(pid, &inodes) {
            process.kill(Duration::ZERO)?;
            found = true;
        }
    }
    Ok(found)
}

/// The listening sockets of that name in `/proc/net/unix`, as links in `/proc/PID/fd` show them.
fn inodes(table: &str, socket: &Path) -> Vec<String> {
    let of_line = |line: &str| {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.split_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode = fields.nth(2)?;
        let path = fields.next()?;
        (flags & LISTENS != 0 && Path::new(path) == socket).then(|| format!("socket:[{inode}]"))
    };
    table.lines().filter_map(of_line).collect()
}

/// Whether a process has one of the sockets; one that is gone has none.
fn has_one_of(pid: u32, inodes: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let target = fs::read_link(descriptor.path());
        target.is_ok_and(|target| inodes.iter().any(|inode| target == Path::new(inode)))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn listening_sockets_are_told_from_connected_ones() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/a.sock
0000000000000000: 00000003 00000000 00000000 0001 03 18 /run/a.sock
0000000000000000: 00000002 00000000 00010000 0001 01 19 /run/b.sock
0000000000000000: 00000003 00000000 00000000 0001 03 20
";
        assert_eq!(inodes(table, Path::new("/run/a.sock")), ["socket:[17]"]);
        assert!(inodes(table, Path::new("/run/c.sock")).is_empty());
    }

    #[test]
    fn whoever_does_not_accept_is_there_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert!(!is_there(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let mut waiting = Vec::new();
        loop {
            match dial(&socket) {
                Dialled::Connected(stream) => waiting.push(stream),
                Dialled::Full => break,
                Dialled::Nobody => panic!("{} were connected", waiting.len()),
            }
        }
        assert!(is_there(&socket));
        let table = fs::read_to_string("/proc/net/unix").unwrap();
        assert!(has_one_of(std::process::id(), &inodes(&table, &socket)));
        drop(listener);
        assert!(!is_there(&socket));
        assert!(!kill(&socket).unwrap());
    }
}
