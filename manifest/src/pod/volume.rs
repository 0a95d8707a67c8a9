//! Reading volumes.

use std::collections::HashSet;

use super::container::Reference;
use super::mount::{absolute, relative};
use super::{
    DownwardFile, EnvValue, FileSource, HostPathType, KeyToPath, ObjectKind, SizeLimit, Volume,
    VolumeSource, env, resources,
};
use crate::names;
use crate::objects::Objects;
use crate::problem::Code;
use crate::reader::{Fields, Item};
use crate::schema::{self, Object};

const DEFAULT_MODE: u32 = 0o644;
const MAX_MODE: u32 = 0o777;
/// Most volumes of a pod.
const MAX_VOLUMES: usize = 256;
const SOURCES: [&str; 6] = [
    "emptyDir",
    "hostPath",
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
];

/// Reads all volumes, and tells which containers they refer to.
pub fn read_all(item: &Item<'_>, objects: &Objects) -> (Vec<Volume>, Vec<Reference>) {
    let mut reader = Reader {
        objects,
        references: Vec::new(),
    };
    let mut volumes = Vec::<Volume>::new();
    for item in item.short_list(MAX_VOLUMES).unwrap_or_default() {
        let Some(volume) = reader.volume(&item) else {
            continue;
        };
        if volumes.iter().any(|other| other.name == volume.name) {
            let message = format!("{} is the name of another volume", volume.name);
            item.error(Code::Duplicate, message);
        }
        volumes.push(volume);
    }
    (volumes, reader.references)
}

struct Reader<'a> {
    objects: &'a Objects,
    references: Vec<Reference>,
}

impl Reader<'_> {
    /// A volume with a source that is wrong is kept, so that its mounts are not told of as well.
    fn volume(&mut self, item: &Item<'_>) -> Option<Volume> {
        let fields = item.object(&schema::VOLUME)?;
        let name = fields.need("name", "a volume has a name");
        let source = self.source(&fields).unwrap_or(VolumeSource::Ignored);
        Some(Volume {
            name: name?.named(names::label)?.to_owned(),
            source,
        })
    }

    fn source(&mut self, fields: &Fields<'_>) -> Option<VolumeSource> {
        let mut found = SOURCES
            .into_iter()
            .filter_map(|name| Some((name, fields.get(name)?)));
        let first = found.next();
        let others: Vec<_> = fields.names().filter(|name| *name != "name").collect();
        let Some((kind, item)) = first else {
            // Kubernetes makes such a volume an emptyDir.
            let is_empty = others.is_empty();
            return is_empty.then_some(VolumeSource::EmptyDir {
                in_memory: false,
                size_limit: None,
            });
        };
        if let Some((_, second)) = found.next() {
            second.error(
                Code::Conflict,
                format!("is there beside {kind}: a volume has one source"),
            );
        }
        match kind {
            "emptyDir" => read_empty_dir(&item),
            "hostPath" => read_host_path(&item),
            "configMap" => self.object(
                &item,
                &schema::CONFIG_MAP_VOLUME,
                "name",
                ObjectKind::ConfigMap,
            ),
            "secret" => self.object(
                &item,
                &schema::SECRET_VOLUME,
                "secretName",
                ObjectKind::Secret,
            ),
            "downwardAPI" => {
                let fields = item.object(&schema::DOWNWARD_API)?;
                let default_mode = mode(&fields, "defaultMode");
                let source = self.downward(&fields);
                Some(files(vec![source?], default_mode, &item))
            }
            _ => self.projected(&item),
        }
    }

    fn object(
        &self,
        item: &Item<'_>,
        schema: &'static Object,
        name: &'static str,
        kind: ObjectKind,
    ) -> Option<VolumeSource> {
        let fields = item.object(schema)?;
        let default_mode = mode(&fields, "defaultMode");
        let source = self.keys(item, &fields, name, kind)?;
        Some(files(vec![source], default_mode, item))
    }

    fn keys(
        &self,
        item: &Item<'_>,
        fields: &Fields<'_>,
        name: &'static str,
        kind: ObjectKind,
    ) -> Option<FileSource> {
        let items = fields.get("items").and_then(|item| item.list());
        let object = env::read_object_ref(fields, name, kind)?;
        self.objects.check(item, &object, None);
        let items = items.map(|items| {
            let read = |item: &Item<'_>| {
                let read = read_key(item)?;
                if self.objects.get(&object).is_some() {
                    self.objects.check(item, &object, Some(&read.key));
                }
                Some(read)
            };
            items.iter().filter_map(read).collect()
        });
        Some(FileSource::Object { object, items })
    }

    fn downward(&mut self, fields: &Fields<'_>) -> Option<FileSource> {
        let items = fields.get("items").and_then(|item| item.list());
        let items = items.unwrap_or_default();
        let files = items.iter().filter_map(|item| self.downward_file(item));
        Some(FileSource::Downward(files.collect()))
    }

    fn downward_file(&mut self, item: &Item<'_>) -> Option<DownwardFile> {
        let fields = item.object(&schema::DOWNWARD_FILE)?;
        let path = fields.need("path", "a file has a path");
        let path = path.and_then(|item| file_path(&item));
        let mode = mode(&fields, "mode");
        let value = match (fields.get("fieldRef"), fields.get("resourceFieldRef")) {
            (Some(item), None) => EnvValue::Field(env::read_field(&item, true)?),
            (None, Some(item)) => {
                let (resource, named) = env::read_resource(&item, "")?;
                let named = named.map(|item| Reference::new(&item, &resource.container));
                self.references.extend(named);
                EnvValue::Resource(resource)
            }
            _ => {
                fields.error(
                    Code::Conflict,
                    "must have one of fieldRef and resourceFieldRef",
                );
                return None;
            }
        };
        Some(DownwardFile {
            path: path?,
            mode,
            value,
        })
    }

    fn projected(&mut self, item: &Item<'_>) -> Option<VolumeSource> {
        let fields = item.object(&schema::PROJECTED)?;
        let default_mode = mode(&fields, "defaultMode");
        let list = fields.get("sources").and_then(|item| item.list());
        let mut sources = Vec::new();
        for item in list.unwrap_or_default() {
            sources.extend(self.projection(&item));
        }
        Some(files(sources, default_mode, item))
    }

    fn projection(&mut self, item: &Item<'_>) -> Option<FileSource> {
        let fields = item.object(&schema::PROJECTION)?;
        let count = fields.names().count();
        if count != 1 {
            let message =
                format!("has {count} sources: write one of configMap, secret, downwardAPI");
            fields.error(Code::Conflict, message);
            return None;
        }
        for (field, kind) in [
            ("configMap", ObjectKind::ConfigMap),
            ("secret", ObjectKind::Secret),
        ] {
            if let Some(item) = fields.get(field) {
                let inner = item.object(&schema::CONFIG_MAP_PROJECTION)?;
                return self.keys(&item, &inner, "name", kind);
            }
        }
        let item = fields.get("downwardAPI")?;
        let inner = item.object(&schema::DOWNWARD_API)?;
        if let Some(mode) = inner.get("defaultMode") {
            mode.error(Code::Conflict, "belongs beside sources");
        }
        self.downward(&inner)
    }
}

/// A volume of files, whose paths have to differ.
fn files(sources: Vec<FileSource>, default_mode: Option<u32>, item: &Item<'_>) -> VolumeSource {
    let mut seen = HashSet::new();
    for source in &sources {
        let paths: Vec<&str> = match source {
            FileSource::Object { items, .. } => {
                let items = items.iter().flatten();
                items.map(|item| item.path.as_str()).collect()
            }
            FileSource::Downward(files) => files.iter().map(|file| file.path.as_str()).collect(),
        };
        for path in paths {
            if !seen.insert(path.to_owned()) {
                item.error(Code::Conflict, format!("has two files {path}"));
            }
        }
    }
    for path in &seen {
        let mut parts = path.match_indices('/');
        if let Some((end, _)) = parts.find(|(end, _)| seen.contains(&path[..*end])) {
            let file = &path[..end];
            item.error(
                Code::Conflict,
                format!("has a file {file}, and {path} below it"),
            );
        }
    }
    VolumeSource::Files {
        sources,
        default_mode: default_mode.unwrap_or(DEFAULT_MODE),
    }
}

fn mode(fields: &Fields<'_>, field: &'static str) -> Option<u32> {
    let item = fields.get(field)?;
    let value = item.int(0..=i64::from(i32::MAX))?;
    let mode = u32::try_from(value).ok().filter(|mode| *mode <= MAX_MODE);
    if mode.is_none() {
        item.bad(format!(
            "is {value}, which is 0{value:o}, and must be at most 0777: octal numbers begin with 0"
        ));
    }
    mode
}

/// The path of a file in a volume, beside the names that the volume needs for itself.
fn file_path(item: &Item<'_>) -> Option<String> {
    let path = relative(item)?;
    if path.is_empty() {
        item.bad("must not be empty");
        return None;
    }
    if path.starts_with("..") {
        item.bad("must not begin with '..'");
        return None;
    }
    Some(path)
}

fn read_key(item: &Item<'_>) -> Option<KeyToPath> {
    let fields = item.object(&schema::KEY_TO_PATH)?;
    let key = fields.need("key", "it is a key of the data");
    let key = key.and_then(|item| item.named(names::data_key));
    let path = fields.need("path", "it is the file's path in the volume");
    let path = path.and_then(|item| file_path(&item));
    let mode = mode(&fields, "mode");
    Some(KeyToPath {
        key: key?.to_owned(),
        path: path?,
        mode,
    })
}

fn read_empty_dir(item: &Item<'_>) -> Option<VolumeSource> {
    let fields = item.object(&schema::EMPTY_DIR)?;
    let size_limit = fields.get("sizeLimit").and_then(|item| {
        Some(SizeLimit {
            bytes: resources::bytes(&item)?,
            text: item.quantity_text()?,
        })
    });
    let mut in_memory = false;
    if let Some(medium) = fields.get("medium") {
        match medium.text()? {
            "" => {}
            "Memory" => in_memory = true,
            text if text.starts_with("HugePages") => {
                medium.unsupported("huge pages are not supported: use Memory");
                return None;
            }
            text => medium.unknown_word(text, ["Memory"].into_iter()),
        }
    }
    Some(VolumeSource::EmptyDir {
        in_memory,
        size_limit: size_limit.filter(|limit| limit.bytes > 0),
    })
}

fn read_host_path(item: &Item<'_>) -> Option<VolumeSource> {
    let fields = item.object(&schema::HOST_PATH)?;
    let path = fields.need("path", "it is a path of the host");
    let path = path.and_then(|item| absolute(&item));
    let kind = match fields.get("type") {
        None => HostPathType::Any,
        Some(item) if matches!(item.text(), Some("Socket" | "CharDevice" | "BlockDevice")) => {
            item.unsupported(
                "a socket or device of the host means nothing in a guest: use a directory or file",
            );
            return None;
        }
        Some(item) => item.one_of(&[
            ("", HostPathType::Any),
            ("Directory", HostPathType::Directory),
            ("DirectoryOrCreate", HostPathType::DirectoryOrCreate),
            ("File", HostPathType::File),
            ("FileOrCreate", HostPathType::FileOrCreate),
        ])?,
    };
    Some(VolumeSource::HostPath { path: path?, kind })
}
