//! Chains of every legal shape, and what the cursors make of them.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::testkit::{Descriptor, Ring};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Two regions that touch at 1 MiB, a hole, and one more.
const BORDER: u64 = 1 << 20;
const HOLE: u64 = 2 << 20;
const BEHIND_HOLE: u64 = 3 << 20;

#[derive(Default)]
struct Counter(AtomicU32);

impl Interrupt for Counter {
    fn used_buffers(&self, _queue: u16) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn set_config(&self, _config: &[u8]) {}

    fn config_changed(&self) {}

    fn needs_reset(&self, _reason: &dyn Error) {}
}

struct Fixture {
    memory: Memory,
    ring: Ring,
    queue: ActiveQueue,
    interrupts: Arc<Counter>,
}

fn fixture(event_idx: bool) -> Fixture {
    let memory = GuestMemoryMmap::from_ranges(&[
        (GuestAddress(0), BORDER as usize),
        (GuestAddress(BORDER), (HOLE - BORDER) as usize),
        (GuestAddress(BEHIND_HOLE), 0x1_0000),
    ])
    .unwrap();
    let memory = Memory::new(memory);
    let ring = Ring::new(Memory::clone(&memory), 0x1000, 16);
    let saved = SavedQueue {
        max_size: 16,
        size: 16,
        next_avail: 0,
        next_used: 0,
        event_idx,
        desc_table: ring.desc(),
        avail_ring: ring.avail(),
        used_ring: ring.used(),
    };
    let interrupts = Arc::new(Counter::default());
    let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let queue = ActiveQueue::new(
        0,
        &saved,
        Memory::clone(&memory),
        &kick,
        Arc::clone(&interrupts) as Arc<dyn Interrupt>,
    )
    .unwrap();
    Fixture {
        memory,
        ring,
        queue,
        interrupts,
    }
}

fn segments(list: &[Segment]) -> Vec<(u64, u32)> {
    list.iter().map(|s| (s.addr.0, s.len)).collect()
}

fn write_table(memory: &Memory, at: u64, table: &[Descriptor]) {
    for (i, d) in (0_u64..).zip(table) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&d.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&d.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&d.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&d.next.to_le_bytes());
        memory
            .write_slice(&bytes, GuestAddress(at + 16 * i))
            .unwrap();
    }
}

#[test]
fn a_chain_is_the_same_direct_and_indirect() {
    let shape = [
        (0x1_0000, 4, false),
        (0x1_1000, 8, false),
        (0x1_2000, 16, true),
        (0x1_3000, 32, true),
    ];
    let mut f = fixture(false);
    let mut chain = Chain::new();
    f.ring.add(&shape).unwrap();
    let table: Vec<_> = (1_u16..)
        .zip(&shape)
        .map(|(next, (addr, len, write))| Descriptor {
            addr: *addr,
            len: *len,
            flags: if *write { WRITE } else { 0 } | if next < 4 { NEXT } else { 0 },
            next,
        })
        .collect();
    write_table(&f.memory, 0x2_0000, &table);
    f.ring.write_desc(
        10,
        Descriptor {
            addr: 0x2_0000,
            len: 64,
            flags: INDIRECT,
            next: 0,
        },
    );
    f.ring.publish(10);
    // One part direct, the rest in a table behind it.
    f.ring.write_desc(
        11,
        Descriptor {
            addr: shape[0].0,
            len: shape[0].1,
            flags: NEXT,
            next: 12,
        },
    );
    f.ring.write_desc(
        12,
        Descriptor {
            addr: 0x2_1000,
            len: 48,
            flags: INDIRECT,
            next: 0,
        },
    );
    let rest: Vec<_> = table[1..]
        .iter()
        .map(|d| Descriptor {
            next: d.next - 1,
            ..*d
        })
        .collect();
    write_table(&f.memory, 0x2_1000, &rest);
    f.ring.publish(11);
    for _ in 0..3 {
        assert!(f.queue.pop(&mut chain).unwrap());
        assert_eq!(segments(chain.readable()), [(0x1_0000, 4), (0x1_1000, 8)]);
        assert_eq!(segments(chain.writable()), [(0x1_2000, 16), (0x1_3000, 32)]);
    }
    assert!(!f.queue.pop(&mut chain).unwrap());
}

#[test]
fn buffers_of_no_bytes_are_passed_over() {
    let mut f = fixture(false);
    let mut chain = Chain::new();
    // Wherever they point to.
    f.ring
        .add(&[(u64::MAX, 0, false), (0x1_0000, 1, false), (HOLE, 0, true)])
        .unwrap();
    f.ring.add(&[(HOLE, 0, true)]).unwrap();
    assert!(f.queue.pop(&mut chain).unwrap());
    assert_eq!(segments(chain.readable()), [(0x1_0000, 1)]);
    assert!(chain.writable().is_empty());
    assert!(f.queue.pop(&mut chain).unwrap());
    assert_eq!(chain.reader(&f.memory).available(), 0);
    assert_eq!(chain.writer(&f.memory).available(), 0);
}

#[test]
fn case_04_a_buffer_may_cross_a_border_and_no_hole() {
    let mut f = fixture(false);
    let mut chain = Chain::new();
    f.memory
        .write_slice(b"abcdefgh", GuestAddress(BORDER - 4))
        .unwrap();
    f.ring
        .add(&[(BORDER - 4, 8, false), (HOLE - 8, 8, true)])
        .unwrap();
    assert!(f.queue.pop(&mut chain).unwrap());
    let mut bytes = [0; 8];
    let mut reader = chain.reader(&f.memory);
    assert_eq!(reader.clone().next_slice(8).unwrap().len(), 4);
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdefgh");
    for (addr, len) in [(HOLE - 8, 9), (HOLE, 1), (BEHIND_HOLE - 1, 2)] {
        let mut f = fixture(false);
        f.ring.add(&[(addr, len, true)]).unwrap();
        let fault = f.queue.pop(&mut chain).unwrap_err();
        assert!(matches!(fault, QueueFault::BufferOutside { .. }), "{fault}");
    }
}

#[test]
fn cursors_cut_anywhere() {
    let mut f = fixture(false);
    let mut chain = Chain::new();
    f.memory
        .write_slice(b"0123456789", GuestAddress(0x1_0000))
        .unwrap();
    f.ring
        .add(&[
            (0x1_0000, 3, false),
            (0x1_0003, 1, false),
            (0x1_0004, 6, false),
            (0x2_0000, 5, true),
            (0x2_0005, 5, true),
        ])
        .unwrap();
    assert!(f.queue.pop(&mut chain).unwrap());
    for from in 0..=10 {
        let mut reader = chain.reader(&f.memory);
        reader.skip(from).unwrap();
        let mut rest = vec![0; 10 - from];
        reader.read_exact(&mut rest).unwrap();
        assert_eq!(rest, &b"0123456789"[from..]);
        assert_eq!(
            reader.skip(1),
            Err(ShortChain {
                needed: 1,
                available: 0
            })
        );
        assert!(reader.next_slice(1).is_none());
        let mut writer = chain.writer(&f.memory);
        let mut first = writer.split(from).unwrap();
        assert_eq!((first.available(), writer.available()), (from, 10 - from));
        writer.write_all(&b"abcdefghij"[from..]).unwrap();
        assert!(first.write_all(b"ABCDEFGHIJK").is_err());
        first.write_all(&b"ABCDEFGHIJ"[..from]).unwrap();
        assert!(first.next_slice(10).is_none(), "no further than it was cut");
        let mut bytes = [0; 10];
        f.memory
            .read_slice(&mut bytes, GuestAddress(0x2_0000))
            .unwrap();
        let expected = [&b"ABCDEFGHIJ"[..from], &b"abcdefghij"[from..]].concat();
        assert_eq!(bytes[..], expected);
    }
    assert!(chain.writer(&f.memory).split(11).is_err());
    assert!(chain.reader(&f.memory).skip(11).is_err());
}

#[test]
fn chains_that_were_given_back_come_again_in_order() {
    let mut f = fixture(true);
    let mut chain = Chain::new();
    let heads: Vec<_> = (0..4)
        .map(|i| f.ring.add(&[(0x1_0000 + 16 * i, 16, true)]).unwrap())
        .collect();
    for head in &heads {
        assert!(f.queue.pop(&mut chain).unwrap());
        assert_eq!(chain.head(), *head);
    }
    f.queue.unpop(3);
    f.queue.push_used(heads[0], 0).unwrap();
    for head in &heads[1..] {
        assert!(f.queue.pop(&mut chain).unwrap());
        assert_eq!(chain.head(), *head);
    }
    assert!(!f.queue.pop(&mut chain).unwrap());
    f.queue.unpop(1);
    assert_eq!(f.queue.save().next_avail, 3);
}

#[test]
fn interrupts_come_when_they_were_asked_for() {
    let mut f = fixture(true);
    let mut chain = Chain::new();
    for _ in 0..3 {
        f.ring.add(&[(0x1_0000, 16, true)]).unwrap();
    }
    let mut serve = |f: &mut Fixture| {
        assert!(f.queue.pop(&mut chain).unwrap());
        f.queue.push_used(chain.head(), 16).unwrap();
        f.queue.notify().unwrap();
        f.interrupts.0.load(Ordering::SeqCst)
    };
    assert_eq!(serve(&mut f), 1, "the first was asked for");
    assert_eq!(serve(&mut f), 1, "the driver has not asked again");
    while f.ring.take_used().is_some() {}
    assert_eq!(serve(&mut f), 2);
    f.queue.notify().unwrap();
    assert_eq!(f.interrupts.0.load(Ordering::SeqCst), 2, "nothing is new");
}

#[test]
fn chains_that_are_pushed_together_appear_at_once_and_wrap() {
    let mut f = fixture(true);
    let mut chain = Chain::new();
    // Three turns of the ring, seven at a time.
    for round in 0..48_u32 {
        let mut together = Vec::new();
        for i in 0..7 {
            let head = f.ring.add(&[(0x1_0000, 16, true)]).unwrap();
            assert!(f.queue.pop(&mut chain).unwrap());
            together.push((head, round * 7 + i));
        }
        f.queue.push_used_together(&together).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| f.ring.take_used()).collect();
        assert_eq!(taken, together);
    }
    f.queue.push_used_together(&[]).unwrap();
    assert_eq!(f.ring.take_used(), None);
    assert_eq!(f.queue.save().next_used, 48 * 7);
}

#[test]
fn an_interrupt_is_due_for_any_of_the_chains_pushed_together() {
    // The driver waits for the first, for one in the middle, for the last.
    for wait_for in 0..4 {
        let mut f = fixture(true);
        let mut chain = Chain::new();
        let heads: Vec<_> = (0..8)
            .map(|_| f.ring.add(&[(0x1_0000, 16, true)]).unwrap())
            .collect();
        while f.queue.pop(&mut chain).unwrap() {}
        f.ring.write_used_event(wait_for);
        let mut push = |from: usize, to: usize| {
            let part: Vec<_> = heads[from..to].iter().map(|head| (*head, 1)).collect();
            f.queue.push_used_together(&part).unwrap();
            f.queue.notify().unwrap();
            f.interrupts.0.load(Ordering::SeqCst)
        };
        assert_eq!(push(0, 4), 1, "used_event is {wait_for}");
        assert_eq!(push(4, 8), 1, "the driver has not asked again");
    }
}

#[test]
fn case_04_an_entry_that_appears_late_is_the_next_calls() {
    let mut f = fixture(true);
    // Looks and publications at the same time must never look like a broken chain.
    let memory = Memory::clone(&f.memory);
    let mut ring = f.ring.clone();
    let driver = std::thread::spawn(move || {
        let _memory = memory;
        for _ in 0..20_000 {
            let start = std::time::Instant::now();
            while ring.add(&[(0x1_0000, 16, true)]).is_none() {
                while ring.take_used().is_some() {}
                assert!(start.elapsed().as_secs() < 10);
            }
        }
    });
    let mut chain = Chain::new();
    let mut served = 0;
    while served < 20_000 {
        if f.queue.pop(&mut chain).unwrap() {
            f.queue.push_used(chain.head(), 16).unwrap();
            served += 1;
        }
    }
    driver.join().unwrap();
}

#[test]
fn sizes_are_powers_of_two() {
    for size in [1, 2, 128, 32768] {
        assert_eq!(QueueSize::new(size).map(QueueSize::get), Some(size));
    }
    for size in [0, 3, 127, 129, 65535] {
        assert_eq!(QueueSize::new(size), None);
    }
}
