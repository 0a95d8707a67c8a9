//! All containers of the pod.

use std::collections::BTreeMap;

use agent_protocol::names::{ContainerId, ExecId};
use rustix::process::Pid;

use super::{Container, Process};
use crate::rpc::Refusal;

/// Most containers at a time; the host asks for a handful.
const MAX_CONTAINERS: usize = 256;

/// Most further processes of all containers: each may have a dozen descriptors.
const MAX_FURTHER: usize = 2048;

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
    pub(crate) fn insert(&mut self, id: ContainerId, container: Container) -> &mut Container {
        self.0.entry(id).or_insert(container)
    }

    /// The container that the host knows by this name.
    pub(crate) fn get(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        super::container_id(id)
            .ok()
            .and_then(|id| self.0.get_mut(&id))
            .filter(|container| container.is_visible())
            .ok_or_else(|| Refusal::not_found(format!("container {:?} does not exist", short(id))))
    }

    /// The process that the host knows by these names.
    pub(crate) fn process(&mut self, id: &str, exec_id: &str) -> Result<&mut Process, Refusal> {
        self.get(id)?.process(exec_id)
    }

    /// The process of a handshake's event.
    pub(crate) fn by_serial(&mut self, serial: u64) -> Option<&mut Process> {
        self.0
            .values_mut()
            .flat_map(Container::processes_mut)
            .find(|process| process.serial() == serial)
    }

    /// The process, ready or not, whose streams name `ticket`.
    pub(crate) fn by_ticket(&mut self, ticket: u64) -> Option<&mut Process> {
        self.0
            .values_mut()
            .flat_map(Container::processes_mut)
            .find(|process| ticket != 0 && process.ticket() == ticket)
    }

    /// The container of its cgroup's event, and its name.
    pub(crate) fn container_by_serial(
        &mut self,
        serial: u64,
    ) -> Option<(&ContainerId, &mut Container)> {
        self.0
            .iter_mut()
            .find(|(_, container)| container.serial() == serial)
    }

    /// The container that the agent made `child` for, and the child's name if it is not the first one.
    pub(crate) fn by_child(
        &mut self,
        child: Pid,
    ) -> Option<(ContainerId, Option<ExecId>, &mut Container)> {
        self.0.iter_mut().find_map(|(id, container)| {
            let (exec_id, _) = container
                .processes()
                .find(|(_, process)| process.child == Some(child))?;
            let exec_id = exec_id.cloned();
            Some((id.clone(), exec_id, container))
        })
    }

    /// The serial number of that container.
    pub(crate) fn serial_by_child(&mut self, child: Pid) -> Option<u64> {
        self.by_child(child)
            .map(|(_, _, container)| container.serial())
    }

    /// Whether the pod has room for another further process.
    pub(crate) fn check_room_for_further(&self) -> Result<(), Refusal> {
        let count: usize = self.0.values().map(Container::further_len).sum();
        if count >= MAX_FURTHER {
            return Err(Refusal::exhausted(format!(
                "the pod has {MAX_FURTHER} further processes, with those that were not removed"
            )));
        }
        Ok(())
    }

    /// Forgets a container that has been cleaned up.
    pub(crate) fn forget(&mut self, id: &str) -> Option<Container> {
        let id = super::container_id(id).ok()?;
        self.0.remove(&id)
    }

    /// All of them.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Container> {
        self.0.values_mut()
    }

    /// Those that the host knows, with their names.
    pub(crate) fn visible(&self) -> impl Iterator<Item = (&ContainerId, &Container)> {
        self.0
            .iter()
            .filter(|(_, container)| container.is_visible())
    }

    /// Those that have a process which has not ended.
    pub(crate) fn alive(&mut self) -> impl Iterator<Item = &mut Container> {
        self.all().filter(|container| container.is_alive())
    }
}

/// Enough of a name that is no name to recognise it.
fn short(id: &str) -> String {
    id.chars().take(32).collect()
}
