//! All channels, driven by one event loop.

use std::collections::HashMap;
use std::io;

use super::channel::{BUFFER_LEN, Channel, Direction, Progress};
use crate::events::{Interest, Kind, Poller, Token};

/// Name of a channel, never used again.
pub(crate) type ChannelId = u64;

/// Moves the bytes of all streams in the thread that calls it.
///
/// A channel whose destination takes nothing waits for that and holds at most a buffer of its own, so a
/// slow reader on the host slows down its own stream and no other.
#[derive(Debug)]
pub(crate) struct Pump {
    channels: HashMap<ChannelId, (Channel, Progress)>,
    buffer: Vec<u8>,
}

impl Pump {
    /// Holds no channel.
    pub(crate) fn new() -> Self {
        Self {
            channels: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// Takes a channel and starts moving its bytes.
    pub(crate) fn add(
        &mut self,
        id: ChannelId,
        channel: Channel,
        poller: &Poller,
    ) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER_LEN];
        }
        poller.add(
            channel.source(),
            Token::new(Kind::ChannelSource, id),
            Interest::Read,
        )?;
        poller.add(
            channel.destination(),
            Token::new(Kind::ChannelDestination, id),
            Interest::Errors,
        )?;
        self.channels.insert(id, (channel, Progress::WaitSource));
        Ok(())
    }

    /// Goes on with a channel on one of whose ends something happened. True when it has finished.
    pub(crate) fn run(&mut self, id: ChannelId, end: Kind, failed: bool, poller: &Poller) -> bool {
        let Some((channel, waiting)) = self.channels.get_mut(&id) else {
            return false;
        };
        // A connection or a pipe that nobody reads any more; waiting for the source would not notice.
        let progress = if end == Kind::ChannelDestination && failed {
            Progress::Finished
        } else {
            channel.run(&mut self.buffer)
        };
        if progress == Progress::Finished || !follow(channel, *waiting, progress, id, poller) {
            // Copies of these descriptors may live on, and closing one of several ends no registration.
            poller.remove(channel.source());
            poller.remove(channel.destination());
            self.channels.remove(&id);
            return true;
        }
        *waiting = progress;
        false
    }

    /// Ends a channel's source after what it has now. True when that has finished it.
    pub(crate) fn end_source(&mut self, id: ChannelId, poller: &Poller) -> bool {
        let Some((channel, _)) = self.channels.get_mut(&id) else {
            return false;
        };
        channel.end_source();
        self.run(id, Kind::ChannelSource, false, poller)
    }

    /// Whether every container's output has been passed on.
    pub(crate) fn is_drained(&self) -> bool {
        let is_output =
            |direction| matches!(direction, Direction::PipeOut | Direction::TerminalOut);
        !self
            .channels
            .values()
            .any(|(channel, _)| is_output(channel.direction()))
    }
}

/// Waits for what the channel needs next. False if that cannot be waited for.
fn follow(
    channel: &Channel,
    before: Progress,
    now: Progress,
    id: ChannelId,
    poller: &Poller,
) -> bool {
    if before == now {
        return true;
    }
    let (source, destination) = match now {
        Progress::WaitSource => (Interest::Read, Interest::Errors),
        _ => (Interest::Errors, Interest::Write),
    };
    let source = poller.change(
        channel.source(),
        Token::new(Kind::ChannelSource, id),
        source,
    );
    let token = Token::new(Kind::ChannelDestination, id);
    source
        .and(poller.change(channel.destination(), token, destination))
        .is_ok()
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
