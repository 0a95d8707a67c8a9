//! A network namespace of the pod's own, set up by CNI plugins (CNI specification 1.0.0).
//!
//! ```text
//!   /etc/cni/net.d/*.conflist ─▶ Network list ─┬─ ADD, in order ──▶ plugins ──▶ eth0 in /run/netns/ID
//!                                              │                    /usr/lib/cni     │
//!                  network.json, in the pod's ─┘                                     ▼
//!                  directory: what DEL needs ──── DEL, in reverse ──▶      PodNetwork::join
//! ```
//!
//! [`add`] makes the namespace and has the plugins set it up; [`remove`] has them take everything back, and
//! removes the namespace. What that takes is written down in the pod's directory before anything is made: as
//! long as the file is there, there may be something to remove, whoever comes to do it.

mod error;
mod list;
mod namespace;
mod plugin;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use error::CniError;
use list::NetworkList;
use plugin::{Call, Operation};

use crate::json_file;
use crate::net::resolvers::Resolvers;

/// Where configurations are if nothing else is said.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// Where plugins are: Debian's package, and everybody else's habit.
pub const BIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// The network that is used where no other is configured.
pub const OWN_NETWORK: &str = "podvmm";
/// What is written down in the pod's directory.
const FILE: &str = "network.json";
/// The interface that plugins make, by convention.
const INTERFACE: &str = "eth0";
/// Version of the file's form.
const VERSION: u32 = 1;

/// Which network, and where plugins and configurations are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CniPlan {
    /// Its name; the first in the directory if none is named.
    pub network: Option<String>,
    /// The directory of configurations.
    pub conf_dir: PathBuf,
    /// The directories of plugins.
    pub bin_dirs: Vec<PathBuf>,
}

impl Default for CniPlan {
    fn default() -> Self {
        Self {
            network: None,
            conf_dir: CONF_DIR.into(),
            bin_dirs: BIN_DIRS.map(PathBuf::from).into(),
        }
    }
}

/// A pod's place in a network, as it is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    version: u32,
    /// What the plugins know the pod by.
    id: String,
    netns: PathBuf,
    list: NetworkList,
    bin_dirs: Vec<PathBuf>,
    /// What the last plugin said, once it has.
    result: Option<Value>,
}

impl Attachment {
    /// The network namespace.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// The network's name.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.list.name
    }

    /// The pod's addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self
            .result
            .as_ref()
            .and_then(|result| result["ips"].as_array());
        let prefixes = ips.into_iter().flatten();
        let addresses = prefixes.filter_map(|ip| {
            let (address, _) = ip["address"].as_str()?.split_once('/')?;
            address.parse().ok()
        });
        addresses.collect()
    }

    /// Whom pods of the network ask for names, if the plugins say that.
    #[must_use]
    pub fn resolvers(&self) -> Option<Resolvers> {
        self.result.as_ref().and_then(Resolvers::of_cni)
    }

    fn call<'a>(&'a self, operation: Operation, previous: Option<&'a Value>) -> Call<'a> {
        Call {
            operation,
            id: &self.id,
            // One that is gone is left to the plugins to do without.
            netns: Some(&*self.netns).filter(|path| path.exists()),
            interface: INTERFACE,
            list: &self.list,
            bin_dirs: &self.bin_dirs,
            previous,
        }
    }

    /// ADD, in order: each plugin is told what the one before it has done.
    fn set_up(&self) -> Result<Option<Value>, CniError> {
        let mut previous = None;
        for plugin in &self.list.plugins {
            previous = self
                .call(Operation::Add, previous.as_ref())
                .of(plugin)?
                .or(previous);
        }
        Ok(previous)
    }

    /// DEL, in reverse, and the namespace: as much as can be, and then the first that could not.
    fn take_back(&self) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in self.list.plugins.iter().rev() {
            let call = self.call(Operation::Del, self.result.as_ref());
            let deleted = call.of(plugin).map(drop);
            outcome = outcome.and(deleted);
        }
        outcome.and(namespace::remove(&self.netns))
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        json_file::replace(&dir.join(FILE), self)
    }
}

/// Makes the pod `name` a network namespace of its own, and gives it a place in a network. Until
/// [`remove`] has been called, `dir` must stay.
///
/// # Errors
/// [`CniError`] names plugin, reason and remedy; nothing is left behind.
pub fn add(plan: &CniPlan, name: &str, dir: &Path) -> Result<Attachment, CniError> {
    let list = list::find(plan)?;
    for plugin in &list.plugins {
        plugin::find(plugin, &plan.bin_dirs)?;
    }
    let id = random_id(name)?;
    let mut attachment = Attachment {
        version: VERSION,
        netns: namespace::place(&id),
        id,
        list,
        bin_dirs: plan.bin_dirs.clone(),
        result: None,
    };
    let noted = |error| CniError::State(dir.join(FILE), error);
    attachment.write(dir).map_err(noted)?;
    let made = namespace::create(&attachment.netns).and_then(|()| attachment.set_up());
    let written = made.and_then(|result| {
        attachment.result = result;
        attachment.write(dir).map_err(noted)
    });
    if let Err(error) = written {
        // What was done of it is not known: plugins are to bear that.
        if let Err(error) = attachment.take_back() {
            log::debug!("taking a network back that was not had: {error}");
        }
        forget(dir).map_err(noted)?;
        return Err(error);
    }
    Ok(attachment)
}

/// Takes back what [`add`] has done for the pod with the directory `dir`; nothing happens if that is done.
///
/// # Errors
/// [`CniError`] names plugin, reason and remedy. Then it can be tried again.
pub fn remove(dir: &Path) -> Result<(), CniError> {
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| CniError::State(path.clone(), error))?,
    };
    let attachment: Attachment = serde_json::from_slice(&bytes)
        .map_err(|error| CniError::State(path.clone(), error.into()))?;
    attachment.take_back().map_err(|source| CniError::Remains {
        path: path.clone(),
        source: Box::new(source),
    })?;
    forget(dir).map_err(|error| CniError::State(path, error))
}

fn forget(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Unique on this host, whatever other pods of the name there are or were.
fn random_id(name: &str) -> Result<String, CniError> {
    let mut bytes = [0u8; 4];
    File::open("/dev/urandom")
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| CniError::State("/dev/urandom".into(), error))?;
    Ok(format!("podvmm-{name}-{:08x}", u32::from_le_bytes(bytes)))
}
