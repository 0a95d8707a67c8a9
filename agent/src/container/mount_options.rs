//! Mount options as OCI configurations and mount(8) write them.

use rustix::mount::{MountAttrFlags, MountPropagationFlags};

/// Options of one mount, sorted by what carries them out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MountOptions {
    /// The content is another directory's or file's.
    pub(crate) bind: bool,
    /// With the mounts below it.
    pub(crate) recursive_bind: bool,
    /// What of a bind mount's source is mounted, as a path in it; mount(8) has it under the same name.
    pub(crate) subdir: Option<String>,
    pub(crate) set: MountAttrFlags,
    pub(crate) clear: MountAttrFlags,
    /// Read-only including the mounts below.
    pub(crate) recursive_readonly: bool,
    pub(crate) propagation: MountPropagationFlags,
    /// For the file system itself; without a value it is a flag.
    pub(crate) data: Vec<(String, Option<String>)>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            bind: false,
            recursive_bind: false,
            subdir: None,
            set: MountAttrFlags::empty(),
            clear: MountAttrFlags::empty(),
            recursive_readonly: false,
            propagation: MountPropagationFlags::empty(),
            data: Vec::new(),
        }
    }
}

const NONE: MountAttrFlags = MountAttrFlags::empty();
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const ATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR__ATIME;
const NOATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOATIME;
const STRICTATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_STRICTATIME;
const NODIRATIME: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODIRATIME;

/// Option, attributes set, attributes cleared.
const ATTRIBUTES: [(&str, MountAttrFlags, MountAttrFlags); 16] = [
    ("ro", RDONLY, NONE),
    ("rw", NONE, RDONLY),
    ("nosuid", NOSUID, NONE),
    ("suid", NONE, NOSUID),
    ("nodev", NODEV, NONE),
    // Which devices work is decided by `linux.devices` alone.
    ("dev", NONE, NONE),
    ("noexec", NOEXEC, NONE),
    ("exec", NONE, NOEXEC),
    ("noatime", NOATIME, ATIME),
    ("atime", NONE, ATIME),
    ("relatime", NONE, ATIME),
    ("norelatime", NONE, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("nodiratime", NODIRATIME, NONE),
    ("diratime", NONE, NODIRATIME),
    ("defaults", NONE, NONE),
];

const PROPAGATIONS: [(&str, MountPropagationFlags); 4] = [
    ("private", MountPropagationFlags::PRIVATE),
    ("slave", MountPropagationFlags::DOWNSTREAM),
    ("shared", MountPropagationFlags::SHARED),
    ("unbindable", MountPropagationFlags::UNBINDABLE),
];

/// Flags of file systems that are passed on.
const DATA_FLAGS: [&str; 3] = ["newinstance", "nsdelegate", "noswap"];

/// Sorts `options`; later ones win. An unsupported one is the error.
pub(crate) fn parse(options: &[String]) -> Result<MountOptions, String> {
    let mut parsed = MountOptions::default();
    for option in options {
        if let Some((_, set, clear)) = ATTRIBUTES.iter().find(|(name, ..)| name == option) {
            parsed.set = (parsed.set - *clear) | *set;
            parsed.clear = (parsed.clear - *set) | *clear;
        } else if let Some((flags, recursive)) = propagation(option) {
            let depth = if recursive {
                MountPropagationFlags::REC
            } else {
                NO_PROPAGATION
            };
            parsed.propagation = flags | depth;
        } else if let Some(path) = option.strip_prefix("X-mount.subdir=") {
            parsed.subdir = Some(path.to_owned());
        } else if let Some((key, value)) = option.split_once('=') {
            parsed.data.push((key.to_owned(), Some(value.to_owned())));
        } else if DATA_FLAGS.contains(&option.as_str()) {
            parsed.data.push((option.clone(), None));
        } else {
            match option.as_str() {
                "bind" => parsed.bind = true,
                "rbind" => (parsed.bind, parsed.recursive_bind) = (true, true),
                "rro" => parsed.recursive_readonly = true,
                _ => return Err(option.clone()),
            }
        }
    }
    Ok(parsed)
}

const NO_PROPAGATION: MountPropagationFlags = MountPropagationFlags::empty();

fn propagation(option: &str) -> Option<(MountPropagationFlags, bool)> {
    let find = |wanted: &str| {
        PROPAGATIONS
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, flags)| *flags)
    };
    find(option)
        .map(|flags| (flags, false))
        .or_else(|| Some((find(option.strip_prefix('r')?)?, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> MountOptions {
        parse(&options.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_container_engines_usual_options() {
        let options = parsed(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "gid=5"]);
        assert_eq!(options.set, NOSUID | NOEXEC);
        assert_eq!(options.data[0], ("newinstance".to_owned(), None));
        assert_eq!(
            options.data[1],
            ("ptmxmode".to_owned(), Some("0666".to_owned()))
        );
        let options = parsed(&["rbind", "rprivate", "ro"]);
        assert!(options.bind && options.recursive_bind);
        assert_eq!(
            options.propagation,
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC
        );
        assert_eq!(options.set, RDONLY);
    }

    #[test]
    fn the_last_of_contradicting_options_wins() {
        assert_eq!(parsed(&["ro", "rw"]).set, NONE);
        assert_eq!(parsed(&["rw", "ro"]).set, RDONLY);
        assert_eq!(parsed(&["strictatime", "noatime"]).set, NOATIME);
        assert_eq!(parsed(&["noatime", "relatime"]).set, NONE);
    }

    #[test]
    fn an_unknown_option_is_named() {
        assert_eq!(parse(&["idmap".to_owned()]), Err("idmap".to_owned()));
        assert_eq!(parse(&["r".to_owned()]), Err("r".to_owned()));
    }
}
