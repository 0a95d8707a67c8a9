//! One call of one plugin (CNI specification 1.0.0, §2 and §5).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::CniError;
use super::list::NetworkList;

/// How long a plugin may take. One that asks a server for an address may have to ask again.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;
/// Longest complaint that is repeated.
const MAX_COMPLAINT: usize = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Del,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// What all plugins of a list are told.
pub(super) struct Call<'a> {
    pub operation: Operation,
    pub id: &'a str,
    pub netns: Option<&'a Path>,
    pub interface: &'a str,
    pub list: &'a NetworkList,
    pub bin_dirs: &'a [PathBuf],
    pub previous: Option<&'a Value>,
}

/// The program of a plugin.
pub(super) fn find(plugin: &Value, dirs: &[PathBuf]) -> Result<PathBuf, CniError> {
    let kind = kind(plugin);
    let mut places = dirs.iter().map(|dir| dir.join(kind));
    places
        .find(|path| path.is_file())
        .ok_or_else(|| CniError::NoPlugin {
            plugin: kind.to_owned(),
            dirs: dirs.to_vec(),
        })
}

fn kind(plugin: &Value) -> &str {
    plugin["type"].as_str().unwrap_or_default()
}

impl Call<'_> {
    /// Calls the plugin with this configuration; its answer, if it gave one.
    pub fn of(&self, plugin: &Value) -> Result<Option<Value>, CniError> {
        let program = find(plugin, self.bin_dirs)?;
        let failed = |source| CniError::Spawn {
            plugin: program.clone(),
            source,
        };
        // Files in memory, so that nobody waits for a pipe.
        let input = memory(self.input(plugin).to_string().as_bytes()).map_err(failed)?;
        let mut output = memory(b"").map_err(failed)?;
        let mut complaints = memory(b"").map_err(failed)?;
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("PATH", path())
            .env("CNI_COMMAND", self.operation.name())
            .env("CNI_CONTAINERID", self.id)
            .env("CNI_IFNAME", self.interface)
            .env("CNI_NETNS", self.netns.unwrap_or(Path::new("")))
            .env("CNI_PATH", self.cni_path())
            .current_dir("/")
            .stdin(input)
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(complaints.try_clone().map_err(failed)?);
        let mut child = command.spawn().map_err(failed)?;
        let status = ended(&mut child).map_err(failed)?;
        let Some(status) = status else {
            return Err(CniError::Slow {
                plugin: kind(plugin).to_owned(),
                operation: self.operation.name(),
                limit: LIMIT,
            });
        };
        let said = content(&mut output).map_err(failed)?;
        let answer = serde_json::from_str::<Value>(&said).ok();
        let wrong = |message| CniError::Plugin {
            plugin: kind(plugin).to_owned(),
            operation: self.operation.name(),
            message,
        };
        if !status.success() {
            let complaints = content(&mut complaints).map_err(failed)?;
            return Err(wrong(complaint(answer.as_ref(), &complaints, status)));
        }
        match (answer, self.operation) {
            (None, Operation::Add) if !said.trim().is_empty() => {
                Err(wrong(format!("its answer is no JSON: {}", cut(&said))))
            }
            (answer, _) => Ok(answer),
        }
    }

    /// The plugin's configuration, and what every plugin is told beside it.
    fn input(&self, plugin: &Value) -> Value {
        let mut input = plugin.clone();
        input["cniVersion"] = self.list.version.clone().into();
        input["name"] = self.list.name.clone().into();
        if let Some(previous) = self.previous {
            input["prevResult"] = previous.clone();
        }
        input
    }

    fn cni_path(&self) -> std::ffi::OsString {
        std::env::join_paths(self.bin_dirs).unwrap_or_default()
    }
}

/// Where plugins find programs such as iptables.
fn path() -> std::ffi::OsString {
    const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    match std::env::var_os("PATH") {
        Some(path) if !path.is_empty() => {
            let mut both = path;
            both.push(":");
            both.push(USUAL);
            both
        }
        _ => USUAL.into(),
    }
}

fn memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("cni", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn content(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How it ended; `None` when it did not in time, and then it was killed.
fn ended(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let limit = Timespec::try_from(LIMIT).map_err(io::Error::other)?;
    let mut set = [PollFd::new(&process, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut set, Some(&limit)))?;
    if ready == 0 {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok((ready > 0).then_some(status))
}

/// Why a plugin failed, as well as can be said.
fn complaint(answer: Option<&Value>, complaints: &str, status: ExitStatus) -> String {
    let said = |member: &str| {
        let text = answer.and_then(|answer| answer[member].as_str());
        text.map(str::trim).filter(|text| !text.is_empty())
    };
    let text = match (said("msg"), said("details")) {
        (Some(message), Some(details)) => format!("{message}: {details}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) if !complaints.trim().is_empty() => complaints.trim().to_owned(),
        (None, None) => format!("it ended with {status}"),
    };
    cut(&text).to_owned()
}

fn cut(text: &str) -> &str {
    match text.char_indices().nth(MAX_COMPLAINT) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
