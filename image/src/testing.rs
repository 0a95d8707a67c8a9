//! For tests: directories that go with their owner, archives of any kind, images made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-image-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An archive, written without any care for what it says.
#[derive(Clone, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
    owner: (u64, u64),
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whom the entries after this belong to.
    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub(crate) fn entry(
        mut self,
        kind: u8,
        name: &str,
        link: &str,
        mode: u32,
        data: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name.as_bytes());
        raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.data(data)
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        let rounded = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(rounded, 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "", 0o755, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, 0o644, b"")
    }

    /// An extended header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(b'x', "extended", "", 0o644, &data)
    }

    /// The archive with its end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image: blobs by digest, and its manifest.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) manifest: Digest,
}

impl TestImage {
    /// Of these layers as they are stored, and before they were compressed.
    pub(crate) fn of(layers: &[(Vec<u8>, Vec<u8>)], config: Value) -> Self {
        let mut blobs = BTreeMap::new();
        let mut blob = |media_type: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            blobs.insert(digest, bytes.to_vec());
            json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
        };
        let diff_ids: Vec<_> = layers.iter().map(|(_, plain)| Digest::of(plain)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = blob(OCI_CONFIG, config.to_string().as_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|(stored, _)| blob(OCI_LAYER, stored))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
        });
        let manifest = manifest.to_string().into_bytes();
        blob(OCI_MANIFEST, &manifest);
        Self {
            manifest: Digest::of(&manifest),
            blobs,
        }
    }

    /// Of plain layers.
    pub(crate) fn plain(layers: &[Vec<u8>]) -> Self {
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| (layer.clone(), layer.clone()))
            .collect();
        Self::of(&layers, json!({ "Cmd": ["/bin/true"], "Env": ["A=1"] }))
    }

    pub(crate) fn descriptor(&self) -> Value {
        let size = self.blobs[&self.manifest].len();
        json!({ "mediaType": OCI_MANIFEST, "digest": self.manifest, "size": size })
    }

    /// The files of an OCI layout of images with their names.
    pub(crate) fn layout(images: &[(&str, &Self)]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut manifests = Vec::new();
        for (name, image) in images {
            let mut descriptor = image.descriptor();
            if !name.is_empty() {
                descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
            }
            manifests.push(descriptor);
            for (digest, bytes) in &image.blobs {
                files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.clone());
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        files.insert("index.json".into(), index.to_string().into_bytes());
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        files.insert("oci-layout".into(), version.to_string().into_bytes());
        files
    }
}

pub(crate) fn write_files(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// The same files in an archive, in an order in which no tool would write them.
pub(crate) fn archive(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let tar = files.iter().fold(Tar::new(), |tar, (name, bytes)| {
        tar.file(&format!("./{name}"), bytes)
    });
    tar.end()
}
