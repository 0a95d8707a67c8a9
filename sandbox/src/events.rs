//! What happens in a pod without being asked for.

use agent_protocol::proto::{AgentEvent, agent_event};

use crate::container::Exit;

/// Something that happened in a pod. Names are the agent's word: they need not be of a container
/// that there ever was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodEvent {
    /// A process has ended. Its last output may still be on its way.
    Exited {
        /// Name of the container.
        container: String,
        /// Name of the process; empty for the container's first.
        exec: String,
        /// How.
        exit: Exit,
    },
    /// The guest's kernel killed processes of a container that had no memory left.
    OomKilled {
        /// Name of the container.
        container: String,
    },
    /// Nothing more will be heard: the guest has ended, or its agent cannot be trusted any more.
    AgentGone,
}

impl PodEvent {
    pub(crate) fn from_wire(event: AgentEvent) -> Option<Self> {
        match event.event? {
            agent_event::Event::ContainerExited(exited) => Some(Self::Exited {
                exit: Exit::from_wire(exited.status.get_or_default()),
                container: exited.container_id,
                exec: exited.exec_id,
            }),
            agent_event::Event::OomKilled(killed) => Some(Self::OomKilled {
                container: killed.container_id,
            }),
            _ => None,
        }
    }
}

/// Where a pod's events go. It is called on a thread of the pod's own, and must not wait for the pod. It may
/// wait for who takes the events: nothing is kept meanwhile, and the guest is held up that tells too many.
pub struct EventSink(Box<dyn FnMut(PodEvent) + Send>);

impl EventSink {
    /// Calls `sink` for each event.
    pub fn new(sink: impl FnMut(PodEvent) + Send + 'static) -> Self {
        Self(Box::new(sink))
    }

    pub(crate) fn none() -> Self {
        Self::new(drop)
    }

    pub(crate) fn tell(&mut self, event: PodEvent) {
        (self.0)(event);
    }
}

impl std::fmt::Debug for EventSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}
