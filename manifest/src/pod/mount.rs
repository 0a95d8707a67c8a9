//! Reading what a container sees of volumes, and paths.

use super::VolumeSource;
use super::container::Scope;
use crate::problem::Code;
use crate::reader::Item;
use crate::schema;
use crate::yaml::scalar::shorten;

/// Where the kernel's own files are.
const KERNELS: [&str; 2] = ["/proc", "/sys"];
/// Most mounts of a container.
const MAX_MOUNTS: usize = 256;
/// Longest path that the kernel takes.
const MAX_PATH: usize = 4095;

/// A volume inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// Name of the volume.
    pub volume: String,
    /// Absolute path.
    pub path: String,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// Part of the volume.
    pub sub_path: SubPath,
}

/// Part of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubPath {
    /// All of it.
    #[default]
    Whole,
    /// A relative path.
    Path(String),
    /// A relative path with `$(VAR)`.
    Expression(String),
}

/// Reads all mounts of a container, a directory before what is mounted in it.
pub fn read_all(item: &Item<'_>, scope: &Scope<'_>) -> Vec<VolumeMount> {
    let mut mounts = Vec::<(VolumeMount, Item<'_>)>::new();
    for item in item.short_list(MAX_MOUNTS).unwrap_or_default() {
        let Some(mount) = read_mount(&item, scope) else {
            continue;
        };
        if let Some((_, first)) = mounts.iter().find(|(other, _)| other.path == mount.path) {
            let message = format!("{} is the path of {} as well", mount.path, first.path);
            item.error(Code::Conflict, message);
            continue;
        }
        mounts.push((mount, item));
    }
    for (mount, item) in &mounts {
        let outer = mounts
            .iter()
            .find(|(outer, _)| outer.read_only && is_below(&mount.path, &outer.path));
        if let Some((outer, _)) = outer {
            item.warn(format!(
                "lies in the read-only mount {}: the volume {} must have this path in it",
                outer.path, outer.volume
            ));
        }
    }
    // A directory is mounted before what is mounted in it.
    let mut mounts: Vec<_> = mounts.into_iter().map(|(mount, _)| mount).collect();
    mounts.sort_by_key(|mount| mount.path.matches('/').count());
    mounts
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn read_mount(item: &Item<'_>, scope: &Scope<'_>) -> Option<VolumeMount> {
    let fields = item.object(&schema::VOLUME_MOUNT)?;
    let name = fields.need("name", "it is a volume's");
    let volume = name.and_then(|item| find_volume(&item, scope));
    let path = fields.need("mountPath", "a volume is mounted somewhere");
    let path = path.and_then(|item| mount_path(&item));
    let read_only = fields.get("readOnly").and_then(|item| item.bool());
    if let Some(item) = fields.get("mountPropagation")
        && item.text().is_some_and(|text| text != "None")
    {
        item.unsupported(
            "must be None: mounts of the host and of the guest do not reach each other",
        );
    }
    if let Some(item) = fields.get("recursiveReadOnly")
        && item.text().is_some_and(|text| text != "Disabled")
    {
        item.unsupported("must be Disabled: what is mounted below a volume keeps its own mode");
    }
    let (plain, expression) = (fields.get("subPath"), fields.get("subPathExpr"));
    if let (Some(_), Some(item)) = (&plain, &expression) {
        item.error(
            Code::Conflict,
            "is there beside subPath: write one of the two",
        );
    }
    let sub_path = match (plain, expression) {
        (Some(item), _) => relative(&item).map(SubPath::Path),
        (None, Some(item)) => relative(&item).map(SubPath::Expression),
        (None, None) => None,
    };
    let empty =
        |path: &SubPath| matches!(path, SubPath::Path(p) | SubPath::Expression(p) if p.is_empty());
    Some(VolumeMount {
        volume: volume?.to_owned(),
        path: path?,
        read_only: read_only.unwrap_or(false),
        sub_path: sub_path.filter(|path| !empty(path)).unwrap_or_default(),
    })
}

fn mount_path(item: &Item<'_>) -> Option<String> {
    let path = absolute(item)?;
    if path == "/" {
        item.bad("is the root, which is the image's: mount the volume below it");
        return None;
    }
    let kernels = |dir: &&&str| path == **dir || is_below(&path, dir);
    if let Some(dir) = KERNELS.iter().find(kernels) {
        item.bad(format!(
            "lies in {dir}, where the kernel's own files are: mount the volume elsewhere"
        ));
        return None;
    }
    Some(path)
}

/// The volume of a mount; none also if it is one that is left out.
fn find_volume<'a>(item: &Item<'a>, scope: &Scope<'_>) -> Option<&'a str> {
    let name = item.text()?;
    match scope.volumes.iter().find(|volume| volume.name == name) {
        Some(volume) if volume.source == VolumeSource::Ignored => None,
        Some(_) => Some(name),
        None => {
            let known = scope.volumes.iter().map(|volume| volume.name.as_str());
            let hint = match item.report().similar(name, known) {
                Some(similar) => format!("; is it {similar}?"),
                None => ": add it to spec.volumes".into(),
            };
            item.error(
                Code::Reference,
                format!("there is no volume {name:?}{hint}"),
            );
            None
        }
    }
}

/// An absolute path without `..`, and without what does not count in it.
pub fn absolute(item: &Item<'_>) -> Option<String> {
    let text = item.argument()?;
    if !text.starts_with('/') {
        item.bad(format!("{text:?} is not absolute: begin it with '/'"));
        return None;
    }
    if text.len() > MAX_PATH {
        item.bad(format!(
            "has {} bytes, a path has at most {MAX_PATH}",
            text.len()
        ));
        return None;
    }
    if text.split('/').any(|part| part == "..") {
        item.bad("has '..' in it: write the path that it leads to");
        return None;
    }
    let parts: Vec<_> = text
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    Some(format!("/{}", parts.join("/")))
}

/// A path that stays below where it starts.
pub fn relative(item: &Item<'_>) -> Option<String> {
    let text = item.argument()?;
    if text.starts_with('/') || text.split('/').any(|part| part == "..") || text.len() > MAX_PATH {
        item.bad(format!(
            "{:?} must be a relative path without '..'",
            shorten(text)
        ));
        return None;
    }
    let parts: Vec<_> = text
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    Some(parts.join("/"))
}
