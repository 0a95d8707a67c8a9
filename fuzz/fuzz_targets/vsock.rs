//! Packets that are almost right, and host programs that do what they like.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_devices::testkit::vsock::{GuestVsock, SocketId};
use podvmm_devices::vsock::{GuestCid, HostPorts, Limits, Vsock, VsockConfig};

#[derive(Arbitrary, Debug)]
enum Step {
    /// A packet with few ports, so that connections are met again.
    Packet {
        op: u8,
        guest_port: u8,
        host_port: u8,
        odd: Option<Odd>,
        payload: u16,
        fwd_cnt: u32,
        flags: u8,
    },
    /// A packet on a connection that the kit believes to be open.
    Real {
        which: u8,
        op: u8,
        len: u16,
        fwd_cnt: u32,
        flags: u8,
    },
    Connect {
        port: u8,
    },
    Send {
        which: u8,
        len: u16,
    },
    Receive {
        which: u8,
        len: u16,
    },
    Close {
        which: u8,
    },
    Dial {
        port: u8,
    },
    DialWith {
        line: Vec<u8>,
    },
    HostWrite {
        which: u8,
        len: u16,
    },
    HostRead {
        which: u8,
        len: u16,
    },
    HostShutdown {
        which: u8,
        how: u8,
    },
    HostClose {
        which: u8,
    },
    HoldReceiveBuffers(bool),
    PauseAndResume,
    Settle,
}

/// A field that is not what it should be.
#[derive(Arbitrary, Debug)]
enum Odd {
    SrcCid(u64),
    DstCid(u64),
    Type(u16),
    Len(u32),
    BufAlloc(u32),
    Op(u16),
}

/// Host programs' ends of all connections.
type Streams = Arc<Mutex<Vec<UnixStream>>>;

struct World {
    guest: GuestVsock,
    sockets: Vec<SocketId>,
    streams: Streams,
    address: SocketAddr,
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps.iter().take(100) {
        world.run(step);
    }
    world.guest.poll();
    assert!(
        !world.guest.driver().needs_reset(),
        "no packet stops the device"
    );
});

impl World {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-fuzz-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let streams = Streams::default();
        let accepted = Arc::clone(&streams);
        let device = Vsock::new(VsockConfig {
            guest_cid: GuestCid::try_from(3).expect("not reserved"),
            listener: UnixListener::bind_addr(&address).expect("a socket"),
            host_ports: HostPorts::Connector(Box::new(move |port| {
                if port % 4 == 3 {
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                let (ours, theirs) = UnixStream::pair()?;
                theirs.set_nonblocking(true)?;
                accepted.lock().expect("no panic").push(theirs);
                Ok(ours)
            })),
            limits: Limits {
                connections: 8,
                buffer: 32 * 1024,
            },
        });
        let mut guest = GuestVsock::start(Box::new(device.expect("a listener")));
        // Packets lie about it.
        guest.allow_overruns();
        for port in 0..4 {
            guest.listen(port);
        }
        Self {
            guest,
            sockets: Vec::new(),
            streams,
            address,
        }
    }

    fn run(&mut self, step: &Step) {
        while let Some(socket) = self.guest.try_accept() {
            self.sockets.push(socket);
        }
        match step {
            Step::Packet {
                op,
                guest_port,
                host_port,
                odd,
                payload,
                fwd_cnt,
                flags,
            } => {
                let id = SocketId {
                    guest_port: u32::from(guest_port % 8),
                    host_port: u32::from(host_port % 8),
                };
                let mut header = self.guest.header(id, u16::from(op % 9));
                header.len = u32::from(*payload).into();
                header.fwd_cnt = (*fwd_cnt).into();
                header.flags = u32::from(*flags).into();
                match odd {
                    Some(Odd::SrcCid(cid)) => header.src_cid = (*cid).into(),
                    Some(Odd::DstCid(cid)) => header.dst_cid = (*cid).into(),
                    Some(Odd::Type(type_)) => header.type_ = (*type_).into(),
                    Some(Odd::Len(len)) => header.len = (*len).into(),
                    Some(Odd::BufAlloc(size)) => header.buf_alloc = (*size).into(),
                    Some(Odd::Op(op)) => header.op = (*op).into(),
                    None => {}
                }
                if self.guest.has_tx_room() {
                    self.guest
                        .send_packet(&header, &vec![1; usize::from(*payload)]);
                }
            }
            Step::Real {
                which,
                op,
                len,
                fwd_cnt,
                flags,
            } => {
                if let Some(id) = pick(&self.sockets, *which) {
                    let mut header = self.guest.header(*id, u16::from(op % 9));
                    header.len = u32::from(*len).into();
                    header.fwd_cnt = (*fwd_cnt).into();
                    header.flags = u32::from(*flags).into();
                    if self.guest.has_tx_room() {
                        self.guest.send_packet(&header, &vec![2; usize::from(*len)]);
                    }
                }
            }
            Step::Connect { port } => {
                if self.guest.has_tx_room() {
                    let id = self.guest.start_connect(u32::from(port % 8));
                    self.sockets.push(id);
                }
            }
            Step::Send { which, len } => {
                if let Some(id) = pick(&self.sockets, *which) {
                    self.guest.try_send(*id, &vec![3; usize::from(*len)]);
                }
            }
            Step::Receive { which, len } => {
                if let Some(id) = pick(&self.sockets, *which)
                    && self.guest.has_tx_room()
                {
                    self.guest.try_receive(*id, &mut vec![0; usize::from(*len)]);
                }
            }
            Step::Close { which } => {
                if let Some(id) = pick(&self.sockets, *which)
                    && self.guest.has_tx_room()
                {
                    self.guest.close(*id);
                }
            }
            Step::Dial { port } => self.dial(format!("CONNECT {}\n", port % 8).as_bytes()),
            Step::DialWith { line } => self.dial(line),
            Step::HostWrite { which, len } => self.host(*which, |mut stream| {
                let _ = stream.write(&vec![4; usize::from(*len)]);
            }),
            Step::HostRead { which, len } => self.host(*which, |mut stream| {
                let _ = stream.read(&mut vec![0; usize::from(*len)]);
            }),
            Step::HostShutdown { which, how } => self.host(*which, |stream| {
                let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][usize::from(how % 3)];
                let _ = stream.shutdown(how);
            }),
            Step::HostClose { which } => {
                let mut streams = self.streams.lock().expect("no panic");
                if !streams.is_empty() {
                    let at = usize::from(*which) % streams.len();
                    streams.swap_remove(at);
                }
            }
            Step::HoldReceiveBuffers(hold) => self.guest.hold_receive_buffers(*hold),
            Step::PauseAndResume => {
                self.guest.driver().transport().pause();
                self.guest.driver().transport().resume();
            }
            Step::Settle => (0..20).for_each(|_| std::thread::yield_now()),
        }
    }

    fn dial(&self, line: &[u8]) {
        if let Ok(mut stream) = UnixStream::connect_addr(&self.address) {
            let _ = stream.set_nonblocking(true);
            let _ = stream.write(line);
            self.streams.lock().expect("no panic").push(stream);
        }
    }

    fn host(&self, which: u8, act: impl FnOnce(&UnixStream)) {
        let streams = self.streams.lock().expect("no panic");
        if let Some(stream) = pick(&streams, which) {
            act(stream);
        }
    }
}

fn pick<T>(list: &[T], which: u8) -> Option<&T> {
    list.get(usize::from(which) % list.len().max(1))
}
