//! Registers, rings and memory of each device, written with anything.
#![no_main]

use std::os::unix::net::{UnixListener, UnixStream};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_devices::VirtioDevice;
use podvmm_devices::balloon::Balloon;
use podvmm_devices::blk::{Blk, BlkConfig, BlkSettings, Geometry};
use podvmm_devices::mem::{BLOCK, Mem, MemRegion};
use podvmm_devices::net::spec::Header;
use podvmm_devices::net::{Mtu, Net, NetConfig};
use podvmm_devices::rate::RateLimit;
use podvmm_devices::rng::Rng;
use podvmm_devices::testkit::net::Host;
use podvmm_devices::testkit::{Descriptor, Driver};
use podvmm_devices::vsock::{GuestCid, HostPorts, Limits, Vsock, VsockConfig};
use vm_memory::{Bytes, GuestAddress};

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Kind {
    Balloon,
    Blk,
    Mem,
    Net,
    Rng,
    Vsock,
}

impl Kind {
    fn device(self) -> Box<dyn VirtioDevice> {
        match self {
            Self::Balloon => Box::new(Balloon),
            Self::Blk => Box::new(blk()),
            Self::Mem => Box::new(mem()),
            Self::Net => Box::new(net()),
            Self::Rng => Box::new(Rng),
            Self::Vsock => Box::new(vsock()),
        }
    }

    fn queues(self) -> u16 {
        match self {
            Self::Net => 2,
            Self::Blk | Self::Mem | Self::Rng => 1,
            Self::Balloon | Self::Vsock => 3,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    Write {
        offset: u16,
        data: [u8; 8],
        len: u8,
    },
    Register {
        number: u8,
        value: u32,
    },
    Read {
        offset: u16,
        len: u8,
    },
    Descriptor {
        queue: u8,
        index: u16,
        addr: u32,
        len: u32,
        flags: u16,
        next: u16,
    },
    WildDescriptor {
        queue: u8,
        index: u16,
        addr: u64,
        len: u32,
    },
    Publish {
        queue: u8,
        head: u16,
    },
    AvailIndex {
        queue: u8,
        value: u16,
    },
    Memory {
        at: u32,
        bytes: Vec<u8>,
    },
    BringUp {
        features: u64,
    },
    PauseAndResume,
    SaveAndRestore,
    Settle,
}

fuzz_target!(|input: (Kind, Vec<Step>)| {
    let (kind, steps) = input;
    let mut driver = Driver::start(kind.device(), !0);
    for step in steps.iter().take(64) {
        run(kind, &mut driver, step);
    }
    driver.bring_up(!0);
    assert!(!driver.needs_reset(), "a reset mends everything");
});

fn run(kind: Kind, driver: &mut Driver, step: &Step) {
    let queue_of = |queue: &u8| u16::from(*queue) % kind.queues();
    match step {
        Step::Write { offset, data, len } => {
            let len = usize::from(*len) % 9;
            driver.transport().write(u64::from(*offset), &data[..len]);
        }
        Step::Register { number, value } => driver.write(4 * u64::from(*number), *value),
        Step::Read { offset, len } => {
            let mut bytes = vec![0; usize::from(*len)];
            driver.transport().read(u64::from(*offset), &mut bytes);
        }
        Step::Descriptor {
            queue,
            index,
            addr,
            len,
            flags,
            next,
        } => {
            // Mostly inside memory, mostly short chains.
            driver.ring(queue_of(queue)).write_desc(
                index % 128,
                Descriptor {
                    addr: u64::from(addr % (65 << 20)),
                    len: len % (1 << 16),
                    flags: flags % 8,
                    next: next % 130,
                },
            );
        }
        Step::WildDescriptor {
            queue,
            index,
            addr,
            len,
        } => {
            driver.ring(queue_of(queue)).write_desc(
                index % 128,
                Descriptor {
                    addr: *addr,
                    len: *len,
                    flags: 2,
                    next: 0,
                },
            );
        }
        Step::Publish { queue, head } => {
            let queue = queue_of(queue);
            driver.ring(queue).publish(head % 130);
            driver.kick(queue);
        }
        Step::AvailIndex { queue, value } => {
            let queue = queue_of(queue);
            driver.ring(queue).write_avail_idx(*value);
            driver.kick(queue);
        }
        Step::Memory { at, bytes } => {
            let _ = driver.memory().write(bytes, GuestAddress(u64::from(*at)));
        }
        Step::BringUp { features } => driver.bring_up(features | 1 << 32),
        Step::PauseAndResume => {
            driver.transport().pause();
            driver.transport().resume();
        }
        Step::SaveAndRestore => {
            driver.transport().pause();
            let saved = driver.transport().save();
            driver.replace(kind.device(), saved.clone());
            assert_eq!(driver.transport().save(), saved);
            driver.transport().resume();
        }
        Step::Settle => (0..20).for_each(|_| std::thread::yield_now()),
    }
}

/// A device with frames to receive, whose network then goes away.
/// The upper half of the kit's memory, of which half may be plugged.
fn mem() -> Mem {
    let region = MemRegion::new(32 << 20, 32 << 20, 4 * BLOCK).unwrap();
    let device = Mem::new(region);
    device.handle().provide(0..3);
    device.handle().request(16 << 20);
    device
}

fn net() -> Net {
    let (host, backend) = Host::pair();
    for len in [20, 1500, 40_000] {
        host.try_send(&Header::default(), &vec![7; len]);
    }
    let config = NetConfig {
        mac: "02:00:5e:00:53:01".parse().expect("an address"),
        mtu: Mtu::ETHERNET,
        rx_limit: RateLimit::default(),
        tx_limit: RateLimit::default(),
    };
    Net::new(config, backend)
}

/// A disk in memory, whose size stays what it is.
fn blk() -> Blk {
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC);
    let file = std::fs::File::from(file.expect("memory"));
    file.set_len(1 << 16).expect("memory");
    let config = BlkConfig::try_from(BlkSettings {
        geometry: Geometry::of(&file).expect("a file"),
        read_only: false,
        id: "disk".into(),
        limit: RateLimit::default(),
    });
    Blk::new(config.expect("a disk"), file)
}

fn vsock() -> Vsock {
    // An address of the abstract name space that the system chooses: nobody calls.
    let (listener, _) = listener();
    Vsock::new(VsockConfig {
        guest_cid: GuestCid::try_from(3).expect("not reserved"),
        listener,
        host_ports: HostPorts::Connector(Box::new(|_| Ok(UnixStream::pair()?.0))),
        limits: Limits::default(),
    })
    .expect("a listener")
}

fn listener() -> (UnixListener, std::os::unix::net::SocketAddr) {
    use std::os::linux::net::SocketAddrExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!(
        "podvmm-fuzz-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
    (
        UnixListener::bind_addr(&address).expect("a socket"),
        address,
    )
}
