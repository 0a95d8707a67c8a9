//! Connections and requests of probes and hooks.
//!
//! Without a host they go to the guest's localhost, through the agent. With one they go from this machine,
//! as the kubelet's do from the node.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Instant;

use agent_protocol::client::OpenStreamError;
use agent_protocol::frame::FrameError;
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::HttpGet;
use crate::container::ContainerError;
use crate::logging::one_line;
use crate::pod::Pod;

/// Redirections that are followed (Go's http.Client).
const MAX_REDIRECTIONS: usize = 10;
/// Longest head of an answer.
const MAX_HEAD: usize = 16 << 10;
/// Where a probe without a host asks.
const LOCALHOST: &str = "127.0.0.1";

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum HttpError {
    /// Nobody took the connection.
    Dial { address: String, why: String },
    /// There was no answer in time.
    TimedOut,
    /// What came is no answer.
    Answer(String),
}

impl HttpError {
    /// In Go's words, which the kubelet passes on.
    pub fn told(&self) -> String {
        match self {
            Self::Dial { address, why } => format!("dial tcp {address}: {why}"),
            Self::TimedOut => "i/o timeout".into(),
            Self::Answer(why) => why.clone(),
        }
    }
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof => Self::Answer("EOF".into()),
            _ => Self::Answer(in_words(&error)),
        }
    }
}

/// A system's error as Go writes it: without number and capital.
fn in_words(error: &io::Error) -> String {
    plain(&error.to_string())
}

fn plain(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or(text);
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

/// A connection that must have done its work at some time.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    until: Instant,
}

impl Connection {
    /// Connects to `port` of `host`, or of the guest's localhost.
    pub fn dial(
        pod: &Pod,
        host: Option<&str>,
        port: u16,
        until: Instant,
    ) -> Result<Self, HttpError> {
        let name = host.unwrap_or(LOCALHOST);
        let address = match name.contains(':') {
            true => format!("[{name}]:{port}"),
            false => format!("{name}:{port}"),
        };
        let socket = match host {
            None => dial_guest(pod, port, until),
            Some(host) => dial_host(host, port, until),
        };
        match socket {
            Ok(socket) => Ok(Self { socket, until }),
            Err(HttpError::TimedOut) => Err(HttpError::Dial {
                address,
                why: "i/o timeout".into(),
            }),
            Err(error) => Err(HttpError::Dial {
                address,
                why: error.told(),
            }),
        }
    }

    fn wait_at_most(&self, kind: Timeout) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(set_socket_timeout(&self.socket, kind, Some(left))?)
    }
}

fn dial_guest(pod: &Pod, port: u16, until: Instant) -> Result<OwnedFd, HttpError> {
    match pod.dial_localhost_until(port, until) {
        Ok(connection) => Ok(connection.into()),
        // "connect to port 80: Connection refused (os error 111)"
        Err(ContainerError::Open(OpenStreamError::Refused { reason })) => {
            let why = reason.rsplit(": ").next().unwrap_or(&reason);
            Err(HttpError::Answer(format!("connect: {}", plain(why))))
        }
        Err(ContainerError::Open(OpenStreamError::Frame(FrameError::Io(error))))
        | Err(ContainerError::Connect(error)) => Err(error.into()),
        Err(error) => Err(HttpError::Answer(one_line(&error))),
    }
}

fn dial_host(host: &str, port: u16, until: Instant) -> Result<OwnedFd, HttpError> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| HttpError::Answer(format!("lookup {host}: {error}")))?;
    let mut last = HttpError::Answer(format!("lookup {host}: no such host"));
    for address in found {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HttpError::TimedOut);
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream.into()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => last = HttpError::TimedOut,
            Err(error) => last = HttpError::Answer(format!("connect: {}", in_words(&error))),
        }
    }
    Err(last)
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait_at_most(Timeout::Recv)?;
        // A socket with a time-out is not read again by itself after a signal.
        Ok(retry_on_intr(|| {
            rustix::io::read(&self.socket, &mut *buffer)
        })?)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_at_most(Timeout::Send)?;
        let flags = rustix::net::SendFlags::NOSIGNAL;
        Ok(retry_on_intr(|| {
            rustix::net::send(&self.socket, bytes, flags)
        })?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the request, and gives the status of the answer, in the end that redirections lead to.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn get(pod: &Pod, get: &HttpGet, until: Instant) -> Result<u16, String> {
    let mut place = Place::of(get);
    for _ in 0..=MAX_REDIRECTIONS {
        let url = place.url();
        let answer = Connection::dial(pod, get.host.as_deref(), place.port, until)
            .and_then(|connection| ask(connection, &place, &get.headers));
        let head = answer.map_err(|error| match error {
            HttpError::TimedOut => format!(
                "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ),
            other => format!("Get {url:?}: {}", other.told()),
        })?;
        let next = head.location.filter(|_| is_redirection(head.status));
        // One to another host is an answer, and its host is not asked.
        match next.and_then(|location| place.at(&location)) {
            Some(next) => place = next,
            None => return Ok(head.status),
        }
    }
    Err(format!(
        "Get {:?}: stopped after {MAX_REDIRECTIONS} redirects",
        place.url()
    ))
}

fn is_redirection(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// What is asked for, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    fn of(get: &HttpGet) -> Self {
        let host = get.host.clone().unwrap_or_else(|| LOCALHOST.into());
        Self {
            tls: get.tls,
            host: match host.contains(':') {
                true => format!("[{host}]"),
                false => host,
            },
            port: get.port,
            path: get.path.clone(),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}{}", self.host, self.port, self.path)
    }

    /// Where `location` leads; `None` if that is another host, or nowhere.
    fn at(&self, location: &str) -> Option<Self> {
        let mut next = self.clone();
        if let Some(path) = location.strip_prefix('/').filter(|p| !p.starts_with('/')) {
            next.path = format!("/{path}");
            return Some(next);
        }
        let (scheme, rest) = location.split_once("://")?;
        next.tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let rest = authority.strip_prefix(self.host.as_str())?;
        next.port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => {
                if next.tls {
                    443
                } else {
                    80
                }
            }
            None => return None,
        };
        next.path = path.to_owned();
        Some(next)
    }
}

/// The part of an answer that counts.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    location: Option<String>,
}

fn ask(
    mut connection: Connection,
    place: &Place,
    headers: &[(String, String)],
) -> Result<Head, HttpError> {
    let request = request(place, headers);
    if !place.tls {
        connection.write_all(request.as_bytes())?;
        return read_head(connection);
    }
    let mut session = super::tls::session(&place.host)
        .map_err(|error| HttpError::Answer(format!("tls: {error}")))?;
    let mut stream = rustls::Stream::new(&mut session, &mut connection);
    stream.write_all(request.as_bytes())?;
    read_head(stream)
}

fn request(place: &Place, headers: &[(String, String)]) -> String {
    let given = |name: &str| {
        headers
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
    };
    let mut text = format!("GET {} HTTP/1.1\r\n", place.path);
    for (name, value) in [
        ("Host", format!("{}:{}", place.host, place.port)),
        (
            "User-Agent",
            concat!("podvmm-probe/", env!("CARGO_PKG_VERSION")).into(),
        ),
        ("Accept", "*/*".into()),
    ] {
        if !given(name) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("Connection: close\r\n\r\n");
    text
}

/// Reads up to the empty line; interim answers are passed over.
fn read_head(mut from: impl Read) -> Result<Head, HttpError> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = parse_head(&String::from_utf8_lossy(&bytes[..end]))?;
            if head.status >= 200 {
                return Ok(head);
            }
            bytes.drain(..end + 4);
        }
        if bytes.len() > MAX_HEAD {
            return Err(HttpError::Answer("the answer's headers have no end".into()));
        }
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        bytes.extend_from_slice(&buffer[..length]);
    }
}

fn parse_head(text: &str) -> Result<Head, HttpError> {
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let malformed = || HttpError::Answer(format!("malformed HTTP response {first:?}"));
    let rest = first.strip_prefix("HTTP/1.").ok_or_else(malformed)?;
    let status = rest.split(' ').nth(1).ok_or_else(malformed)?;
    let status = match status.parse() {
        Ok(status @ 100..=999) => status,
        _ => return Err(malformed()),
    };
    let location = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location")
            .then(|| value.trim().to_owned())
    });
    Ok(Head { status, location })
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
