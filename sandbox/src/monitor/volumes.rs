//! A pod's volumes and files, as far as they are the pod's own.
//!
//! ```text
//!   PodPlan::directories ──▶ on the host's disk (DataDir), shared with the guest
//!   PodPlan::volumes ──┐
//!   PodPlan::etc ──────┼──▶ memory of the guest (Pod::make_volume)
//!   last words ────────┘ ◀── read when a container has ended
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::eviction::Watched;
use super::plan::{ContainerPlan, PodPlan};
use super::{MonitorError, addresses};
use crate::config::{PodConfig, Share};
use crate::container::ContainerError;
use crate::datadir::DataDir;
use crate::logging::one_line;
use crate::logs::{self, LogReader};
use crate::net::resolvers::Resolvers;
use crate::pod::Pod;
use crate::rundir::RunDir;
use crate::volume::{GuestFile, GuestVolume, path_in_guest};

/// The volume of `/etc/hosts` and its like, and of last words. No volume of a manifest has a dot.
const FILES: &str = "pod.files";
/// As much as all of them may grow to.
const FILES_SIZE: u64 = 4 << 20;
/// Directory of last words in it.
const TERMINATION: &str = "termination";
/// As much as is read of a container's last words, and of its log in their place: the kubelet's bounds.
const MAX_MESSAGE: u32 = 4096;
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// A directory on the host's disk that containers write to, and that goes with the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryPlan {
    /// Name in the guest's share.
    pub name: String,
    /// What the pod calls it.
    pub volume: String,
    /// The group that it belongs to, if any.
    pub group: Option<u32>,
    /// How large it may become.
    pub limit: Option<SizeLimit>,
}

/// How large a directory may become before its pod is ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeLimit {
    /// Bytes on disk.
    pub bytes: u64,
    /// The same, as it is told.
    pub text: String,
}

/// A container's last words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminationPlan {
    /// Whether the end of its log stands for them if it has failed and said nothing.
    pub or_log: bool,
}

/// One of [`ETC_FILES`](super::ETC_FILES) in the guest.
#[must_use]
pub fn etc_path(name: &str) -> String {
    format!("{}/{name}", path_in_guest(FILES))
}

/// Where the guest has the file for a container's last words.
#[must_use]
pub fn termination_path(container: &str) -> String {
    etc_path(&format!("{TERMINATION}/{container}"))
}

impl PodPlan {
    /// The plan without what its files hold: secrets are nothing to be written down or shown.
    pub(super) fn without_contents(&self) -> Self {
        let mut plan = self.clone();
        for file in plan.volumes.iter_mut().flat_map(|volume| &mut volume.files) {
            file.data.clear();
        }
        plan
    }
}

/// Makes the directories on disk and shares them. Gives those that are to be watched.
pub(super) fn share_directories(
    plan: &PodPlan,
    dir: &RunDir,
    config: &mut PodConfig,
) -> Result<Option<(DataDir, Vec<Watched>)>, MonitorError> {
    if plan.directories.is_empty() {
        return Ok(None);
    }
    let data = DataDir::create(&plan.data, dir.path())?;
    let mut watched = Vec::new();
    for directory in &plan.directories {
        let DirectoryPlan { name, group, .. } = directory;
        let file = data.volume(name, *group)?;
        if let Some(limit) = &directory.limit {
            watched.push(Watched {
                volume: directory.volume.clone(),
                limit: limit.clone(),
                dir: file.try_clone().map_err(MonitorError::Watch)?,
            });
        }
        let mut share = Share::of_file("--data", name, file, &plan.data, false)
            .map_err(super::PlanError::from)?;
        // Nobody else writes to it.
        share.unchanging = true;
        config.shares.push(share);
    }
    Ok(Some((data, watched)))
}

/// Makes what is in the guest's memory.
pub(super) fn make(
    plan: &PodPlan,
    pod: &Pod,
    of_network: Option<Resolvers>,
) -> Result<(), MonitorError> {
    for volume in &plan.volumes {
        pod.make_volume(volume)?;
    }
    if let Some(etc) = &plan.etc {
        let resolv_conf = etc.dns.resolv_conf(of_network, Resolvers::of_host);
        pod.make_volume(&files(vec![
            file(
                "hosts",
                0o644,
                etc.hosts_of(&addresses::known(&pod.addresses())),
            ),
            file("hostname", 0o644, format!("{}\n", etc.hostname)),
            file("resolv.conf", 0o644, resolv_conf),
        ]))?;
    }
    Ok(())
}

fn files(files: Vec<GuestFile>) -> GuestVolume {
    GuestVolume {
        name: FILES.to_owned(),
        size: Some(FILES_SIZE),
        mode: 0o755,
        gid: 0,
        files,
    }
}

fn file(path: &str, mode: u32, data: String) -> GuestFile {
    GuestFile {
        path: path.to_owned(),
        mode,
        data: data.into_bytes(),
    }
}

/// Gives a container that is about to be made an empty file for its last words.
pub(super) fn clear_last_words(pod: &Pod, plan: &ContainerPlan) -> Result<(), ContainerError> {
    if plan.termination.is_none() {
        return Ok(());
    }
    let path = format!("{TERMINATION}/{}", plan.name);
    pod.make_volume(&files(vec![file(&path, 0o666, String::new())]))
}

/// What a container has left to say after it has ended with `code`; its log is in `dir`.
pub(super) fn last_words(pod: &Pod, dir: &Path, plan: &ContainerPlan, code: u8) -> Option<String> {
    let termination = plan.termination?;
    let path = format!("{TERMINATION}/{}", plan.name);
    let said = pod.read_file(FILES, &path, MAX_MESSAGE);
    let said = said.unwrap_or_else(|error| {
        // The guest may be on its way out.
        log::debug!(
            "last words of container {}: {}",
            plan.name,
            one_line(&error)
        );
        Vec::new()
    });
    let log = || end_of_log(&logs::path(dir, &plan.name)).unwrap_or_default();
    let said = match said.is_empty() && termination.or_log && code != 0 {
        true => log(),
        false => said,
    };
    Some(String::from_utf8_lossy(&said).into_owned()).filter(|said| !said.is_empty())
}

fn end_of_log(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for entry in LogReader::new(path).last(MAX_LOG_LINES)? {
        text.extend_from_slice(&entry.content);
        if entry.is_whole {
            text.push(b'\n');
        }
    }
    let excess = text.len().saturating_sub(MAX_LOG_MESSAGE);
    Ok(text.split_off(excess))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{LogFile, LogLimits, Stream};

    #[test]
    fn what_files_hold_is_not_written_down() {
        let mut plan = PodPlan::new("web");
        plan.volumes
            .push(files(vec![file("key", 0o400, "secret".into())]));
        let written = plan.without_contents();
        assert_eq!(written.volumes[0].files[0].path, "key");
        assert!(written.volumes[0].files[0].data.is_empty());
    }

    #[test]
    fn the_end_of_a_log_is_short() {
        let dir = std::env::temp_dir().join(format!("podvmm-words-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.log");
        assert_eq!(end_of_log(&path).unwrap(), b"");
        let mut log = LogFile::open(&path, LogLimits::default()).unwrap();
        for number in 0..200 {
            log.append(Stream::Stderr, format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let end = String::from_utf8(end_of_log(&path).unwrap()).unwrap();
        assert!(
            end.starts_with("line 120\n") && end.ends_with("line 199\n"),
            "{end}"
        );
        log.append(Stream::Stdout, &[b'x'; 5000]).unwrap();
        log.append(Stream::Stdout, b"\n").unwrap();
        assert_eq!(end_of_log(&path).unwrap().len(), MAX_LOG_MESSAGE);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
