//! What every device goes through: save, restore, pause, many turns of the ring.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::device::{DeviceKind, Threads};

#[test]
fn save_restore_save_gives_the_same() {
    let mut driver = driver();
    assert_works(&mut driver);
    driver.write(0x30, 5);
    driver.transport().pause();
    let saved = driver.transport().save();
    driver.replace(Box::new(Rng), saved.clone());
    assert_eq!(driver.transport().save(), saved);
    let text = serde_json::to_string(&saved).unwrap();
    assert_eq!(
        serde_json::from_str::<SavedTransport>(&text).unwrap(),
        saved
    );
    driver.transport().resume();
    assert_works(&mut driver);
}

#[test]
fn a_request_made_during_a_pause_is_served_after_it() {
    let mut driver = driver();
    driver.transport().pause();
    let head = driver.post(0, &[], &[16]);
    assert_eq!(driver.poll(0), None);
    driver.transport().resume();
    assert_eq!(driver.wait(0).0, head);
    // Pausing twice and resuming twice is as good as once.
    driver.transport().pause();
    driver.transport().pause();
    driver.transport().resume();
    driver.transport().resume();
    assert_works(&mut driver);
}

#[test]
fn case_21_a_saved_state_that_does_not_fit_is_refused() {
    let mut driver = driver();
    driver.transport().pause();
    let saved = serde_json::to_value(driver.transport().save()).unwrap();
    let changes: [fn(&mut serde_json::Value); 8] = [
        |s| s["kind"] = "Vsock".into(),
        |s| s["driver_features"] = u64::MAX.into(),
        |s| s["setups"] = serde_json::json!([]),
        |s| s["setups"][0]["max"] = 32.into(),
        |s| s["live"]["queues"] = serde_json::json!([]),
        |s| s["status"] = 3.into(),
        |s| s["status"] = 0.into(),
        |s| s["status"] = 0x1_000f.into(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut json = saved.clone();
        change(&mut json);
        let bad = serde_json::from_value(json).unwrap();
        assert!(fresh().restore(bad).is_err(), "change {number}");
    }
    // What is only seen when the queue is made stops the device.
    let changes: [fn(&mut serde_json::Value); 4] = [
        |s| s["live"]["queues"][0]["size"] = 32.into(),
        |s| s["live"]["queues"][0]["size"] = 3.into(),
        |s| s["live"]["queues"][0]["desc_table"] = u64::MAX.into(),
        |s| s["live"]["queues"][0]["used_ring"] = (MEMORY_SIZE as u64).into(),
    ];
    for change in changes {
        let mut json = saved.clone();
        change(&mut json);
        let mut transport = fresh();
        transport
            .restore(serde_json::from_value(json).unwrap())
            .unwrap();
        transport.resume();
        let mut status = [0; 4];
        transport.read(STATUS, &mut status);
        assert_eq!(u32::from_le_bytes(status), 15 | NEEDS_RESET);
    }
    // Not into a transport that is in use.
    let good: SavedTransport = serde_json::from_value(saved).unwrap();
    assert!(driver.transport().restore(good.clone()).is_err());
    fresh().restore(good).unwrap();
}

fn fresh() -> MmioTransport {
    let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    MmioTransport::new(Box::new(Rng), testkit::memory(), line).unwrap()
}

#[test]
fn without_the_event_index_flags_alone_do() {
    let mut driver = Driver::start(Box::new(Rng), 1 << 32);
    for _ in 0..100 {
        assert_works(&mut driver);
    }
    assert!(driver.interrupted());
    assert_eq!(driver.read(0x60), 1);
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn the_hook_runs_in_each_worker_before_anything_else() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let seen = Arc::clone(&seen);
        move |kind| {
            let name = std::thread::current().name().map(str::to_owned);
            seen.lock().unwrap().push((kind, name));
        }
    };
    let mut driver = driver();
    let threads = Threads::with_hook(Arc::new(hook));
    driver.transport().start_workers_by(threads);
    for life in 1..=2 {
        driver.bring_up(!0);
        assert_works(&mut driver);
        let worker = (DeviceKind::Rng, Some("virtio-rng".to_owned()));
        assert_eq!(*seen.lock().unwrap(), vec![worker; life]);
    }
}

#[test]
fn only_a_start_and_a_reset_move_the_device() {
    let moves = |offset, value: u32| MmioTransport::moves_device(offset, &value.to_le_bytes());
    assert!(moves(STATUS, 0) && moves(STATUS, 15));
    for value in [1, 3, 11, 128] {
        assert!(!moves(STATUS, value), "{value}");
    }
    assert!(!moves(0x30, 0) && !MmioTransport::moves_device(STATUS, &[0]));
}

#[test]
fn a_ring_wraps_many_times() {
    let mut driver = driver();
    for _ in 0..5000 {
        driver.post_quietly(0, &[], &[1]);
        driver.post_quietly(0, &[], &[2, 3]);
        driver.kick(0);
        assert_eq!(driver.wait(0).1.len(), 1);
        assert_eq!(driver.wait(0).1.len(), 5);
    }
    assert!(!driver.needs_reset());
}

#[test]
fn rings_may_lie_anywhere_in_memory() {
    let memory = testkit::memory();
    let ring = Ring::new(Memory::clone(&memory), 0x1000, 16);
    assert!(ring.used() > ring.avail() && ring.avail() > ring.desc());
    let driver = start_with_queue(16, ring.desc(), ring.avail(), ring.used());
    assert_eq!(driver.read(STATUS), 15);
}
