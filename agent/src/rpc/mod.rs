//! Calls of the host.

mod codec;
mod connection;
mod error;
mod resources;
mod service;

pub(crate) use connection::Connection;
pub(crate) use error::Refusal;
pub(crate) use service::{answer, serve};

/// Which call of which connection an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    pub(crate) connection: u64,
    pub(crate) stream: u32,
}
