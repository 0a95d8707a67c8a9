//! Recording a machine while it is checked, so that the same checks can be made elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::errno::Errno;
use crate::host::{Attempt, FileSystem, Hex, Host, Kvm, Node, Probe, Registers};
use crate::recorded::{ANSWERS, Answers, FILES, PLACEHOLDER};

/// A machine that remembers what it was asked.
pub struct Recorder<'h> {
    host: &'h dyn Host,
    answers: RefCell<Answers>,
    /// Content of files; nothing for those of which only existence matters.
    files: RefCell<BTreeMap<String, Option<String>>>,
}

/// Why a recording could not be written.
#[derive(Debug, Error)]
pub enum RecordError {
    /// There is something already.
    #[error("--record {0}: it exists already; name a directory that does not")]
    Exists(PathBuf),
    /// The file system refused.
    #[error("--record {0}: cannot be written")]
    Write(PathBuf, #[source] std::io::Error),
}

impl<'h> Recorder<'h> {
    /// Remembers what `host` is asked from now on.
    #[must_use]
    pub fn new(host: &'h dyn Host) -> Self {
        Self {
            host,
            answers: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// Writes what was asked into a new directory.
    ///
    /// # Errors
    /// [`RecordError`] when it exists or cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), RecordError> {
        if dir.exists() {
            return Err(RecordError::Exists(dir.to_path_buf()));
        }
        let mut answers = self.answers.borrow().clone();
        answers.store = self.host.store();
        let text = serde_json::to_string_pretty(&answers)
            .map_err(|error| RecordError::Write(dir.join(ANSWERS), error.into()))?;
        put(&dir.join(ANSWERS), &(text + "\n"))?;
        for (path, content) in &*self.files.borrow() {
            let path = dir.join(FILES).join(path.trim_start_matches('/'));
            match content {
                Some(content) => put(&path, content)?,
                None => put(&path.join(PLACEHOLDER), "")?,
            }
        }
        Ok(())
    }
}

fn put(path: &Path, text: &str) -> Result<(), RecordError> {
    let failed = |error| RecordError::Write(path.to_path_buf(), error);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

impl Host for Recorder<'_> {
    fn read(&self, path: &str) -> Result<String, Errno> {
        let read = self.host.read(path);
        match &read {
            Ok(text) => {
                let mut files = self.files.borrow_mut();
                files.insert(path.to_owned(), Some(text.clone()));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => {
                let mut answers = self.answers.borrow_mut();
                answers.unreadable.insert(path.to_owned(), *errno);
            }
        }
        read
    }

    fn names(&self, path: &str) -> Result<Vec<String>, Errno> {
        let names = self.host.names(path)?;
        for name in &names {
            self.exists(&format!("{}/{name}", path.trim_end_matches('/')));
        }
        Ok(names)
    }

    fn exists(&self, path: &str) -> bool {
        let exists = self.host.exists(path);
        if exists && self.host.node(path).is_ok_and(|node| node.device.is_some()) {
            let _ = self.node(path);
        } else if exists {
            // Files that only have to be there are recorded empty, directories as such.
            let is_directory = self.host.names(path).is_ok();
            let mut files = self.files.borrow_mut();
            files
                .entry(path.to_owned())
                .or_insert_with(|| (!is_directory).then(String::new));
        }
        exists
    }

    fn node(&self, path: &str) -> Result<Node, Errno> {
        let node = self.host.node(path)?;
        let mut answers = self.answers.borrow_mut();
        answers.nodes.insert(path.to_owned(), node.clone());
        Ok(node)
    }

    fn file_system(&self, path: &str) -> Result<FileSystem, Errno> {
        let found = self.host.file_system(path)?;
        let mut answers = self.answers.borrow_mut();
        answers.file_systems.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    fn cpuid(&self, leaf: u32) -> Registers {
        let found = self.host.cpuid(leaf);
        self.answers.borrow_mut().cpuid.insert(Hex(leaf), found);
        found
    }

    fn msr(&self, index: u32) -> Result<u64, Errno> {
        let found = self.host.msr(index);
        self.answers.borrow_mut().msr.insert(Hex(index), found);
        found
    }

    fn kvm(&self) -> Kvm {
        let found = self.host.kvm();
        self.answers.borrow_mut().kvm = found.clone();
        found
    }

    fn probe(&self) -> Probe {
        let found = self.host.probe();
        self.answers.borrow_mut().probe = found.clone();
        found
    }

    fn attempt(&self, attempt: Attempt) -> Result<u64, Errno> {
        let found = self.host.attempt(attempt);
        self.answers.borrow_mut().attempts.insert(attempt, found);
        found
    }

    fn group_name(&self, id: u32) -> Option<String> {
        let name = self.host.group_name(id)?;
        self.answers.borrow_mut().groups.insert(id, name.clone());
        Some(name)
    }

    fn store(&self) -> String {
        self.host.store()
    }
}
