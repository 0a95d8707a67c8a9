//! Exec, attach and port-forward: what containerd's streaming server speaks over WebSocket.
//!
//! CRI's Exec, Attach and PortForward answer with an address. kubelet passes the API server's
//! connection on to it, which is SPDY or WebSocket by version; containerd serves both, and what
//! reaches the shim is the same. Each message begins with its channel's number.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

use crate::wait::slowness;

/// Standard input, towards the container.
pub const STDIN: u8 = 0;
/// Standard output; with a terminal, everything.
const STDOUT: u8 = 1;
/// Standard error.
const STDERR: u8 = 2;
/// How it ended, as JSON, from the server.
const ERROR: u8 = 3;
/// The terminal's size, as JSON, towards the server.
const RESIZE: u8 = 4;

/// A connection to the streaming server.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    kept: Transcript,
}

/// Everything that came until the server closed the connection.
#[derive(Debug, Default)]
pub struct Transcript {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The status, as JSON.
    pub status: String,
}

impl Stream {
    /// Connects to an address that Exec, Attach or PortForward gave.
    ///
    /// # Errors
    ///
    /// If it is not served, or not by WebSocket.
    pub fn open(url: &str) -> Result<Self> {
        let address = url
            .strip_prefix("http://")
            .with_context(|| format!("the streaming address {url:?} is not of http"))?;
        let host = address.split('/').next().unwrap_or_default();
        let tcp = TcpStream::connect(host).with_context(|| format!("streaming server {host}"))?;
        tcp.set_read_timeout(Some(Duration::from_secs(20) * slowness()))?;
        let mut request = format!("ws://{address}").into_client_request()?;
        request.headers_mut().insert(
            "Sec-WebSocket-Protocol",
            HeaderValue::from_static("v4.channel.k8s.io"),
        );
        let (socket, _) = tungstenite::client(request, tcp)
            .map_err(|error| anyhow!("WebSocket to {url}: {error}"))?;
        Ok(Self {
            socket,
            kept: Transcript::default(),
        })
    }

    /// Sends to a channel.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        let message = [&[channel], bytes].concat();
        self.socket
            .send(Message::binary(message))
            .with_context(|| format!("sending to channel {channel}"))
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let size = format!(r#"{{"Width":{columns},"Height":{rows}}}"#);
        self.send(RESIZE, size.as_bytes())
    }

    /// The next message; none after the server has closed the connection.
    ///
    /// # Errors
    ///
    /// If nothing comes, or the connection breaks.
    pub fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => {
                    let (channel, rest) = bytes.split_first().context("a message of no channel")?;
                    return Ok(Some((*channel, rest.to_vec())));
                }
                Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => {
                    return Ok(None);
                }
                // Go's server ends the TCP connection without WebSocket's goodbye.
                Err(tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                )) => return Ok(None),
                Ok(Message::Text(text)) => bail!("a text message: {text:?}"),
                Ok(_) => {}
                Err(error) => return Err(error).context("reading from the streaming server"),
            }
        }
    }

    /// Reads until standard output has this; answers with everything that it had. What comes on the
    /// other channels meanwhile is kept for [`Stream::rest`].
    ///
    /// # Errors
    ///
    /// If the connection ends first.
    pub fn read_until(&mut self, text: &str) -> Result<String> {
        loop {
            let so_far = String::from_utf8_lossy(&self.kept.stdout).into_owned();
            if so_far.contains(text) {
                self.kept.stdout.clear();
                return Ok(so_far);
            }
            if !self.keep_next()? {
                bail!("the stream ended before {text:?}: {:?}", self.kept);
            }
        }
    }

    /// Reads everything to the end.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or has channels that exec and attach do not have.
    pub fn rest(mut self) -> Result<Transcript> {
        while self.keep_next()? {}
        Ok(self.kept)
    }

    /// Keeps one message; whether there was one.
    fn keep_next(&mut self) -> Result<bool> {
        let Some((channel, bytes)) = self.receive()? else {
            return Ok(false);
        };
        match channel {
            STDOUT => self.kept.stdout.extend(bytes),
            STDERR => self.kept.stderr.extend(bytes),
            ERROR => self.kept.status += &String::from_utf8_lossy(&bytes),
            other => bail!("a message on channel {other}"),
        }
        Ok(true)
    }
}

impl Transcript {
    /// Fails unless the command is said to have ended well.
    ///
    /// # Errors
    ///
    /// With the status that there is.
    pub fn succeeded(self) -> Result<Self> {
        ensure!(
            self.status.contains(r#""status":"Success""#),
            "ended with {:?}; stdout {:?}, stderr {:?}",
            self.status,
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr),
        );
        Ok(self)
    }
}
