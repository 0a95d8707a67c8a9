//! Error numbers of the system, written by name so that a recording can be read and edited.

use std::fmt;
use std::io;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why the system refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// There is no such file.
    pub const NOENT: Self = Self(libc::ENOENT);
    /// What the operation needs is forbidden.
    pub const PERM: Self = Self(libc::EPERM);
    /// The file's mode forbids it.
    pub const ACCES: Self = Self(libc::EACCES);
    /// The kernel does not know the call.
    pub const NOSYS: Self = Self(libc::ENOSYS);
    /// No driver answers for the device node.
    pub const NODEV: Self = Self(libc::ENODEV);
    /// The same, from another layer of the kernel.
    pub const NXIO: Self = Self(libc::ENXIO);
}

/// The ones that the checks meet. Others are written as numbers.
const NAMES: &[(i32, &str)] = &[
    (libc::EPERM, "EPERM"),
    (libc::ENOENT, "ENOENT"),
    (libc::EIO, "EIO"),
    (libc::ENXIO, "ENXIO"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EACCES, "EACCES"),
    (libc::EFAULT, "EFAULT"),
    (libc::EBUSY, "EBUSY"),
    (libc::EEXIST, "EEXIST"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOTDIR, "ENOTDIR"),
    (libc::EISDIR, "EISDIR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EMFILE, "EMFILE"),
    (libc::ENFILE, "ENFILE"),
    (libc::ENOTTY, "ENOTTY"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::EROFS, "EROFS"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EUSERS, "EUSERS"),
];

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl From<&io::Error> for Errno {
    /// An error that the standard library made up has no number and counts as EIO.
    fn from(error: &io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.raw_os_error())
    }
}

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Errno {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let named = NAMES.iter().find(|(_, name)| *name == text);
        named
            .map(|(number, _)| *number)
            .or_else(|| text.strip_prefix("errno ")?.parse().ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is no error number of Linux")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_writing_and_reading() {
        for errno in [Errno(libc::EBUSY), Errno(libc::EHOSTDOWN)] {
            let text = serde_json::to_string(&errno).unwrap();
            assert_eq!(
                serde_json::from_str::<Errno>(&text).unwrap(),
                errno,
                "{text}"
            );
        }
        assert_eq!(
            serde_json::to_string(&Errno(libc::EBUSY)).unwrap(),
            "\"EBUSY\""
        );
        assert!(serde_json::from_str::<Errno>("\"EWHATEVER\"").is_err());
    }
}
