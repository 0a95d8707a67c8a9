//! Frames with headers that are almost right, and a network that does what it likes.
#![no_main]

use std::collections::VecDeque;
use std::num::NonZeroU64;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use podvmm_devices::net::spec::{GSO_NONE, HEADER_SIZE, Header, NEEDS_CSUM};
use podvmm_devices::net::{Mtu, Net, NetConfig};
use podvmm_devices::rate::{Rate, RateLimit};
use podvmm_devices::testkit::net::{GuestNet, Host};

const MTU: u32 = 1500;
/// What a frame without large segments may have: packet, Ethernet header, VLAN tag.
const LONGEST_PLAIN: usize = MTU as usize + 18;

#[derive(Arbitrary, Debug)]
struct Input {
    features: u64,
    rx_buffer: u16,
    is_limited: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Send {
        header: Fields,
        len: u16,
        cuts: Vec<u16>,
    },
    /// Part of a header and nothing else.
    Runt {
        len: u8,
    },
    HostSend {
        header: Fields,
        len: u16,
    },
    Receive,
    HostReceive,
    Hold(bool),
    Offer(u8),
    PauseAndResume,
    Restart {
        features: u64,
    },
    Settle,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Fields {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
    num_buffers: u16,
}

impl Fields {
    fn header(self) -> Header {
        Header {
            flags: self.flags,
            gso_type: self.gso_type % 8,
            hdr_len: self.hdr_len.into(),
            gso_size: self.gso_size.into(),
            csum_start: self.csum_start.into(),
            csum_offset: self.csum_offset.into(),
            num_buffers: self.num_buffers.into(),
        }
    }
}

struct World {
    guest: Option<GuestNet>,
    host: Host,
    count: u8,
    /// Frames that the guest was sent and has not received.
    on_the_way: VecDeque<Vec<u8>>,
    is_runt_sent: bool,
}

fuzz_target!(|input: Input| {
    let mut world = World::new(&input);
    for step in input.steps.iter().take(60) {
        world.run(step);
    }
    let guest = world.guest.as_mut().expect("there is one between steps");
    assert!(
        world.is_runt_sent || !guest.driver().needs_reset(),
        "only a broken chain stops the device"
    );
    let guest = world.guest.take().expect("there is one between steps");
    let mut guest = guest.restart(!0);
    assert!(!guest.driver().needs_reset(), "a reset mends everything");
});

impl World {
    fn new(input: &Input) -> Self {
        let (host, backend) = Host::pair();
        let limit = RateLimit {
            bytes: input.is_limited.then_some(Rate {
                per_second: NonZeroU64::new(50_000_000).expect("not zero"),
                burst: NonZeroU64::new(3000).expect("not zero"),
            }),
            requests: None,
        };
        let config = NetConfig {
            mac: "02:00:5e:00:53:01".parse().expect("an address"),
            mtu: Mtu::try_from(MTU).expect("a valid one"),
            rx_limit: limit,
            tx_limit: limit,
        };
        let rx_buffer = u32::from(input.rx_buffer).max(HEADER_SIZE as u32);
        let net = Box::new(Net::new(config, backend));
        Self {
            guest: Some(GuestNet::with(net, input.features | 1 << 32, rx_buffer)),
            host,
            count: 0,
            on_the_way: VecDeque::new(),
            is_runt_sent: false,
        }
    }

    fn run(&mut self, step: &Step) {
        let guest = self.guest.as_mut().expect("there is one between steps");
        match step {
            Step::Send { header, len, cuts } => {
                if guest.has_tx_room() && guest.driver().ring(1).free_descriptors() > 8 {
                    let data = vec![0x5a; usize::from(*len)];
                    let mut parts = Vec::new();
                    let mut rest = &data[..];
                    for cut in cuts.iter().take(6) {
                        let (part, more) = rest.split_at(usize::from(*cut).min(rest.len()));
                        parts.push(part);
                        rest = more;
                    }
                    parts.push(rest);
                    guest.send_parts(&header.header(), &parts);
                }
            }
            Step::Runt { len } => {
                if guest.has_tx_room() {
                    guest.send_chain(&[&vec![0; usize::from(*len) % HEADER_SIZE]]);
                    self.is_runt_sent = true;
                }
            }
            Step::HostSend { header, len } => {
                // Each frame begins with its number, so that none is taken for another.
                self.count = self.count.wrapping_add(1);
                let data = vec![self.count; usize::from(*len)];
                if self.host.try_send(&header.header(), &data) && data.len() >= 14 {
                    self.on_the_way.push_back(data);
                }
            }
            Step::Receive => self.receive(),
            Step::HostReceive => self.host_receive(),
            Step::Hold(hold) => guest.hold_receive_buffers(*hold),
            Step::Offer(count) => guest.offer(usize::from(*count)),
            Step::PauseAndResume => {
                guest.driver().transport().pause();
                guest.driver().transport().resume();
            }
            Step::Restart { features } => {
                let guest = self.guest.take().expect("there is one between steps");
                self.guest = Some(guest.restart(features | 1 << 32));
                self.on_the_way.clear();
                self.is_runt_sent = false;
            }
            Step::Settle => (0..20).for_each(|_| std::thread::yield_now()),
        }
    }

    /// What arrives was sent, in order; some may be lost that did not fit.
    fn receive(&mut self) {
        let guest = self.guest.as_mut().expect("there is one between steps");
        while let Some((_, bytes)) = guest.receive() {
            loop {
                let sent = self.on_the_way.pop_front();
                if sent.expect("what arrives was sent") == bytes {
                    break;
                }
            }
        }
    }

    fn host_receive(&mut self) {
        while let Some((header, len)) = self.host.try_receive() {
            assert!(len >= 14, "an Ethernet header at least");
            assert_eq!(header.flags & !NEEDS_CSUM, 0);
            assert!(usize::from(header.hdr_len) <= len);
            if header.flags & NEEDS_CSUM != 0 {
                let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
                assert!(end <= len, "a checksum within the frame");
            }
            if header.gso_type == GSO_NONE {
                assert!(len <= LONGEST_PLAIN);
            } else {
                assert_ne!(header.gso_size, 0);
                assert_eq!(header.flags, NEEDS_CSUM);
            }
        }
    }
}
