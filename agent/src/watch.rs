//! Events of the containers' cgroups.

use agent_protocol::proto::{AgentEvent, OomKilled};

use crate::container::{Container, EventFile};
use crate::events::{Interest, Kind, Token};
use crate::rpc;
use crate::server::Agent;

impl Agent {
    /// Starts watching what a new container has to tell until its end.
    pub(crate) fn watch_memory(&mut self, serial: u64) {
        let container = self.containers.container_by_serial(serial);
        if let Some(events) = container.and_then(|(_, container)| container.memory_events()) {
            let token = Token::new(Kind::MemoryEvents, serial);
            // Without it the kills are told when the container ends.
            let _ = self.poller.add(events, token, Interest::Change);
        }
    }

    /// Forgets a container that has been cleaned up, and what is watched of it.
    pub(crate) fn forget(&mut self, id: &str) {
        let container = self.containers.forget(id);
        self.unwatch(container.as_ref().and_then(Container::memory_events));
    }

    /// Stops watching. Closing it is not enough: a process that was just forked has it open as well.
    pub(crate) fn unwatch(&self, events: Option<&EventFile>) {
        if let Some(events) = events {
            self.poller.remove(events);
        }
    }

    /// A container that is being paused has changed.
    pub(crate) fn on_freezer_event(&mut self, serial: u64) {
        let mut answers = Vec::new();
        let container = self.containers.container_by_serial(serial);
        let done = container.and_then(|(_, container)| container.on_freezer_event(&mut answers));
        self.unwatch(done.as_ref());
        for answer in answers {
            rpc::answer(self, answer);
        }
    }

    /// Processes of a container may have been killed for want of memory. If the host is slow to hear of
    /// events they are told later, all in one.
    pub(crate) fn tell_oom_kills(&mut self, serial: u64) {
        let congested = self.is_lifeline_congested();
        let Some((id, container)) = self.containers.container_by_serial(serial) else {
            return;
        };
        // Read in any case, or the kernel goes on telling.
        if let Some(count) = container.new_oom_kills()
            && !congested
        {
            container.set_told_oom_kills(count);
            let mut event = AgentEvent::new();
            event.set_oom_killed(OomKilled {
                container_id: id.to_string(),
                count,
                ..Default::default()
            });
            self.tell(&event);
        }
    }

    /// Tells what had to wait.
    pub(crate) fn tell_all_oom_kills(&mut self) {
        let serials: Vec<u64> = self.containers.all().map(|one| one.serial()).collect();
        for serial in serials {
            self.tell_oom_kills(serial);
        }
    }
}
