//! All containers of the pod.

use std::collections::BTreeMap;

use agent_protocol::names::ContainerId;
use rustix::process::Pid;

use super::{Container, Process};
use crate::rpc::Refusal;

/// Most containers at a time; the host asks for a handful.
const MAX_CONTAINERS: usize = 256;

/// Containers by name.
#[derive(Debug, Default)]
pub(crate) struct Registry(BTreeMap<ContainerId, Container>);

impl Registry {
    /// Whether a container of this name can be added.
    pub(crate) fn check_free(&self, id: &ContainerId) -> Result<(), Refusal> {
        if self.0.contains_key(id) {
            return Err(Refusal::exists(format!("container {id} exists already")));
        }
        if self.0.len() >= MAX_CONTAINERS {
            return Err(Refusal::exhausted(format!(
                "the pod has {MAX_CONTAINERS} containers"
            )));
        }
        Ok(())
    }

    /// Adds a container whose name was found free.
    pub(crate) fn insert(&mut self, id: ContainerId, container: Container) {
        self.0.insert(id, container);
    }

    /// The container that the host knows by this name.
    pub(crate) fn get(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        super::container_id(id)
            .ok()
            .and_then(|id| self.0.get_mut(&id))
            .filter(|container| container.is_visible())
            .ok_or_else(|| Refusal::not_found(format!("container {:?} does not exist", short(id))))
    }

    /// The process of a handshake's event.
    pub(crate) fn by_serial(&mut self, serial: u64) -> Option<&mut Process> {
        self.0
            .values_mut()
            .map(Container::process)
            .find(|process| process.serial() == serial)
    }

    /// The container whose first process is `child`.
    pub(crate) fn by_child(&mut self, child: Pid) -> Option<(ContainerId, &mut Container)> {
        self.0
            .iter_mut()
            .find(|(_, container)| container.first.child == Some(child))
            .map(|(id, container)| (id.clone(), container))
    }

    /// Forgets a container that has been cleaned up.
    pub(crate) fn forget(&mut self, id: &str) {
        if let Ok(id) = super::container_id(id) {
            self.0.remove(&id);
        }
    }

    /// All of them.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Container> {
        self.0.values_mut()
    }

    /// Those whose first process has not ended.
    pub(crate) fn alive(&mut self) -> impl Iterator<Item = &mut Container> {
        self.all().filter(|container| container.is_alive())
    }
}

/// Enough of a name that is no name to recognise it.
fn short(id: &str) -> String {
    id.chars().take(32).collect()
}
