//! The event queue: news for the driver (virtio-v1.2 §5.10.6.7).

use vmm_sys_util::eventfd::EventFd;

use super::device::VsockFault;
use super::spec::{EVENT_TRANSPORT_RESET, Event};
use crate::Memory;
use crate::queue::{ActiveQueue, Chain};

/// The event queue, if the driver has set it up, and whether there is news.
pub struct Events {
    queue: Option<ActiveQueue>,
    memory: Memory,
    chain: Chain,
    is_reset_due: bool,
}

impl Events {
    /// `is_reset_due`: the driver must hear that its connections are lost.
    pub fn new(queue: Option<ActiveQueue>, memory: Memory, is_reset_due: bool) -> Self {
        Self {
            queue,
            memory,
            chain: Chain::new(),
            is_reset_due,
        }
    }

    pub fn kick(&self) -> Option<&EventFd> {
        self.queue.as_ref().map(ActiveQueue::kick)
    }

    /// Whether the driver has not yet taken the news.
    pub fn is_reset_due(&self) -> bool {
        self.is_reset_due
    }

    /// The queue, if there is one.
    pub fn into_queue(self) -> Option<ActiveQueue> {
        self.queue
    }

    /// Tells the driver what there is to tell, if it offers a buffer.
    pub fn serve(&mut self) -> Result<(), VsockFault> {
        let Some(queue) = &mut self.queue else {
            return Ok(());
        };
        while self.is_reset_due {
            if !queue.pop(&mut self.chain)? {
                if queue.enable_kicks()? {
                    continue;
                }
                break;
            }
            let mut writer = self.chain.writer(&self.memory);
            let len = writer.available();
            let event = Event {
                id: EVENT_TRANSPORT_RESET.into(),
            };
            writer
                .write_obj(&event)
                .map_err(|_| VsockFault::EventBuffer { len })?;
            queue.push_used(self.chain.head(), size_of::<Event>() as u32)?;
            queue.notify()?;
            self.is_reset_due = false;
        }
        Ok(())
    }
}
