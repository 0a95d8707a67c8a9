//! Standard streams: what a container reads and writes, on its way from and to the host.

mod channel;
mod pump;
mod streams;

pub(crate) use channel::{Channel, Direction};
pub(crate) use pump::Pump;
pub(crate) use streams::Streams;
