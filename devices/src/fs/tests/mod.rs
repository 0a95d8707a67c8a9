//! The device through a driver, on directories of a real file system.

mod attacks;
mod bounds;
mod files;
mod life;
mod limits;
mod operations;
mod privileges;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Export, Fs, FsConfig, FsSettings};
use crate::testkit::fuse::FuseClient;

/// A directory that vanishes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// In memory, where that is possible: for tests with very many files.
    fn in_memory() -> Self {
        let shared = Path::new("/dev/shm");
        if shared.is_dir() {
            Self::below(shared)
        } else {
            Self::new()
        }
    }

    fn below(place: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-fs-{}-{number}", std::process::id());
        let path = place.join(name);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("file written");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("file read")
    }

    fn export(&self, name: &str) -> Export {
        Export::new(name, open(&self.0)).expect("export")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).expect("it opens").into()
}

fn device(settings: FsSettings, exports: impl IntoIterator<Item = Export>) -> Fs {
    let config = FsConfig::try_from(settings).expect("settings");
    Fs::new(config, exports).expect("device")
}

/// A client of a device with `dir` as the writable export "rw" and the read-only one "ro".
fn client(dir: &Dir) -> FuseClient {
    let exports = [dir.export("rw").writable(), dir.export("ro")];
    let mut client = FuseClient::start(device(FsSettings::default(), exports));
    client.caller = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    client
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
