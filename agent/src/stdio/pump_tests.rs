use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::pipe::PipeFlags;

use super::*;

/// Runs a pump in a thread until all its channels have finished, or `stop`.
fn drive(channels: Vec<Channel>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        let (poller, mut pump) = (Poller::new().unwrap(), Pump::new());
        for (id, channel) in (0..).zip(channels) {
            pump.add(id, channel, &poller).unwrap();
        }
        while !pump.channels.is_empty() && !stop.load(Ordering::Relaxed) {
            for ready in poller.wait(Some(Duration::from_millis(20))).unwrap() {
                pump.run(ready.id, ready.kind, ready.failed, &poller);
            }
        }
    })
}

fn never() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

/// The host's end and the agent's.
fn connection() -> (UnixStream, OwnedFd) {
    let (host, agent) = UnixStream::pair().unwrap();
    agent.set_nonblocking(true).unwrap();
    (host, agent.into())
}

/// A pipe whose agent end does not block: the reading one for output, the writing one for input.
fn pipe(agent_reads: bool) -> (OwnedFd, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(if agent_reads { &read } else { &write }, true).unwrap();
    (read, write)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 17)) as u8).collect()
}

#[test]
fn a_hundred_mebibytes_of_output_arrive_intact_and_then_end() {
    let (read, write) = pipe(true);
    let (mut host, agent) = connection();
    let pump = drive(vec![Channel::new(read, agent, Direction::PipeOut)], never());
    let sent = pattern(100 << 20);
    let expected = sent.clone();
    let writer = thread::spawn(move || std::fs::File::from(write).write_all(&sent).unwrap());
    let mut received = Vec::new();
    host.read_to_end(&mut received).unwrap();
    assert!(
        received == expected,
        "{} bytes of {}",
        received.len(),
        expected.len()
    );
    writer.join().unwrap();
    pump.join().unwrap();
}

#[test]
fn input_arrives_intact_and_its_half_close_closes_the_pipe() {
    let (read, write) = pipe(false);
    let (mut host, agent) = connection();
    let pump = drive(vec![Channel::new(agent, write, Direction::PipeIn)], never());
    let sent = pattern(10 << 20);
    let expected = sent.clone();
    let writer = thread::spawn(move || {
        host.write_all(&sent).unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        host
    });
    let mut received = Vec::new();
    std::fs::File::from(read)
        .read_to_end(&mut received)
        .unwrap();
    assert!(received == expected);
    let mut host = writer.join().unwrap();
    pump.join().unwrap();
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
}

#[test]
fn output_that_is_buffered_when_the_writer_ends_still_arrives() {
    let (read, write) = pipe(true);
    let (mut host, agent) = connection();
    rustix::io::write(&write, b"last words").unwrap();
    drop(write);
    let pump = drive(vec![Channel::new(read, agent, Direction::PipeOut)], never());
    let mut received = String::new();
    host.read_to_string(&mut received).unwrap();
    assert_eq!(received, "last words");
    pump.join().unwrap();
}

#[test]
fn a_second_writer_keeps_the_output_open() {
    let (read, write) = pipe(true);
    let background = write.try_clone().unwrap();
    let (mut host, agent) = connection();
    let pump = drive(vec![Channel::new(read, agent, Direction::PipeOut)], never());
    drop(write);
    host.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!(
        host.read(&mut [0]).is_err(),
        "the stream ended with the first writer"
    );
    drop(background);
    host.set_read_timeout(None).unwrap();
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    pump.join().unwrap();
}

#[test]
fn a_reader_that_stops_holds_up_no_other_stream() {
    let (slow_read, slow_write) = pipe(true);
    let (slow_host, slow_agent) = connection();
    let (read, write) = pipe(true);
    let (mut host, agent) = connection();
    let stop = never();
    let channels = vec![
        Channel::new(slow_read, slow_agent, Direction::PipeOut),
        Channel::new(read, agent, Direction::PipeOut),
    ];
    let pump = drive(channels, Arc::clone(&stop));
    // Fills pipe and connection and then waits, as its container would.
    let slow = thread::spawn(move || {
        let _ = std::fs::File::from(slow_write).write_all(&pattern(8 << 20));
    });
    let writer = thread::spawn(move || std::fs::File::from(write).write_all(&pattern(8 << 20)));
    let mut received = Vec::new();
    host.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), 8 << 20);
    writer.join().unwrap().unwrap();
    assert!(
        !slow.is_finished(),
        "nothing held the slow stream's writer back"
    );
    drop(slow_host);
    slow.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    pump.join().unwrap();
}

#[test]
fn a_host_that_goes_away_breaks_the_pipe() {
    let (read, write) = pipe(true);
    let (host, agent) = connection();
    let pump = drive(vec![Channel::new(read, agent, Direction::PipeOut)], never());
    drop(host);
    pump.join().unwrap();
    let result = rustix::io::write(&write, b"x");
    assert_eq!(result, Err(rustix::io::Errno::PIPE));
}

#[test]
fn a_container_that_closes_its_input_closes_the_connection() {
    let (read, write) = pipe(false);
    let (mut host, agent) = connection();
    let pump = drive(vec![Channel::new(agent, write, Direction::PipeIn)], never());
    drop(read);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    pump.join().unwrap();
}

#[test]
fn closing_the_input_delivers_what_was_sent_before() {
    let (read, write) = pipe(false);
    let (mut host, agent) = connection();
    host.write_all(b"sent").unwrap();
    let (poller, mut pump) = (Poller::new().unwrap(), Pump::new());
    pump.add(7, Channel::new(agent, write, Direction::PipeIn), &poller)
        .unwrap();
    assert!(pump.end_source(7, &poller));
    let mut received = String::new();
    std::fs::File::from(read)
        .read_to_string(&mut received)
        .unwrap();
    assert_eq!(received, "sent");
}

#[test]
fn a_terminal_carries_both_ways_and_ends_with_its_last_user() {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let Ok(master) = rustix::pty::openpt(flags) else {
        eprintln!("skipped: no /dev/ptmx here");
        return;
    };
    rustix::pty::unlockpt(&master).unwrap();
    let mut slave = std::fs::File::from(rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap());
    rustix::io::ioctl_fionbio(&master, true).unwrap();
    let (mut host, agent) = connection();
    let (agent_in, master_in) = (agent.try_clone().unwrap(), master.try_clone().unwrap());
    let channels = vec![
        Channel::new(agent_in, master_in, Direction::TerminalIn),
        Channel::new(master, agent, Direction::TerminalOut),
    ];
    let pump = drive(channels, never());
    host.write_all(b"in\n").unwrap();
    let mut line = [0; 3];
    slave.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"in\n");
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        slave.read(&mut line).unwrap(),
        0,
        "no end of file after the half-close"
    );
    slave.write_all(b"out").unwrap();
    drop(slave);
    let mut received = Vec::new();
    host.read_to_end(&mut received).unwrap();
    assert!(received.ends_with(b"out"), "{received:?}");
    pump.join().unwrap();
}
