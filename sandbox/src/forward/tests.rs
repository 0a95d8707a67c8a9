use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use super::*;

/// Answers on ports as the test says, and notes what came to nothing.
struct Fake<F> {
    pod: F,
    failures: Mutex<Sender<(u16, io::Error)>>,
}

impl<F> Dial for Fake<F>
where
    F: Fn(UnixStream) + Send + Sync + Clone + 'static,
{
    type Error = io::Error;

    fn dial(&self, port: u16) -> io::Result<UnixStream> {
        if port != 80 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        let pod = self.pod.clone();
        std::thread::spawn(move || pod(theirs));
        Ok(ours)
    }

    fn failed(&self, port: u16, error: io::Error) {
        let _ = self.failures.lock().unwrap().send((port, error));
    }
}

fn local(host: u16, pod: u16) -> PortPlan {
    PortPlan {
        address: Some(Ipv4Addr::LOCALHOST.into()),
        host,
        pod,
    }
}

/// Forwards to `pod`; the forwarder, its address, and failures.
fn forward<F>(
    port: u16,
    pod: F,
) -> (
    Forwarder,
    SocketAddr,
    std::sync::mpsc::Receiver<(u16, io::Error)>,
)
where
    F: Fn(UnixStream) + Send + Sync + Clone + 'static,
{
    let sockets = listen(&[local(0, port)]).unwrap();
    let address = sockets[0].socket.local_addr().unwrap();
    let (tell, told) = channel();
    let fake = Fake {
        pod,
        failures: Mutex::new(tell),
    };
    (Forwarder::start(sockets, fake).unwrap(), address, told)
}

/// More than all buffers on the way hold, and nowhere the same.
fn bulk() -> Vec<u8> {
    (0..1_000_000u32).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn bytes_and_ends_go_both_ways_at_once() {
    // The pod reads to the end before it answers: what it says comes after our half-close.
    let echo = |mut stream: UnixStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    };
    let (_forwarder, address, _) = forward(80, echo);
    let dialers: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&bulk()).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                assert!(back == bulk(), "{} bytes came back", back.len());
            })
        })
        .collect();
    for dialer in dialers {
        dialer.join().unwrap();
    }
}

#[test]
fn a_pod_that_closes_first_is_heard_to_the_end() {
    let (_forwarder, address, _) = forward(80, |mut stream: UnixStream| {
        stream.write_all(&bulk()).unwrap();
    });
    let mut stream = TcpStream::connect(address).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all == bulk(), "{} bytes came", all.len());
}

#[test]
fn a_port_where_nobody_listens_is_told_and_the_next_connection_is_tried() {
    let (_forwarder, address, failures) = forward(81, |_| ());
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (port, error) = failures.recv().unwrap();
        assert_eq!((port, error.kind()), (81, io::ErrorKind::ConnectionRefused));
    }
}

#[test]
fn connections_end_with_the_forwarder() {
    // It never says anything, and waits for ever.
    let (forwarder, address, _) = forward(80, |mut stream: UnixStream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    drop(forwarder);
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    TcpStream::connect(address).unwrap_err();
}

#[test]
fn a_connection_whose_pod_is_gone_ends_though_its_client_stays() {
    let (_forwarder, address, _) = forward(80, drop);
    let mut stream = TcpStream::connect(address).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    // It was closed, not only in one direction: what is written now is answered by a reset.
    let began = std::time::Instant::now();
    while stream.write_all(b"x").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn ports_that_cannot_be_had_are_named_with_a_remedy() {
    let first = listen(&[local(0, 80)]).unwrap();
    let taken = first[0].socket.local_addr().unwrap().port();
    let error = listen(&[local(0, 1), local(taken, 80)]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("127.0.0.1:{taken}")) && text.contains("choose another"),
        "{text}"
    );
    let all = PortPlan {
        address: None,
        ..local(taken, 80)
    };
    let text = listen(&[all]).unwrap_err().to_string();
    assert!(text.contains(&format!("port {taken} ")), "{text}");

    drop(first);
    let text = listen(&[local(taken, 80), all]).unwrap_err().to_string();
    assert!(text.contains("twice"), "{text}");
    let elsewhere = PortPlan {
        address: Some(IpAddr::from([192, 0, 2, 1])),
        ..local(taken, 80)
    };
    let text = listen(&[elsewhere]).unwrap_err().to_string();
    assert!(
        text.contains("192.0.2.1") && text.contains("ip addr"),
        "{text}"
    );
    // Nothing of a list that failed is still taken.
    listen(&[local(taken, 80)]).unwrap();
}
