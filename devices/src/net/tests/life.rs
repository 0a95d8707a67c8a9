//! Reset, pause and restore with frames on their way.

use rustix::event::PollFlags;

use super::*;
use crate::Memory;
use crate::net::spec::{
    Config, F_CSUM, F_GUEST_TSO4, F_HOST_TSO4, F_HOST_USO, F_MAC, F_MRG_RXBUF, F_MTU, F_STATUS,
    LINK_UP,
};
use crate::net::{MacAddress, Offloads};
use crate::testkit::net::{ALL_FEATURES, RX_BUFFER};
use crate::testkit::{self, Driver};
use crate::transport::MmioTransport;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::FromBytes;

#[test]
fn the_configuration_space_has_address_status_and_mtu() {
    let (_host, mut guest) = pair();
    let mut bytes = [0; 12];
    guest.driver().transport().read(0x100, &mut bytes);
    let space = Config::read_from_bytes(&bytes).unwrap();
    assert_eq!(MacAddress::try_from(space.mac), Ok(config().mac));
    assert_eq!(space.status, LINK_UP);
    assert_eq!(space.max_virtqueue_pairs, 1);
    assert_eq!(space.mtu, 1500);
}

#[test]
fn only_what_the_backend_can_do_is_offered() {
    let always = F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF;
    let offered = |offloads| {
        let (_host, backend) = Host::pair_with(offloads);
        crate::VirtioDevice::features(&*device(backend))
    };
    assert_eq!(offered(Offloads::default()), always);
    let segments = Offloads {
        tso4: true,
        uso: true,
        ..Offloads::default()
    };
    assert_eq!(offered(segments), always, "none without checksums");
    let some = offered(Offloads {
        checksum: true,
        ..segments
    });
    for bit in [F_CSUM, F_HOST_TSO4, F_GUEST_TSO4, F_HOST_USO] {
        assert_ne!(some & bit, 0, "{bit:#x}");
    }
}

#[test]
fn case_05_a_reset_with_frames_in_flight_leaves_none_behind() {
    let (mut host, mut guest) = pair();
    for round in 0..20 {
        // More than fits anywhere, in both directions.
        guest.hold_receive_buffers(true);
        let mut waits = 0;
        while waits < 5 {
            if !host.try_send(&large(), &frame(round, 1400)) {
                host.sleep(PollFlags::OUT);
                waits += 1;
            }
        }
        while guest.try_send(&plain(), &frame(round, 1500)) {}
        let features = if round % 2 == 0 {
            1 << 32
        } else {
            ALL_FEATURES
        };
        guest = guest.restart(features);
        assert_eq!(guest.receive(), None, "the new life has no old frames");
        while host.try_receive().is_some() {}
        // Neither kind nor length of what comes now was negotiated away.
        guest.send(&plain(), &frame(1, 99));
        loop {
            let (_, bytes) = host.receive();
            if bytes == frame(1, 99) {
                break;
            }
        }
        host.send(&plain(), &frame(2, 77));
        assert_eq!(guest.wait_frame(), {
            let num_buffers = 1.into();
            let header = Header {
                num_buffers,
                ..plain()
            };
            (header, frame(2, 77))
        });
    }
}

#[test]
fn a_pause_keeps_frames_and_buffers() {
    let (mut host, mut guest) = pair();
    for round in 0..50 {
        host.send(&plain(), &frame(round, 200));
        guest.send(&plain(), &frame(round, 300));
        guest.driver().transport().pause();
        // While nobody works.
        host.send(&plain(), &frame(round, 210));
        guest.send(&plain(), &frame(round, 310));
        guest.driver().transport().resume();
        for len in [200, 210] {
            assert_eq!(guest.wait_frame().1, frame(round, len));
        }
        for len in [300, 310] {
            assert_eq!(host.receive().1, frame(round, len));
        }
    }
    guest.wait_sent();
}

#[test]
fn a_restored_guest_goes_on_with_another_backend() {
    let (mut host, mut guest) = pair();
    guest.send(&plain(), &frame(1, 100));
    assert_eq!(host.receive().1, frame(1, 100));
    host.send(&plain(), &frame(2, 100));
    guest.wait_frame();
    guest.driver().transport().pause();
    let saved = guest.driver().transport().save();
    let (mut other, backend) = Host::pair();
    let mac = "02:00:5e:00:53:02".parse().unwrap();
    let next = Net::new(NetConfig { mac, ..config() }, backend);
    guest.restore_into(Box::new(next), saved.clone());
    assert_eq!(
        guest.driver().transport().save(),
        saved,
        "save, restore, save"
    );
    drop(host);
    guest.driver().transport().resume();
    for i in 0..600 {
        guest.send(&plain(), &frame(i, 100));
        assert_eq!(other.receive().1, frame(i, 100));
        other.send(&large(), &frame(i, 4000));
        assert_eq!(guest.wait_frame().1, frame(i, 4000));
    }
    assert!(other.guest_offloads().tso4, "as it was negotiated");
}

#[test]
fn case_21_a_state_that_is_none_stops_the_device_only() {
    let (_host, mut guest) = pair();
    guest.driver().transport().pause();
    let saved = guest.driver().transport().save();
    let mut json = serde_json::to_value(&saved).unwrap();
    json["live"]["device"]["payload"] = serde_json::json!([1, 2, 3]);
    let (mut other, backend) = Host::pair();
    guest.restore_into(device(backend), serde_json::from_value(json).unwrap());
    guest.driver().transport().resume();
    assert!(guest.driver().needs_reset());
    let mut guest = guest.restart(ALL_FEATURES);
    guest.send(&plain(), &frame(1, 60));
    assert_eq!(other.receive().1, frame(1, 60));
}

#[test]
fn a_driver_without_queues_gets_no_device() {
    let (_host, backend) = Host::pair();
    let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let memory = testkit::memory();
    let net = device(backend);
    let mut transport = MmioTransport::new(net, Memory::clone(&memory), line).unwrap();
    let mut write = |offset: u64, value: u32| transport.write(offset, &value.to_le_bytes());
    for status in [1, 3] {
        write(0x70, status);
    }
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 11);
    write(0x70, 15);
    let mut status = [0; 4];
    transport.read(0x70, &mut status);
    assert_eq!(u32::from_le_bytes(status) & 0x40, 0x40);
}

#[test]
fn a_device_is_dropped_in_any_state() {
    let (_host, backend) = Host::pair();
    drop(device(Arc::clone(&backend) as Arc<dyn NetBackend>));
    drop(Driver::idle(device(
        Arc::clone(&backend) as Arc<dyn NetBackend>
    )));
    drop(GuestNet::with(device(backend), ALL_FEATURES, RX_BUFFER));
}

#[test]
fn counters_outlive_the_driver() {
    let (mut host, backend) = Host::pair();
    let net = device(backend);
    let counters = net.counters();
    let mut guest = GuestNet::start(net);
    for i in 0..10 {
        guest.send(&plain(), &frame(i, 100));
        host.receive();
    }
    guest.wait_sent();
    let mut guest = guest.restart(ALL_FEATURES);
    host.send(&plain(), &frame(1, 1000));
    guest.wait_frame();
    drop(guest);
    let usage = counters.usage();
    assert_eq!((usage.tx_frames, usage.tx_bytes), (10, 1000));
    assert_eq!((usage.rx_frames, usage.rx_bytes), (1, 1000));
    assert_eq!((usage.tx_dropped, usage.rx_dropped), (0, 0));
}
