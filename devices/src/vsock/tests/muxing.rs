//! The muxer over a fake host: time, turns and tables, without a thread or a socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Instant;

use vm_memory::VolatileSlice;

use super::super::buffers::GuestBuffers;
use super::super::connection::{Next, Payload, Readiness};
use super::super::muxer::{MAX_STRAYS, Muxer, REQUEST_TIMEOUT, Slot, Turn};
use super::super::packet::{Key, Packet};
use super::super::stream::{Backend, Stream};
use super::*;
use crate::vsock::spec::{Op, SHUTDOWN_BOTH, SHUTDOWN_SEND};

/// What a fake host program has got, will give, and how much it takes.
#[derive(Default)]
struct Program {
    got: Vec<u8>,
    gives: VecDeque<u8>,
    takes: usize,
    is_closed: bool,
    sees_end: bool,
    watches_writable: bool,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Program>>);

impl Stream for Fake {
    fn send(&mut self, data: &GuestBuffers<'_>) -> io::Result<usize> {
        let mut sent = 0;
        for piece in data.iter() {
            let mut bytes = vec![0; piece.len()];
            piece.copy_to(&mut bytes[..]);
            match self.send_bytes(&[IoSlice::new(&bytes)]) {
                Ok(len) => sent += len,
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn send_bytes(&mut self, data: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut program = self.0.borrow_mut();
        if program.is_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let bytes: Vec<u8> = data.iter().flat_map(|part| part.iter().copied()).collect();
        let len = bytes.len().min(program.takes);
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        program.takes -= len;
        program.got.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn receive(&mut self, room: &GuestBuffers<'_>) -> io::Result<usize> {
        let mut program = self.0.borrow_mut();
        let len = room.len().min(program.gives.len());
        if len == 0 && !program.is_closed {
            return Err(ErrorKind::WouldBlock.into());
        }
        program.gives.drain(..len);
        Ok(len)
    }

    fn shutdown(&mut self, how: Shutdown) {
        self.0.borrow_mut().sees_end |= how != Shutdown::Read;
    }

    fn watch_writable(&mut self, on: bool) {
        self.0.borrow_mut().watches_writable = on;
    }
}

/// Port `P` is the program number `P`.
struct FakeHost(Vec<Fake>);

impl Backend for FakeHost {
    type Stream = Fake;

    fn connect(&mut self, port: u32, _token: u64) -> io::Result<Fake> {
        let program = self.0.get(port as usize).cloned();
        program.ok_or_else(|| ErrorKind::ConnectionRefused.into())
    }
}

struct Bytes(&'static [u8]);

impl Payload for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn buffers(&self, from: usize) -> GuestBuffers<'_> {
        // Leaked: what stands for guest memory here outlives the test.
        let memory = Box::leak(self.0[from..].to_vec().into_boxed_slice());
        let mut buffers = GuestBuffers::new();
        buffers.push(VolatileSlice::from(memory));
        buffers
    }
}

fn muxer(programs: usize) -> (Muxer<FakeHost>, Vec<Fake>) {
    let programs = vec![(); programs];
    let programs: Vec<Fake> = programs.into_iter().map(|()| Fake::default()).collect();
    for program in &programs {
        program.0.borrow_mut().takes = usize::MAX;
    }
    let guest = GuestCid::try_from(3).unwrap();
    let limits = Limits {
        connections: 16,
        buffer: 1000,
    };
    (
        Muxer::new(FakeHost(programs.clone()), guest, limits, 0),
        programs,
    )
}

fn packet(op: Op, guest_port: u32, host_port: u32) -> Packet {
    Packet {
        key: Key {
            guest_port,
            host_port,
        },
        op,
        len: 0,
        flags: 0,
        buf_alloc: 1 << 20,
        fwd_cnt: 0,
    }
}

/// Takes the next turn as a receive queue with room would; what it was for.
fn step(muxer: &mut Muxer<FakeHost>) -> Option<(Slot, Next)> {
    match muxer.turn()? {
        Turn::Stray(_) => {
            muxer.stray_delivered();
            Some((Slot::MAX, Next::Nothing))
        }
        Turn::Connection(slot, next) => {
            let guest = muxer.guest();
            let connection = muxer.connection_mut(slot).unwrap();
            match next {
                Next::Control { op, flags } => {
                    connection.header(guest, op, flags, 0);
                    connection.delivered(op, flags);
                }
                Next::Data { limit, .. } => {
                    let mut memory = vec![0; 100.min(limit as usize)];
                    let mut room = GuestBuffers::new();
                    room.push(VolatileSlice::from(&mut memory[..]));
                    if connection.receive(&room) > 0 {
                        connection.header(guest, Op::Rw, 0, 100);
                    }
                }
                Next::Nothing => {}
            }
            muxer.turn_taken(slot);
            Some((slot, next))
        }
    }
}

fn op_of(step: Option<(Slot, Next)>) -> Option<(Op, u32)> {
    match step?.1 {
        Next::Control { op, flags } => Some((op, flags)),
        _ => None,
    }
}

fn drain(muxer: &mut Muxer<FakeHost>) -> Vec<(Op, u32)> {
    let mut ops = Vec::new();
    while let Some(taken) = step(muxer) {
        ops.extend(op_of(Some(taken)));
    }
    ops
}

/// Opens the guest's port 1 to program 0 and gives its slot.
fn open(muxer: &mut Muxer<FakeHost>) -> Slot {
    muxer.handle(&packet(Op::Request, 1, 0));
    let (slot, next) = step(muxer).unwrap();
    let response = Next::Control {
        op: Op::Response,
        flags: 0,
    };
    assert_eq!(next, response);
    drain(muxer);
    slot
}

fn data(muxer: &mut Muxer<FakeHost>, len: u32) -> bool {
    let mut data = packet(Op::Rw, 1, 0);
    data.len = len;
    match muxer.admit(&data) {
        Some(slot) => {
            muxer.send(slot, &Bytes(&[9; 1000][..len as usize]));
            true
        }
        None => false,
    }
}

#[test]
fn a_request_that_the_guest_does_not_answer_is_given_up() {
    let (mut muxer, _) = muxer(0);
    let now = Instant::now();
    let program = Fake::default();
    muxer.request(5, now, |_, _| Ok(program.clone())).unwrap();
    assert!(muxer.is_waiting());
    assert_eq!(op_of(step(&mut muxer)), Some((Op::Request, 0)));
    muxer.expire(now + REQUEST_TIMEOUT / 2);
    assert_eq!(muxer.len(), 1);
    muxer.expire(now + REQUEST_TIMEOUT);
    assert!(!muxer.is_waiting());
    assert_eq!(Rc::strong_count(&program.0), 1, "the stream is closed");
    assert_eq!(op_of(step(&mut muxer)), Some((Op::Rst, 0)));
    assert_eq!(muxer.len(), 0);
    // An answer that comes too late is told so.
    muxer.handle(&packet(Op::Response, 5, 1 << 30));
    assert_eq!(step(&mut muxer), Some((Slot::MAX, Next::Nothing)));
}

#[test]
fn a_request_that_was_not_yet_delivered_is_given_up_silently() {
    let (mut muxer, _) = muxer(0);
    let now = Instant::now();
    muxer.request(5, now, |_, _| Ok(Fake::default())).unwrap();
    muxer.restart_timers(now + REQUEST_TIMEOUT);
    muxer.expire(now + REQUEST_TIMEOUT);
    assert_eq!(muxer.len(), 1, "time stood still for a while");
    muxer.expire(now + 2 * REQUEST_TIMEOUT);
    assert_eq!(muxer.len(), 0);
    assert_eq!(drain(&mut muxer), []);
}

#[test]
fn turns_go_round() {
    let (mut muxer, programs) = muxer(4);
    for port in 0..4 {
        muxer.handle(&packet(Op::Request, 1, port));
    }
    drain(&mut muxer);
    for (slot, program) in programs.iter().enumerate() {
        program.0.borrow_mut().gives.extend([0; 1000]);
        let readiness = Readiness {
            readable: true,
            ..Readiness::default()
        };
        muxer.report(slot as Slot, readiness);
    }
    let order: Vec<_> = (0..40).map(|_| step(&mut muxer).unwrap().0).collect();
    for round in order.chunks(4) {
        let mut slots = round.to_vec();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3], "everybody once in each round");
    }
}

#[test]
fn what_the_program_does_not_take_is_kept_within_the_window() {
    let (mut muxer, programs) = muxer(1);
    let slot = open(&mut muxer);
    programs[0].0.borrow_mut().takes = 100;
    assert!(data(&mut muxer, 600));
    assert!(data(&mut muxer, 500), "100 bytes have left the buffer");
    assert!(programs[0].0.borrow().watches_writable);
    assert_eq!(drain(&mut muxer), [], "nothing to tell: the buffer is full");
    // The program takes some: the guest is told in good time.
    let writable = Readiness {
        writable: true,
        ..Readiness::default()
    };
    programs[0].0.borrow_mut().takes = 400;
    muxer.report(slot, writable);
    assert_eq!(drain(&mut muxer), [(Op::CreditUpdate, 0)]);
    programs[0].0.borrow_mut().takes = 10_000;
    muxer.report(slot, writable);
    assert_eq!(programs[0].0.borrow().got.len(), 1100);
    muxer.report(slot, writable);
    assert!(!programs[0].0.borrow().watches_writable);
    // One byte too many.
    drain(&mut muxer);
    programs[0].0.borrow_mut().takes = 0;
    assert!(data(&mut muxer, 1000));
    assert!(!data(&mut muxer, 1));
    assert_eq!(drain(&mut muxer), [(Op::Rst, 0)]);
}

#[test]
fn the_end_waits_for_what_was_kept_back() {
    let (mut muxer, programs) = muxer(1);
    let slot = open(&mut muxer);
    programs[0].0.borrow_mut().takes = 0;
    assert!(data(&mut muxer, 50));
    let mut shutdown = packet(Op::Shutdown, 1, 0);
    shutdown.flags = SHUTDOWN_SEND;
    muxer.handle(&shutdown);
    assert!(!programs[0].0.borrow().sees_end);
    shutdown.flags = SHUTDOWN_BOTH;
    muxer.handle(&shutdown);
    assert_eq!(drain(&mut muxer), [], "the reset comes when all is taken");
    programs[0].0.borrow_mut().takes = 50;
    let writable = Readiness {
        writable: true,
        ..Readiness::default()
    };
    muxer.report(slot, writable);
    assert!(programs[0].0.borrow().sees_end);
    assert_eq!(drain(&mut muxer), [(Op::Rst, 0)]);
    assert_eq!(muxer.len(), 0);
}

#[test]
fn case_06_a_gone_guests_data_drains_while_its_ports_are_used_again() {
    let (mut muxer, programs) = muxer(1);
    let slot = open(&mut muxer);
    programs[0].0.borrow_mut().takes = 0;
    assert!(data(&mut muxer, 50));
    muxer.handle(&packet(Op::Rst, 1, 0));
    assert_eq!(muxer.len(), 1);
    let again = open(&mut muxer);
    assert_ne!(slot, again);
    programs[0].0.borrow_mut().takes = 50;
    let writable = Readiness {
        writable: true,
        ..Readiness::default()
    };
    muxer.report(slot, writable);
    assert_eq!(programs[0].0.borrow().got, [9; 50]);
    assert_eq!(muxer.len(), 1);
    programs[0].0.borrow_mut().takes = 1;
    assert!(data(&mut muxer, 1), "the new one is where it was");
}

#[test]
fn case_06_tables_do_not_grow_with_what_a_guest_does() {
    let (mut muxer, _programs) = muxer(1);
    // Nobody takes turns: the receive queue has no buffers.
    for port in 0..10_000 {
        muxer.handle(&packet(Op::Request, port, 0));
        muxer.handle(&packet(Op::Rst, port, 0));
    }
    assert_eq!(muxer.len(), 0);
    assert!(muxer.queued_turns() <= 16, "one turn for each place");
    let mut answered = 0;
    while muxer.has_room() {
        muxer.handle(&packet(Op::Request, answered, 99));
        answered += 1;
    }
    assert_eq!(answered as usize, MAX_STRAYS);
    while step(&mut muxer).is_some() {}
    assert!(muxer.has_room());
    open(&mut muxer);
}

#[test]
fn a_starved_sender_asks_once_for_credit() {
    let (mut muxer, programs) = muxer(1);
    let mut request = packet(Op::Request, 1, 0);
    request.buf_alloc = 150;
    muxer.handle(&request);
    programs[0].0.borrow_mut().gives.extend([1; 400]);
    let ops = drain(&mut muxer);
    assert_eq!(ops, [(Op::Response, 0), (Op::CreditRequest, 0)]);
    assert_eq!(programs[0].0.borrow().gives.len(), 250);
    let mut update = packet(Op::CreditUpdate, 1, 0);
    update.buf_alloc = 150;
    update.fwd_cnt = 150;
    muxer.handle(&update);
    assert_eq!(drain(&mut muxer), [(Op::CreditRequest, 0)]);
    assert_eq!(programs[0].0.borrow().gives.len(), 100);
    // Answering without giving anything is not an invitation to ask for ever.
    muxer.handle(&update);
    assert_eq!(drain(&mut muxer), []);
}
