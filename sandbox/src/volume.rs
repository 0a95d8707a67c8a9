//! Directories of a guest's own memory.
//!
//! ```text
//!   GuestVolume ──Pod::make_volume──▶ tmpfs of the guest ──bind──▶ containers
//!                                          └──Pod::read_file──▶ the last bytes of a file
//! ```
//!
//! They live as long as the pod. Files that the host makes up (configuration, secrets, `/etc/hosts`) are
//! sent there rather than shared: nothing of them is on the host's disk.

use agent_protocol::proto::{MakeVolumeRequest, ReadVolumeFileRequest, VolumeFile};
use agent_protocol::{MAX_SPEC_LEN, VOLUMES_PATH};
use serde::{Deserialize, Serialize};

use crate::container::ContainerError;
use crate::guest::call_context;
use crate::pod::Pod;

/// What a file takes in a message beside its path and data.
const OVERHEAD: usize = 64;

/// A directory of the guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestVolume {
    /// Unique among the pod's; of the form that a container's name has.
    pub name: String,
    /// Bytes that it may hold; half of the guest's memory if none is named.
    pub size: Option<u64>,
    /// Permissions of the directory.
    pub mode: u32,
    /// Its group, and that of its files.
    pub gid: u32,
    /// Files that are there from the start.
    pub files: Vec<GuestFile>,
}

/// A file of such a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestFile {
    /// Relative path.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Content.
    #[serde(with = "hex")]
    pub data: Vec<u8>,
}

/// Where the guest has the volume `name`, for the `source` of a bind mount.
#[must_use]
pub fn path_in_guest(name: &str) -> String {
    format!("{VOLUMES_PATH}/{name}")
}

impl Pod {
    /// Makes a directory of the guest's memory, or adds files to one that there is.
    ///
    /// # Errors
    /// [`ContainerError::Call`].
    pub fn make_volume(&self, volume: &GuestVolume) -> Result<(), ContainerError> {
        for files in portions(&volume.files) {
            let request = MakeVolumeRequest {
                name: volume.name.clone(),
                size: volume.size.unwrap_or(0),
                mode: volume.mode,
                gid: volume.gid,
                files: files.iter().map(to_wire).collect(),
                ..Default::default()
            };
            let answer = self.agent().make_volume(call_context(), &request);
            answer.map_err(|error| ContainerError::Call {
                call: "MakeVolume",
                error,
            })?;
        }
        Ok(())
    }

    /// The last `max_bytes` of a file in such a directory.
    ///
    /// # Errors
    /// [`ContainerError::Call`]: there is none, or it is no regular file.
    pub fn read_file(
        &self,
        volume: &str,
        path: &str,
        max_bytes: u32,
    ) -> Result<Vec<u8>, ContainerError> {
        let request = ReadVolumeFileRequest {
            name: volume.to_owned(),
            path: path.to_owned(),
            max_bytes,
            ..Default::default()
        };
        let answer = self.agent().read_volume_file(call_context(), &request);
        answer
            .map(|answer| answer.data)
            .map_err(|error| ContainerError::Call {
                call: "ReadVolumeFile",
                error,
            })
    }
}

fn to_wire(file: &GuestFile) -> VolumeFile {
    VolumeFile {
        path: file.path.clone(),
        mode: file.mode,
        data: file.data.clone(),
        ..Default::default()
    }
}

/// As many files at a time as a request takes; at least one portion, which may be empty.
fn portions(files: &[GuestFile]) -> Vec<&[GuestFile]> {
    let mut all = Vec::new();
    let (mut begin, mut length) = (0, 0);
    for (index, file) in files.iter().enumerate() {
        let own = file.data.len() + file.path.len() + OVERHEAD;
        if index > begin && length + own > MAX_SPEC_LEN {
            all.push(&files[begin..index]);
            (begin, length) = (index, 0);
        }
        length += own;
    }
    all.push(&files[begin..]);
    all
}

/// Bytes as text, in half of the space that a list of numbers takes.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
        let text: String = bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
            .collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let pairs = text.as_bytes().chunks(2).map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        let bytes: Option<_> = pairs.collect();
        bytes.ok_or_else(|| D::Error::custom("no hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, length: usize) -> GuestFile {
        GuestFile {
            path: path.to_owned(),
            mode: 0o644,
            data: vec![7; length],
        }
    }

    #[test]
    fn requests_are_as_large_as_they_may_be() {
        let sizes = |files: &[GuestFile]| -> Vec<usize> {
            portions(files)
                .iter()
                .map(|portion| portion.len())
                .collect()
        };
        assert_eq!(sizes(&[]), [0]);
        assert_eq!(sizes(&[file("a", 3), file("b", 4)]), [2]);
        let whole = MAX_SPEC_LEN;
        assert_eq!(sizes(&[file("a", whole)]), [1]);
        assert_eq!(sizes(&[file("a", whole), file("b", 0)]), [1, 1]);
        let halves = [0; 5].map(|_| file("a", whole / 2 - 100));
        assert_eq!(sizes(&halves), [2, 2, 1]);
    }

    #[test]
    fn data_is_written_down_as_digits() {
        let mut data = file("a", 0);
        data.data = vec![0, 255, 16];
        let text = serde_json::to_string(&data).unwrap();
        assert!(text.contains("\"00ff10\""), "{text}");
        assert_eq!(serde_json::from_str::<GuestFile>(&text).unwrap(), data);
        for wrong in ["00f", "0g"] {
            let text = text.replace("00ff10", wrong);
            serde_json::from_str::<GuestFile>(&text).unwrap_err();
        }
    }
}
