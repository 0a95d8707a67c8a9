//! Layouts and archives, whole and damaged.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use super::*;
use crate::digest::Digest;
use crate::progress::Silent;
use crate::testing::{Tar, TempDir, TestImage, archive, gzip, write_files};

struct Bed {
    dir: TempDir,
    store: Store,
}

impl Bed {
    fn new() -> Self {
        let dir = TempDir::new();
        let store = Store::open(dir.join("store")).unwrap();
        Self { dir, store }
    }

    /// Imports what these files are as a directory.
    fn layout(&self, files: &BTreeMap<String, Vec<u8>>, tag: &str) -> Result<Image, SourceError> {
        let dir = self.dir.join("layout");
        let _ = fs::remove_dir_all(&dir);
        write_files(&dir, files);
        self.import(&format!("layout{tag}"))
    }

    /// Imports what these bytes are as a file.
    fn file(&self, bytes: &[u8], tag: &str) -> Result<Image, SourceError> {
        fs::write(self.dir.join("app.tar"), bytes).unwrap();
        self.import(&format!("app.tar{tag}"))
    }

    fn import(&self, name: &str) -> Result<Image, SourceError> {
        self.store
            .import(&self.dir.join(name), &Wanted::default(), &Silent)
    }

    /// Nothing has been kept that could be taken for an image.
    #[track_caller]
    fn has_no_image(&self) {
        assert!(self.store.list().unwrap().is_empty());
        self.store.prune(true).unwrap();
        assert_eq!(
            fs::read_dir(self.dir.join("store/blobs/sha256"))
                .unwrap()
                .count(),
            0
        );
    }
}

fn image(content: &str) -> TestImage {
    let plain = Tar::new().file("f", content.as_bytes()).end();
    TestImage::of(&[(gzip(&plain), plain)], json!({ "Cmd": ["/bin/true"] }))
}

#[track_caller]
fn has(image: &Image, content: &str) {
    let root = image.rootfs().unwrap();
    assert_eq!(fs::read_to_string(root.path().join("f")).unwrap(), content);
}

#[test]
fn a_layout_is_read_from_a_directory_and_from_archives() {
    let files = TestImage::layout(&[("registry.example/app:1", &image("x"))]);
    let plain = archive(&files);
    let bed = Bed::new();
    for attempt in 0..4 {
        let image = match attempt {
            0 => bed.layout(&files, ""),
            1 => bed.file(&plain, ""),
            2 => bed.file(&gzip(&plain), ""),
            _ => bed.file(&plain, ":1"),
        };
        let image = image.unwrap();
        assert_eq!(image.name(), "registry.example/app:1");
        assert_eq!(image.config().config.cmd, ["/bin/true"]);
        has(&image, "x");
    }
}

#[test]
fn one_of_several_is_chosen_by_name() {
    let (one, two) = (image("1"), image("2"));
    let files = TestImage::layout(&[("one", &one), ("registry.example/app:two", &two)]);
    let bed = Bed::new();
    let error = bed.layout(&files, "").unwrap_err().to_string();
    assert!(error.contains("one, registry.example/app:two"), "{error}");
    let error = bed.layout(&files, ":three").unwrap_err().to_string();
    assert!(
        error.contains("three") && error.contains("there are"),
        "{error}"
    );
    has(&bed.layout(&files, ":one").unwrap(), "1");
    has(&bed.layout(&files, ":two").unwrap(), "2");
    has(
        &bed.layout(&files, ":registry.example/app:two").unwrap(),
        "2",
    );
    has(
        &bed.layout(&files, &format!(":{}", two.manifest)).unwrap(),
        "2",
    );
    let names: Vec<_> = bed
        .store
        .list()
        .unwrap()
        .into_iter()
        .map(|record| record.name)
        .collect();
    assert!(names[0].starts_with("localhost/layout:"), "{names:?}");
    let wanted = Wanted {
        name: Some("mine:7".parse().unwrap()),
        ..Wanted::default()
    };
    let image = bed
        .store
        .import(&bed.dir.join("layout:one"), &wanted, &Silent)
        .unwrap();
    assert_eq!(image.name(), "docker.io/library/mine:7");
}

#[test]
fn what_docker_saves_is_read() {
    let image = image("x");
    let manifest: serde_json::Value =
        serde_json::from_slice(&image.blobs[&image.manifest]).unwrap();
    let blob = |descriptor: &serde_json::Value| {
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        image.blobs[&digest].clone()
    };
    let listing = json!([{
        "Config": "c.json", "RepoTags": ["app:1", "app:2"], "Layers": ["a/layer.tar"],
    }]);
    let tar = Tar::new()
        .file("b/layer.tar", &blob(&manifest["layers"][0]))
        .symlink("a/layer.tar", "../b/layer.tar")
        .file("manifest.json", listing.to_string().as_bytes())
        .file("c.json", &blob(&manifest["config"]));
    let bed = Bed::new();
    let image = bed.file(&tar.clone().end(), "").unwrap();
    assert_eq!(image.name(), "docker.io/library/app:1");
    has(&image, "x");
    let second = bed.file(&gzip(&tar.end()), ":2").unwrap();
    assert_eq!(second.name(), "docker.io/library/app:2");
    assert_eq!(second.record().manifest, image.record().manifest);
}

#[test]
fn the_platform_is_chosen_or_refused() {
    let (amd, arm) = (image("amd"), image("arm"));
    let mut files = TestImage::layout(&[("", &amd), ("", &arm)]);
    let entry = |image: &TestImage, architecture: &str| {
        let mut descriptor = image.descriptor();
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        descriptor
    };
    let index =
        json!({ "schemaVersion": 2, "manifests": [entry(&arm, "arm64"), entry(&amd, "amd64")] });
    files.insert("index.json".into(), index.to_string().into_bytes());
    let bed = Bed::new();
    has(&bed.layout(&files, "").unwrap(), "amd");
    let wanted = Wanted {
        platform: "linux/s390x".parse().unwrap(),
        ..Wanted::default()
    };
    let error = bed
        .store
        .import(&bed.dir.join("layout"), &wanted, &Silent)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("linux/arm64, linux/amd64"), "{text}");
    // An image without an index says it in its configuration.
    let files = TestImage::layout(&[("x", &amd)]);
    write_files(&bed.dir.join("single"), &files);
    let error = bed
        .store
        .import(&bed.dir.join("single"), &wanted, &Silent)
        .unwrap_err();
    assert!(error.to_string().contains("linux/amd64"), "{error}");
}

#[test]
fn what_is_damaged_is_refused_and_not_kept() {
    let image = image("x");
    let whole = TestImage::layout(&[("x", &image)]);
    let manifest: serde_json::Value =
        serde_json::from_slice(&image.blobs[&image.manifest]).unwrap();
    let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let layer = path(manifest["layers"][0]["digest"].as_str().unwrap());
    let config = path(manifest["config"]["digest"].as_str().unwrap());
    let top = path(&image.manifest.to_string());
    let bed = Bed::new();
    for name in [&layer, &config, &top] {
        let mut files = whole.clone();
        files.get_mut(name).unwrap()[20] ^= 1;
        let error = bed.layout(&files, "").unwrap_err().to_string();
        assert!(error.contains("lies"), "{name}: {error}");
        bed.has_no_image();
        files.get_mut(name).unwrap().truncate(10);
        let error = bed.layout(&files, "").unwrap_err().to_string();
        assert!(error.contains("should have"), "{name}: {error}");
        bed.has_no_image();
        files.remove(name);
        let error = bed.layout(&files, "").unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("missing"),
            "{name}: {error}"
        );
        bed.has_no_image();
    }
    let plain = archive(&whole);
    for (bytes, word) in [
        (plain[..plain.len() / 2 + 100].to_vec(), "cannot be read"),
        (gzip(&plain)[..100].to_vec(), "cannot be read"),
        (b"no archive".to_vec(), "cannot be read"),
        (Tar::new().file("a", b"").end(), "holds no image"),
        (Tar::new().file("oci-layout", b"{").end(), "oci-layout"),
        (
            Tar::new().file("manifest.json", b"[]").end(),
            "there is none",
        ),
        (
            Tar::new().symlink("oci-layout", "oci-layout").end(),
            "holds no image",
        ),
    ] {
        let error = bed.file(&bytes, "").unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        bed.has_no_image();
    }
    let error = bed.import("nothing-there").unwrap_err().to_string();
    assert!(error.contains("nothing-there"), "{error}");
}

#[test]
fn a_layout_does_not_lead_out_of_its_directory() {
    let bed = Bed::new();
    let files = TestImage::layout(&[("x", &image("x"))]);
    fs::write(bed.dir.join("secret"), files["index.json"].clone()).unwrap();
    write_files(&bed.dir.join("evil"), &files);
    fs::remove_file(bed.dir.join("evil/index.json")).unwrap();
    std::os::unix::fs::symlink("../secret", bed.dir.join("evil/index.json")).unwrap();
    assert!(bed.import("evil").is_err());
    bed.has_no_image();
}

#[test]
fn an_archive_that_grows_without_end_is_refused() {
    let bed = Bed::new();
    fs::write(bed.dir.join("app.tar"), gzip(&vec![0; 3_000_000])).unwrap();
    let mut wanted = Wanted::default();
    wanted.limits.bytes = 1_000_000;
    let error = bed
        .store
        .import(&bed.dir.join("app.tar"), &wanted, &Silent)
        .unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("1000000"), "{source}");
}

#[test]
fn paths_and_names_are_told_apart() {
    for (text, path) in [
        ("./x", true),
        ("/x", true),
        ("../x:1", true),
        (".", true),
        ("x", false),
        ("x.tar", false),
        ("localhost/x:1", false),
    ] {
        let source: Source = text.parse().unwrap();
        assert_eq!(matches!(source, Source::Path(_)), path, "{text}");
    }
    let bed = Bed::new();
    let source = "app".parse().unwrap();
    let error = bed
        .store
        .acquire(&source, Pull::Never, &Wanted::default(), &Silent);
    assert!(matches!(error, Err(SourceError::Absent(_))));
}
