//! What the node's administrator allows: the runtime's configuration file, or that of a handler.
//!
//! Nothing that comes with a pod can change it, or name another file. Without it there are defaults.

use std::path::{Path, PathBuf};
use std::{fs, io};

use sandbox::config::{host_memory, parse_bytes};
use sandbox::sizing::{Base, Profile, Rule, Size};
use thiserror::Error;
use toml_edit::{Document, Item, Value};
use vmm::{ConfigError, MemorySize, VcpuCount};

use crate::options::Source;

/// The file.
pub const PATH: &str = "/etc/podvmm/config.toml";
/// Longest that is read, in bytes.
const MAX_LENGTH: u64 = 64 << 10;
/// Most vCPUs of a pod without a file, on a node that has more. A guest's kernel keeps data for each from
/// the start, and those for so many lie in one huge page.
const MAX_VCPUS: u8 = 8;

/// A file that does not say what can be done.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is too long.
    #[error("{path}: has {length} bytes, at most {MAX_LENGTH} are read")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// It is not as it should be.
    #[error("{path}:{line}: {message}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

impl FileError {
    fn wrong(path: impl Into<PathBuf>, text: &str, (at, message): Wrong) -> Self {
        Self::Wrong {
            path: path.into(),
            line: text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1,
            message,
        }
    }
}

/// How pods are run on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How large a pod's VM is.
    pub rule: Rule,
    /// How large it may become.
    pub max: Size,
}

/// What is wrong, and at which byte.
type Wrong = (usize, String);

impl Config {
    /// That of a handler, by default this node's.
    ///
    /// # Errors
    /// [`FileError`] names file and line. There is no error in that the node has no file.
    pub fn read(source: &Source) -> Result<Self, FileError> {
        let max = Self::default_max();
        match source {
            Source::Node => match Self::read_from(Path::new(PATH), max) {
                Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    Ok(Self::without_file(max))
                }
                read => read,
            },
            Source::File(path) => Self::read_from(path, max),
            Source::Inline(text) => Self::parse(text, max)
                .map_err(|wrong| FileError::wrong("the handler's options", text, wrong)),
        }
    }

    fn without_file(max: Size) -> Self {
        let rule = Rule::default();
        Self { rule, max }
    }

    fn read_from(path: &Path, default_max: Size) -> Result<Self, FileError> {
        let failed = |source| FileError::Read {
            path: path.to_owned(),
            source,
        };
        let length = fs::metadata(path).map_err(failed)?.len();
        if length > MAX_LENGTH {
            let path = path.to_owned();
            return Err(FileError::TooLong { path, length });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text, default_max).map_err(|wrong| FileError::wrong(path, &text, wrong))
    }

    /// The node's CPUs, as far as they cost nothing, and its memory.
    fn default_max() -> Size {
        // Not available_parallelism: that goes by the quota of the pod's cgroup, which is a limit to grow to.
        let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |cpus| cpus.count());
        let cpus = u64::from(cpus.min(MAX_VCPUS.into()));
        let memory = host_memory()
            .unwrap_or(0)
            .clamp(MemorySize::MIN, MemorySize::MAX);
        let base = Base::of(Profile::default());
        Size {
            vcpus: vcpus(cpus)
                .or_else(|_| vcpus(base.vcpus))
                .unwrap_or_else(|_| unreachable!()),
            memory: MemorySize::from_bytes(memory).unwrap_or_else(|_| unreachable!()),
        }
    }

    fn parse(text: &str, default_max: Size) -> Result<Self, Wrong> {
        let document = Document::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (at, error.message().to_owned())
        })?;
        let mut max = default_max;
        let mut profile = Profile::default();
        let (mut base_vcpus, mut base_memory) = (None, None);
        for (name, item) in document.iter() {
            let key = document.key(name).and_then(toml_edit::Key::span);
            let at = key.or_else(|| item.span()).map_or(0, |span| span.start);
            let wrong = |message: String| (at, format!("{name}: {message}"));
            match name {
                "max_vcpus" => max.vcpus = read_vcpus(item).map_err(wrong)?,
                "max_memory" => max.memory = read_memory(item).map_err(wrong)?,
                "profile" => profile = read_profile(item).map_err(wrong)?,
                "base_vcpus" => base_vcpus = Some(read_vcpus(item).map_err(wrong)?),
                "base_memory" => base_memory = Some(read_memory(item).map_err(wrong)?),
                _ => {
                    let known = "profile, base_vcpus, base_memory, max_vcpus and max_memory";
                    return Err(wrong(format!("unknown key; there are {known}")));
                }
            }
        }
        let mut rule = Rule::of(profile);
        if let Some(vcpus) = base_vcpus {
            rule.base.vcpus = vcpus.get().into();
        }
        if let Some(memory) = base_memory {
            rule.base.memory = memory.bytes();
        }
        Ok(Self { rule, max })
    }
}

fn vcpus(count: u64) -> Result<VcpuCount, ConfigError> {
    VcpuCount::new(count)
}

fn read_vcpus(item: &Item) -> Result<VcpuCount, String> {
    let count = item
        .as_integer()
        .and_then(|count| u64::try_from(count).ok());
    let count = count.ok_or("write a number of vCPUs, such as 4")?;
    vcpus(count).map_err(|error| error.to_string())
}

fn read_memory(item: &Item) -> Result<MemorySize, String> {
    let bytes = match item.as_value() {
        Some(Value::String(text)) => parse_bytes(text.value())?,
        Some(Value::Integer(bytes)) => u64::try_from(*bytes.value()).unwrap_or(0),
        _ => return Err("write a size, such as \"16G\", or bytes".into()),
    };
    MemorySize::from_bytes(bytes).map_err(|error| error.to_string())
}

fn read_profile(item: &Item) -> Result<Profile, String> {
    let name = item.as_str().ok_or("write \"aks-preview\" or \"aks-ga\"")?;
    name.parse::<Profile>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn size(count: u64, gib: u64) -> Size {
        Size {
            vcpus: vcpus(count).unwrap(),
            memory: MemorySize::from_bytes(gib * GIB).unwrap(),
        }
    }

    fn parse(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Config::read_from(&path, size(2, 4)).map_err(|error| {
            let text = error.to_string();
            text.rsplit("config.toml")
                .next()
                .unwrap_or_default()
                .to_owned()
        })
    }

    #[test]
    fn without_a_file_there_are_defaults() {
        let config = Config::without_file(size(2, 4));
        assert_eq!(config.rule, Rule::default());
        assert_eq!(config.max, size(2, 4));
        assert_eq!(parse("# nothing\n"), Ok(config));
        let max = Config::default_max();
        assert!(max.vcpus.get() <= MAX_VCPUS && max.memory.bytes() >= MemorySize::MIN);
    }

    #[test]
    fn a_handlers_own_settings_have_to_be_there() {
        let error = Config::read(&Source::File("/no/such/file".into())).unwrap_err();
        assert_eq!(error.to_string(), "/no/such/file: cannot be read");
        let config = Config::read(&Source::Inline("max_vcpus = 3".into())).unwrap();
        assert_eq!(config.max.vcpus.get(), 3);
        let error = Config::read(&Source::Inline("# x\nmax = 3".into())).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("the handler's options:2: max: unknown key"),
            "{text}"
        );
    }

    #[test]
    fn each_key_is_taken() {
        let text = "profile = \"aks-ga\"\nbase_vcpus = 2\nbase_memory = \"1G\"\n\
                    max_vcpus = 16\nmax_memory = 34359738368\n";
        let config = parse(text).unwrap();
        assert_eq!(config.max, size(16, 32));
        let base = Base {
            vcpus: 2,
            memory: GIB,
        };
        let profile = Profile::AksGa;
        assert_eq!(config.rule, Rule { profile, base });
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, message) in [
            (
                "max_vcpu = 4",
                ":1: max_vcpu: unknown key; there are profile, ",
            ),
            ("\n[pods]\nmax_vcpus = 4", ":2: pods: unknown key"),
            (
                "max_vcpus = 4\nmax_memory = 4.5",
                ":2: max_memory: write a size",
            ),
            (
                "# x\n\nmax_memory = \"4 GB of it\"",
                ":3: max_memory: `4 GB of it` is no size",
            ),
            (
                "max_vcpus = 0",
                ":1: max_vcpus: 0 vCPUs: a machine has 1 to 64",
            ),
            ("max_vcpus = -1", ":1: max_vcpus: write a number"),
            ("max_vcpus = \"4\"", ":1: max_vcpus: write a number"),
            ("profile = \"aks\"", ":1: profile: \"aks\" is no profile"),
            ("base_memory = 1", ":1: base_memory: 1 bytes of memory"),
            ("max_vcpus = 4\nmax_vcpus = 5", ":2: duplicate key"),
            ("\n\nmax_vcpus =", ":3: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
        let error = parse(&"#\n".repeat(40_000)).unwrap_err();
        assert!(error.contains("80000 bytes"), "{error}");
    }
}
