//! The device as a guest's driver and the host's programs see it.

mod bulk;
mod host_side;
mod hostile;
mod life;
mod muxing;
mod streams;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{GuestCid, HostPorts, Limits, Vsock, VsockConfig};
use crate::testkit::vsock::{GuestVsock, SocketId};

/// How long a host program waits before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host's side of a pod: a directory with its sockets, gone when it is dropped.
struct Host {
    dir: PathBuf,
}

impl Host {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-vsock-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    fn device(&self) -> Box<Vsock> {
        self.device_with(Limits::default())
    }

    fn device_with(&self, limits: Limits) -> Box<Vsock> {
        let path = self.dir.join("pod");
        let _ = std::fs::remove_file(&path);
        let config = VsockConfig {
            guest_cid: GuestCid::try_from(42).unwrap(),
            listener: UnixListener::bind(path).unwrap(),
            host_ports: HostPorts::UnixPrefix(self.dir.join("pod")),
            limits,
        };
        Box::new(Vsock::new(config).unwrap())
    }

    fn guest(&self) -> GuestVsock {
        GuestVsock::start(self.device())
    }

    /// A host program that listens on `port`.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.dir.join(format!("pod_{port}"))).unwrap()
    }

    /// A host program that asks for `port` of the guest.
    fn dial(&self, port: u32) -> UnixStream {
        let mut stream = self.dial_silently();
        writeln!(stream, "CONNECT {port}").unwrap();
        stream
    }

    fn dial_silently(&self) -> UnixStream {
        patient(UnixStream::connect(self.dir.join("pod")).unwrap())
    }

    /// A connection that a host program asked for and the guest has accepted.
    fn connect(&self, guest: &mut GuestVsock, port: u32) -> (UnixStream, SocketId) {
        guest.listen(port);
        let mut stream = self.dial(port);
        let socket = guest.accept();
        assert_eq!(read_ok(&mut stream), socket.host_port);
        (stream, socket)
    }

    /// A connection that the guest asked for.
    fn accept(&self, guest: &mut GuestVsock, port: u32) -> (UnixStream, SocketId) {
        let listener = self.listen(port);
        let socket = guest.connect(port).unwrap();
        let (stream, _) = listener.accept().unwrap();
        (patient(stream), socket)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads the line that says which port a connection was given.
fn read_ok(stream: &mut UnixStream) -> u32 {
    let mut line = String::new();
    // Byte by byte, so that nothing behind the line is taken.
    while !line.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(char::from(byte[0]));
    }
    let port = line.strip_prefix("OK ").unwrap().trim_end();
    port.parse().unwrap()
}

fn read_to_end(mut stream: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

fn read_exactly(mut stream: &UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether the stream is at its end, waiting for it.
fn is_at_end(stream: &UnixStream) -> bool {
    BufReader::new(stream).fill_buf().unwrap().is_empty()
}
