//! Cases 1 to 3: registers out of order, out of bounds, after `DRIVER_OK`.

use super::*;

#[test]
fn case_01_queue_registers_written_after_driver_ok_change_nothing() {
    let mut driver = driver();
    let before = driver.transport().save();
    driver.write(0x30, 0);
    for register in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        for value in [0, 1, 0x1000, u32::MAX] {
            driver.write(register, value);
        }
    }
    driver.write(0x44, 0);
    assert_eq!(driver.read(0x44), 1, "a live queue stays with its worker");
    driver.write(0x44, 1);
    driver.transport().pause();
    let after = driver.transport().save();
    assert_eq!(setups(&before), setups(&after));
    driver.transport().resume();
    assert_works(&mut driver);
}

fn setups(saved: &SavedTransport) -> serde_json::Value {
    serde_json::to_value(saved).unwrap()["setups"].clone()
}

#[test]
fn case_01_queue_registers_written_when_the_queue_is_ready_change_nothing() {
    let mut driver = idle();
    for status in [1, 3] {
        driver.write(STATUS, status);
    }
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(STATUS, 11);
    driver.write(0x44, 1);
    let before = setups(&driver.transport().save());
    driver.write(0x38, 4);
    driver.write(0x80, 0x1000);
    assert_eq!(setups(&driver.transport().save()), before);
    // Taken back, it may be changed.
    driver.write(0x44, 0);
    driver.write(0x38, 4);
    assert_ne!(setups(&driver.transport().save()), before);
}

#[test]
fn case_01_features_written_after_features_ok_change_nothing() {
    let mut driver = driver();
    let before = driver.transport().save();
    for select in 0..3 {
        driver.write(0x24, select);
        driver.write(0x20, 0);
    }
    driver.write(0x24, 1);
    assert_eq!(driver.transport().save(), before);
}

#[test]
fn case_02_status_out_of_order_is_not_taken() {
    let mut driver = idle();
    for value in [2, 3, 8, 4, 11, 15, 0x40, !0x80] {
        driver.write(STATUS, value);
        assert_eq!(driver.read(STATUS), 0, "{value:#x} as the first step");
    }
    driver.write(STATUS, 1);
    for value in [1, 2, 7, 9, 15, 11] {
        driver.write(STATUS, value);
        assert_eq!(driver.read(STATUS), 1, "{value:#x} after ACKNOWLEDGE");
    }
    driver.write(STATUS, 3);
    for value in [1, 2, 7, 15] {
        driver.write(STATUS, value);
        assert_eq!(driver.read(STATUS), 3, "{value:#x} after DRIVER");
    }
    // Features without VIRTIO_F_VERSION_1 are refused.
    driver.write(STATUS, 11);
    assert_eq!(driver.read(STATUS), 3);
    driver.bring_up(!0);
    assert_works(&mut driver);
}

#[test]
fn case_02_bits_are_not_taken_back() {
    let mut driver = driver();
    for value in [1, 3, 11, 14, 8, 4] {
        driver.write(STATUS, value);
        assert_eq!(driver.read(STATUS), 15);
    }
    assert_works(&mut driver);
}

#[test]
fn case_02_queues_set_up_outside_their_time_stay_unused() {
    let mut driver = idle();
    let set_up = |driver: &mut Driver| {
        driver.write(0x38, 8);
        driver.write(0x80, 0x1000);
        driver.write(0x44, 1);
    };
    for status in [1, 3] {
        set_up(&mut driver);
        assert_eq!(driver.read(0x44), 0);
        driver.write(STATUS, status);
    }
    set_up(&mut driver);
    assert_eq!(driver.read(0x44), 0);
    // A driver that gives up may not go on.
    driver.write(STATUS, 0x83);
    driver.write(STATUS, 11);
    set_up(&mut driver);
    assert_eq!(driver.read(0x44), 0);
    assert_eq!(driver.read(STATUS), 0x83);
    driver.bring_up(!0);
    assert_works(&mut driver);
}

#[test]
fn case_02_unknown_features_are_refused() {
    let mut driver = idle();
    driver.write(STATUS, 1);
    driver.write(STATUS, 3);
    for select in 0..2 {
        driver.write(0x24, select);
        driver.write(0x20, u32::MAX);
    }
    driver.write(STATUS, 11);
    assert_eq!(driver.read(STATUS), 3);
    // Selectors past the end offer nothing and take nothing.
    driver.write(0x14, 2);
    assert_eq!(driver.read(0x10), 0);
    driver.write(0x24, u32::MAX);
    driver.write(0x20, u32::MAX);
}

#[test]
fn case_02_a_reset_in_any_state_starts_over() {
    let mut driver = idle();
    for steps in 0..4 {
        for status in [1, 3].iter().take(steps) {
            driver.write(STATUS, *status);
        }
        driver.write(STATUS, 0);
        assert_eq!(driver.read(STATUS), 0);
    }
    for _ in 0..20 {
        driver.bring_up(!0);
        assert_works(&mut driver);
    }
    // The queue's set-up is gone with the reset.
    driver.write(STATUS, 0);
    driver.write(0x30, 0);
    assert_eq!(driver.read(0x44), 0);
    assert_eq!(driver.read(0x60), 0, "and so are pending interrupts");
}

#[test]
fn case_02_a_driver_without_queues_is_stopped() {
    let mut driver = idle();
    driver.write(STATUS, 1);
    driver.write(STATUS, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(STATUS, 11);
    driver.write(STATUS, 15);
    assert_eq!(driver.read(STATUS), 15 | NEEDS_RESET);
    driver.bring_up(!0);
    assert_works(&mut driver);
}

#[test]
fn case_02_queues_that_cannot_be_are_refused_at_driver_ok() {
    let end = MEMORY_SIZE as u64;
    for (num, desc, avail, used) in [
        (0, 0x1000, 0x2000, 0x3000),
        (3, 0x1000, 0x2000, 0x3000),
        (32, 0x1000, 0x2000, 0x3000),
        (0x1_0000, 0x1000, 0x2000, 0x3000),
        (u32::MAX, 0x1000, 0x2000, 0x3000),
        (16, 0x1008, 0x2000, 0x3000),
        (16, 0x1000, 0x2001, 0x3000),
        (16, 0x1000, 0x2000, 0x3002),
        (16, end - 128, 0x2000, 0x3000),
        (16, 0x1000, end - 4, 0x3000),
        (16, 0x1000, 0x2000, end - 4),
        (16, !15, 0x2000, 0x3000),
        (16, 0x1000, !1, 0x3000),
        (16, 0x1000, 0x2000, !3),
    ] {
        let mut driver = start_with_queue(num, desc, avail, used);
        assert_eq!(
            driver.read(STATUS),
            15 | NEEDS_RESET,
            "{num} {desc:#x} {avail:#x} {used:#x}"
        );
        driver.bring_up(!0);
        assert_works(&mut driver);
    }
}

#[test]
fn case_03_queue_numbers_out_of_bounds_are_nobodys() {
    let mut driver = idle();
    for select in [1, 2, 0xffff, 0x1_0000, u32::MAX] {
        driver.write(0x30, select);
        assert_eq!(driver.read(0x34), 0, "QueueNumMax of queue {select}");
        assert_eq!(driver.read(0x44), 0);
        driver.write(0x44, 1);
        driver.write(0x38, 1);
        driver.write(0x80, 1);
        driver.write(0x50, select);
    }
    driver.bring_up(!0);
    driver.write(0x50, u32::MAX);
    driver.write(0x50, 1);
    driver.write(0x30, u32::MAX);
    assert_works(&mut driver);
}

#[test]
fn case_03_accesses_of_odd_sizes_and_places_change_nothing() {
    let mut driver = driver();
    driver.transport().pause();
    let before = driver.transport().save();
    driver.transport().resume();
    for offset in (0..0x110).chain([0xfff, 0x1000, u64::MAX - 8, u64::MAX]) {
        for len in [0, 1, 2, 3, 5, 7, 8, 16] {
            driver.transport().write(offset, &vec![0; len]);
            let mut bytes = vec![0xff; len];
            driver.transport().read(offset, &mut bytes);
            assert_eq!(bytes, vec![0; len], "read of {len} at {offset:#x}");
        }
        if offset % 4 != 0 {
            driver.transport().write(offset, &[0; 4]);
            let mut bytes = [0xff; 4];
            driver.transport().read(offset, &mut bytes);
            assert_eq!(bytes, [0; 4], "misaligned read at {offset:#x}");
        }
    }
    driver.transport().pause();
    assert_eq!(driver.transport().save(), before);
    driver.transport().resume();
    assert_works(&mut driver);
}

#[test]
fn case_03_registers_are_what_the_specification_says() {
    let mut driver = idle();
    assert_eq!(driver.read(0x000), 0x7472_6976);
    assert_eq!(driver.read(0x004), 2);
    assert_eq!(driver.read(0x008), 4);
    assert_eq!(driver.read(0x034), 16);
    driver.write(0x14, 1);
    assert_eq!(driver.read(0x10) & 1, 1, "VIRTIO_F_VERSION_1");
    // Registers that are not there, or that only take writes.
    for offset in [0x00c + 0x10, 0x040, 0x04c, 0x050, 0x064, 0x080, 0x0f8] {
        if offset != 0x01c {
            assert_eq!(driver.read(offset), 0, "{offset:#x}");
        }
    }
    // No shared memory region: a length of all ones.
    assert_eq!(driver.read(0x0b0), u32::MAX);
    assert_eq!(driver.read(0x0b4), u32::MAX);
    // A configuration space of no bytes.
    assert_eq!(driver.read(0x100), 0);
}
