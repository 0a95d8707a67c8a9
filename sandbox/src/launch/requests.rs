//! What a VMM process is asked for while its machine runs.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use vmm::{MemorySize, VcpuCount};

use super::{Given, VmmProcess, launch_share, lock};
use crate::block::{BlockVolume, reopen};
use crate::config::Share;
use crate::control::{self, Answer, LaunchBlock, MachineSize, Request};
use crate::jail::Terms;
use crate::pod::PodError;

impl VmmProcess {
    /// Shows the guest one more file or directory.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`].
    pub fn add_share(&self, share: &Share) -> Result<(), PodError> {
        let request = Request::AddShare(launch_share(share));
        let given = self.confine(&[(share.file.as_fd(), share.terms())])?;
        let fds: Vec<_> = given.iter().map(Given::as_fd).collect();
        self.change_share(&share.name, &request, &fds)
    }

    /// Takes a share away; what the guest still holds of it answers `ESTALE`.
    ///
    /// # Errors
    /// [`PodError::ChangeShare`].
    pub fn remove_share(&self, name: &str) -> Result<(), PodError> {
        let request = Request::RemoveShare { name: name.into() };
        self.change_share(name, &request, &[])
    }

    /// Has the machine resized, and tells how large it is then.
    ///
    /// # Errors
    /// [`PodError::Resize`].
    pub fn resize(&self, vcpus: VcpuCount, memory: MemorySize) -> Result<MachineSize, PodError> {
        self.ask_size(&Request::Resize {
            vcpus: vcpus.into(),
            memory: memory.into(),
        })
    }

    /// How large the machine is.
    ///
    /// # Errors
    /// [`PodError::Resize`] when the process is gone.
    pub fn size(&self) -> Result<MachineSize, PodError> {
        self.ask_size(&Request::Size)
    }

    fn ask_size(&self, request: &Request) -> Result<MachineSize, PodError> {
        match self.request(request, &[]) {
            Ok(Answer::Size(size)) => Ok(size),
            Ok(other) => Err(format!("it answers {other:?}")),
            Err(message) => Err(message),
        }
        .map_err(|message| PodError::Resize { message })
    }

    fn change_share(
        &self,
        share: &str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), PodError> {
        match self.request(request, fds) {
            Ok(Answer::Done) => Ok(()),
            Ok(other) => Err(format!("it answers {other:?}")),
            Err(message) => Err(message),
        }
        .map_err(|message| PodError::ChangeShare {
            share: share.to_owned(),
            message,
        })
    }

    /// Gives the machine a disk called `id`, and tells where its registers are in the guest.
    ///
    /// # Errors
    /// The reason.
    pub fn add_block(&self, id: String, volume: &BlockVolume) -> Result<u64, String> {
        let request = Request::AddBlock(LaunchBlock {
            id,
            geometry: volume.geometry,
            read_only: volume.read_only,
        });
        let alone = self.alone(volume)?;
        let file = alone.as_ref().unwrap_or(&volume.file);
        match self.request(&request, &[file.as_fd()])? {
            Answer::Plugged { address } => Ok(address),
            other => Err(format!("the VMM process answered {other:?}")),
        }
    }

    /// A disk image opened from a mount of its own, so that one to be read only cannot be opened anew for
    /// writing either. None for what needs none, or can have none.
    fn alone(&self, volume: &BlockVolume) -> Result<Option<File>, String> {
        let Some(place) = &volume.place else {
            return Ok(None);
        };
        let terms = Terms {
            read_only: volume.read_only,
            ..Terms::default()
        };
        let given = self.confine(&[(place.as_fd(), terms)]);
        let given = given.map_err(|error| error.to_string())?;
        match given.first() {
            Some(Given::Alone(place)) => reopen(place, volume.read_only)
                .map(Some)
                .map_err(|error| error.to_string()),
            _ => Ok(None),
        }
    }

    /// Takes a disk away, whatever the guest is at with it.
    ///
    /// # Errors
    /// The reason.
    pub fn remove_block(&self, address: u64) -> Result<(), String> {
        let request = Request::RemoveBlock { address };
        self.request(&request, &[]).map(drop)
    }

    /// Sends a request and waits for what came of it.
    fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, String> {
        let socket = lock(&self.requests);
        control::send(&*socket, request, fds).map_err(|error| error.to_string())?;
        match control::receive::<Answer>(&*socket) {
            Ok(Some((Answer::Refused { message }, _))) => Err(message),
            Ok(Some((answer, _))) => Ok(answer),
            Ok(None) => Err("the VMM process is gone".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}
