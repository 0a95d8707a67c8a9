//! Volumes, as data.

use std::collections::BTreeMap;

use super::{Context, environment};
use crate::pod::{EnvValue, FileSource, HostPathType, SizeLimit, VolumeSource};

/// A volume to prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Name, unique in the pod.
    pub name: String,
    /// What is in it.
    pub content: Content,
    /// Group that it belongs to, and which can write it; not for what is the host's.
    pub group: Option<u32>,
}

/// What a volume consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An empty directory of the host.
    Directory {
        /// As much as may be in it.
        limit: Option<SizeLimit>,
    },
    /// A tmpfs of the guest that lives as long as the pod.
    Memory {
        /// Bytes; half of the guest's memory if there is no limit.
        size: Option<u64>,
    },
    /// Something of the host.
    Host {
        /// Absolute path.
        path: String,
        /// What has to be there.
        kind: HostPathType,
    },
    /// Files that are written once.
    Files(Vec<PlannedFile>),
}

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// Relative path.
    pub path: String,
    /// Mode.
    pub mode: u32,
    /// Content.
    pub data: Vec<u8>,
}

pub fn plan_all(context: &Context<'_>) -> Vec<VolumePlan> {
    let pod = &context.manifest.pod;
    let plan = |volume: &crate::pod::Volume| {
        let content = match &volume.source {
            VolumeSource::Ignored => return None,
            VolumeSource::EmptyDir {
                in_memory: false,
                size_limit,
            } => Content::Directory {
                limit: size_limit.clone(),
            },
            VolumeSource::EmptyDir {
                in_memory: true,
                size_limit,
            } => Content::Memory {
                size: size_limit.as_ref().map(|limit| limit.bytes),
            },
            VolumeSource::HostPath { path, kind } => Content::Host {
                path: path.clone(),
                kind: *kind,
            },
            VolumeSource::Files {
                sources,
                default_mode,
            } => Content::Files(files(sources, *default_mode, context)),
        };
        let is_hosts = matches!(content, Content::Host { .. });
        Some(VolumePlan {
            name: volume.name.clone(),
            content,
            group: pod.fs_group.filter(|_| !is_hosts),
        })
    };
    pod.volumes.iter().filter_map(plan).collect()
}

/// Later sources take the place of earlier ones where both have a file of the same path.
fn files(sources: &[FileSource], default_mode: u32, context: &Context<'_>) -> Vec<PlannedFile> {
    let mut files = BTreeMap::<String, PlannedFile>::new();
    let mut add = |path: &str, mode: Option<u32>, data: Vec<u8>| {
        let file = PlannedFile {
            path: path.to_owned(),
            mode: mode.unwrap_or(default_mode),
            data,
        };
        files.insert(path.to_owned(), file);
    };
    for source in sources {
        match source {
            FileSource::Object { object, items } => {
                // An object or key that is missing may be: the manifest has been checked.
                let Some(data) = context.manifest.objects.get(object) else {
                    continue;
                };
                match items {
                    None => {
                        for (key, bytes) in data {
                            add(key, None, bytes.clone());
                        }
                    }
                    Some(items) => {
                        for item in items {
                            if let Some(bytes) = data.get(&item.key) {
                                add(&item.path, item.mode, bytes.clone());
                            }
                        }
                    }
                }
            }
            FileSource::Downward(list) => {
                for file in list {
                    let text = match &file.value {
                        EnvValue::Field(field) => environment::field(field, context),
                        EnvValue::Resource(resource) => environment::resource(resource, context),
                        EnvValue::Text(_) | EnvValue::Key(..) => continue,
                    };
                    add(&file.path, file.mode, text.into_bytes());
                }
            }
        }
    }
    files.into_values().collect()
}
