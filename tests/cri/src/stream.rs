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
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How it ended, as JSON, from the server.
pub const ERROR: u8 = 3;
/// The terminal's size, as JSON, towards the server.
const RESIZE: u8 = 4;

/// A connection to the streaming server.
pub struct Stream {
    socket: WebSocket<TcpStream>,
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
        Ok(Self { socket })
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

    /// Reads a channel until it has this; answers with everything that it had.
    ///
    /// # Errors
    ///
    /// If the connection ends first.
    pub fn read_until(&mut self, channel: u8, text: &str) -> Result<String> {
        let mut seen = Vec::new();
        loop {
            let Some((from, bytes)) = self.receive()? else {
                bail!(
                    "the stream ended before {text:?}; channel {channel} had {:?}",
                    String::from_utf8_lossy(&seen),
                );
            };
            if from == channel {
                seen.extend(bytes);
            } else if from == ERROR && !bytes.is_empty() {
                bail!("ended before {text:?}: {}", String::from_utf8_lossy(&bytes));
            }
            let so_far = String::from_utf8_lossy(&seen);
            if so_far.contains(text) {
                return Ok(so_far.into_owned());
            }
        }
    }

    /// Reads everything to the end.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or has channels that exec and attach do not have.
    pub fn rest(mut self) -> Result<Transcript> {
        let mut transcript = Transcript::default();
        while let Some((channel, bytes)) = self.receive()? {
            match channel {
                STDOUT => transcript.stdout.extend(bytes),
                STDERR => transcript.stderr.extend(bytes),
                ERROR => transcript.status += &String::from_utf8_lossy(&bytes),
                other => bail!("a message on channel {other}"),
            }
        }
        Ok(transcript)
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
