//! The device from activation to reset and back.

use std::sync::Arc;

use super::*;
use crate::device::{DeviceKind, DeviceState};

#[test]
fn case_05_a_reset_while_requests_are_served_leaves_none_behind() {
    let file = disk();
    let mut driver = Driver::idle(device(settings(), &file));
    // And what holds the driver's ring.
    let idle = Arc::strong_count(driver.memory()) + 1;
    driver.bring_up(!0);
    for _ in 0..50 {
        for sector in 0..16 {
            driver.post_quietly(0, &[&header(0, sector)], &[512, 1]);
        }
        driver.kick(0);
        driver.write(0x70, 0);
        let held = Arc::strong_count(driver.memory());
        assert_eq!(held, idle, "nobody has the memory any more");
        driver.bring_up(!0);
        assert_eq!(driver.poll(0), None, "the new life has no old replies");
        assert_eq!(read(&mut driver, 2, 512).data, [2; SECTOR]);
    }
}

#[test]
fn a_saved_device_goes_on_as_another_and_saves_the_same() {
    let file = disk();
    let mut driver = start(settings(), &file);
    assert_eq!(write(&mut driver, 1, &[0xcc; SECTOR]), OK);
    driver.transport().pause();
    let saved = driver.transport().save();
    driver.replace(device(settings(), &file), saved.clone());
    assert_eq!(driver.transport().save(), saved);
    driver.transport().resume();
    assert_eq!(read(&mut driver, 1, 512).data, [0xcc; SECTOR]);
}

#[test]
fn a_state_of_another_kind_is_not_taken_up() {
    let file = disk();
    let mut driver = start(settings(), &file);
    driver.transport().pause();
    let saved = driver.transport().save();
    let mut text = serde_json::to_value(&saved).expect("it is data");
    let state = DeviceState {
        kind: DeviceKind::Blk,
        version: 2,
        payload: vec![1],
    };
    text["live"]["device"] = serde_json::to_value(state).expect("it is data");
    let saved = serde_json::from_value(text).expect("it is a transport's");
    driver.replace(device(settings(), &file), saved);
    driver.transport().resume();
    assert!(driver.needs_reset());
}

#[test]
fn requests_wait_for_a_pause_to_end() {
    let file = disk();
    let mut driver = start(settings(), &file);
    driver.transport().pause();
    driver.post(0, &[&header(0, 4)], &[512, 1]);
    assert_eq!(driver.poll(0), None);
    driver.transport().resume();
    let (_, data) = driver.wait(0);
    assert_eq!(data[..512], [4; SECTOR]);
}
