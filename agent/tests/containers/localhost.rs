//! Connections to servers on the pod's localhost.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use agent_protocol::client::{self, OpenStreamError};
use agent_protocol::proto::StreamOpen;
use agent_protocol::proto::stream_open::Stream;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Case;
use crate::pod::{Pod, collect};

pub const CASES: &[Case] = &[
    (
        "localhost_is_reached_both_ways",
        localhost_is_reached_both_ways,
    ),
    (
        "a_port_without_a_server_is_refused",
        a_port_without_a_server_is_refused,
    ),
];

/// A server in the pod's network namespace; its port.
fn listen(pod: &Pod, address: &'static str) -> (TcpListener, u16) {
    let pid = pod.agent_pid();
    let up = ["-n", "-t", &pid, "ip", "link", "set", "lo", "up"];
    assert!(Command::new("nsenter").args(up).status().unwrap().success());
    let netns = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let inside = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind(address).unwrap()
    };
    let listener = thread::spawn(inside).join().unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn dial(pod: &Pod, port: u32) -> Result<UnixStream, OpenStreamError> {
    let mut connection = pod.stream_connection();
    let open = StreamOpen {
        stream: Stream::LOCALHOST.into(),
        port,
        ..Default::default()
    };
    client::open_stream(&mut connection, &open)?;
    Ok(connection)
}

fn localhost_is_reached_both_ways(pod: &Pod) {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, port) = listen(pod, address);
        let mut host = dial(pod, port.into()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i ^ (i >> 9)) as u8).collect();
        let answers = collect(host.try_clone().unwrap());
        let echo = thread::spawn(move || {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).unwrap();
            server.write_all(&heard).unwrap();
        });
        host.write_all(&sent).unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        assert!(answers.join().unwrap() == sent, "{address}");
        echo.join().unwrap();
        // A server that goes away is an end for the host.
        let mut host = dial(pod, port.into()).unwrap();
        drop(listener.accept().unwrap());
        assert_eq!(host.read(&mut [0]).unwrap(), 0);
    }
}

fn a_port_without_a_server_is_refused(pod: &Pod) {
    let (listener, port) = listen(pod, "127.0.0.1:0");
    drop(listener);
    for (port, words) in [
        (port.into(), "refused"),
        (0, "no port 0"),
        (65_536, "no port 65536"),
    ] {
        match dial(pod, port) {
            Err(OpenStreamError::Refused { reason }) => {
                assert!(reason.contains(words), "{port}: {reason}");
            }
            other => panic!("{port}: {other:?}"),
        }
    }
}
