//! Images: what one says is to be run is run, as whom and where it says; and what a pod uses stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bench, Outcome, Run, podvmm};
use crate::rootfs::{self, TempDir};

/// A store, and an OCI layout of busybox.
pub struct Images {
    dir: TempDir,
}

impl Images {
    pub fn new(config: Value) -> Self {
        let dir = TempDir::new();
        let layout = dir.join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let root = rootfs::busybox();
        fs::create_dir(root.join("srv")).unwrap();
        fs::write(root.join("srv/seed"), "came with the image\n").unwrap();
        let layer = dir.join("layer");
        let tar = Command::new("tar")
            .args(["--owner=0", "--group=0", "-cf"])
            .arg(&layer)
            .arg("-C")
            .args([root.path(), Path::new(".")])
            .status()
            .unwrap();
        assert!(tar.success());
        let diff_id = sha256(&layer);
        let zipped = Command::new("gzip")
            .arg("-n1")
            .arg(&layer)
            .status()
            .unwrap();
        assert!(zipped.success());
        let layer = blob(&layout, &dir.join("layer.gz"), "layer.v1.tar+gzip");
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = document(&layout, &config, "config.v1+json");
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let manifest = document(&layout, &manifest, "manifest.v1+json");
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        fs::write(layout.join("oci-layout"), version.to_string()).unwrap();
        Self { dir }
    }

    /// `podvmm run` of the image with these options and arguments.
    fn run(&self, bench: &Bench, options: &[&str], args: &[&str]) -> Run {
        let mut run = bench.run(["--image"]);
        run.command
            .arg(self.dir.join("layout"))
            .arg("--store")
            .arg(self.dir.join("store"))
            .args(options)
            .arg("--")
            .args(args);
        run
    }

    /// The layout.
    pub fn layout(&self) -> PathBuf {
        self.dir.join("layout")
    }

    /// Sends the image to the registry at `address` as `name`, with the calls that any client makes.
    pub fn push(&self, address: &str, name: &str, tag: &str) {
        let index = fs::read(self.layout().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let manifest = &index["manifests"][0];
        let digest = manifest["digest"].as_str().unwrap();
        let base = format!("http://{address}/v2/{name}");
        for entry in fs::read_dir(self.layout().join("blobs/sha256")).unwrap() {
            let blob = entry.unwrap();
            let hash = blob.file_name().into_string().unwrap();
            if digest.ends_with(&hash) {
                continue;
            }
            let begun = curl(&["-i", "-X", "POST", &format!("{base}/blobs/uploads/")]);
            let place = begun.lines().find_map(|line| {
                let (header, value) = line.split_once(": ")?;
                header
                    .eq_ignore_ascii_case("location")
                    .then(|| value.trim().to_owned())
            });
            let place = place.unwrap_or_else(|| panic!("no place for a blob: {begun}"));
            let file = blob.path();
            let file = file.to_str().unwrap();
            curl(&["-T", file, &format!("{place}&digest=sha256:{hash}")]);
        }
        let file = self.layout().join("blobs").join(digest.replace(':', "/"));
        let kind = format!("Content-Type: {}", manifest["mediaType"].as_str().unwrap());
        let place = format!("{base}/manifests/{tag}");
        curl(&["-H", &kind, "-T", file.to_str().unwrap(), &place]);
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub fn verb(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(podvmm());
        command
            .arg("image")
            .args(args)
            .arg("--store")
            .arg(self.dir.join("store"));
        Run::new(command).outcome()
    }
}

/// What `curl` prints, which must be a success.
#[track_caller]
pub fn curl(args: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sSf", "--max-time", "60"])
        .args(args)
        .output()
        .expect("curl is there: apt-get install curl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {args:?}: {said}");
    String::from_utf8(output.stdout).expect("it is text")
}

fn sha256(path: &Path) -> String {
    let sum = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(sum.stdout).unwrap();
    format!("sha256:{}", text.split(' ').next().unwrap())
}

/// Moves a file among the blobs; what points to it.
fn blob(layout: &Path, file: &Path, kind: &str) -> Value {
    let digest = sha256(file);
    let size = fs::metadata(file).unwrap().len();
    let path: PathBuf = layout.join("blobs").join(digest.replace(':', "/"));
    fs::rename(file, path).unwrap();
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size,
    })
}

fn document(layout: &Path, value: &Value, kind: &str) -> Value {
    let file = layout.join("document");
    fs::write(&file, value.to_string()).unwrap();
    blob(layout, &file, kind)
}

#[test]
fn a_pod_runs_what_its_image_says() {
    let bench = Bench::new();
    let images = Images::new(json!({
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["id -un; id -gn; echo $GREETING; pwd; echo $HOME; cat seed"],
        "Env": ["PATH=/bin", "GREETING=hello"], "User": "user", "WorkingDir": "/srv",
    }));
    images
        .run(&bench, &[], &[])
        .outcome()
        .prints("user\nuser\nhello\n/srv\n/home\ncame with the image\n");
    // The image is there now, unpacked; and the command line has the last word.
    let options = [
        "--user",
        "0:1234",
        "--env",
        "GREETING=bye",
        "--workdir",
        "/tmp",
    ];
    let script = "id -u; id -g; echo $GREETING; pwd; echo new > /srv/seed; cat /srv/seed";
    images
        .run(&bench, &options, &[script])
        .outcome()
        .prints("0\n1234\nbye\n/tmp\nnew\n");
    // What a container changes is its own.
    images
        .run(&bench, &["--entrypoint", "cat"], &["seed"])
        .outcome()
        .prints("came with the image\n");
}

#[test]
fn an_image_in_use_is_not_removed() {
    let bench = Bench::new();
    let images = Images::new(json!({ "Env": ["PATH=/bin"] }));
    let mut pod = images
        .run(&bench, &[], &["sh", "-c", "echo ready; sleep 1000"])
        .start();
    pod.wait_for("ready");
    let listed = images.verb(&["ls", "--quiet"]).status(0).text();
    let name = listed.trim();
    assert!(name.starts_with("localhost/layout:"), "{listed}");
    images.verb(&["rm", name]).failed(125, &["in use", name]);
    let kept = images.verb(&["prune", "--all"]).status(0).text();
    assert!(kept.contains("a pod uses it"), "{kept}");
    pod.signal(rustix::process::Signal::TERM);
    pod.signal(rustix::process::Signal::TERM);
    pod.wait();
    images.verb(&["rm", name]).status(0);
    images.verb(&["ls", "--quiet"]).prints("");
}

#[test]
fn images_that_cannot_be_run() {
    let bench = Bench::new();
    let images = Images::new(json!({ "User": "nobody-here" }));
    images
        .run(&bench, &[], &[])
        .outcome()
        .failed(125, &["--image", "names no command"]);
    images
        .run(&bench, &[], &["true"])
        .outcome()
        .failed(125, &["nobody-here", "/etc/passwd"]);
    for (image, word) in [
        ("./nothing-there", "nothing-there"),
        ("Upper", "upper-case"),
        ("localhost:1/x", "nothing listens"),
    ] {
        let mut run = bench.run(["--image", image, "--store"]);
        run.command
            .arg(images.dir.join("store"))
            .args(["--", "true"]);
        run.outcome().failed(125, &["--image", word]);
    }
    let mut run = bench.run(["--image", "x", "--pull", "never", "--store"]);
    run.command
        .arg(images.dir.join("store"))
        .args(["--", "true"]);
    run.outcome().refused(&["--image", "not in the store"]);
}
