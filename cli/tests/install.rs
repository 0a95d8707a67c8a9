//! `podvmm install` and `podvmm uninstall`, as programs, on systems that are directories.
//!
//! Those have no containerd; with one, and with pods, the commands are tested end to end.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

const VMM: &str = "usr/local/bin/podvmm-vmm";
const KERNEL: &str = "usr/local/lib/podvmm/vmlinux";
const RECORD: &str = "usr/local/lib/podvmm/installed.json";
const CONFIG: &str = "etc/containerd/config.toml";

/// What was unpacked somewhere, and a system that it is installed into.
struct Bench {
    dir: PathBuf,
}

impl Bench {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-install-program-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        for below in ["from/bin", "from/lib/podvmm", "system/etc/containerd"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_podvmm"), dir.join("from/bin/podvmm")).unwrap();
        for file in [
            "bin/podvmm-vmm",
            "bin/containerd-shim-podvmm-v2",
            "lib/podvmm/vmlinux",
            "lib/podvmm/initramfs",
        ] {
            fs::write(dir.join("from").join(file), format!("this is {file}")).unwrap();
        }
        Self { dir }
    }

    fn system(&self, path: &str) -> PathBuf {
        self.dir.join("system").join(path)
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(self.dir.join("from/bin/podvmm"));
        command
            .args(words)
            .arg("--root")
            .arg(self.dir.join("system"));
        for name in ["PODVMM_GUEST_DIR", "PODVMM_VMM"] {
            command.env_remove(name);
        }
        // A process that another test starts while a program is copied has that one open for writing until
        // it executes its own.
        let output = loop {
            match command.output() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now();
                }
                output => break output.unwrap(),
            }
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let status = output.status.code().unwrap();
        (status, text(output.stdout), text(output.stderr))
    }

    /// Whatever machine the test is run on: the host checks are not what is tested here.
    #[track_caller]
    fn install(&self, more: &[&str]) -> Value {
        self.json(&[&["install", "--force", "--json"], more].concat())
    }

    #[track_caller]
    fn uninstall(&self) -> Value {
        self.json(&["uninstall", "--json"])
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let (status, stdout, stderr) = self.run(words);
        assert_eq!(status, 0, "{stdout}{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Everything that is in the system.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, u64)> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.system("")];
        while let Some(path) = open.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            if meta.is_dir() {
                open.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
            let mut hash = DefaultHasher::new();
            hash.write(&bytes);
            found.insert(path, (meta.mode(), hash.finish()));
        }
        found
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What became of a file.
#[track_caller]
fn action<'v>(outcome: &'v Value, path: &str) -> &'v str {
    let files = outcome["files"].as_array().unwrap();
    let path = format!("/{path}");
    let file = files.iter().find(|file| file["path"] == path.as_str());
    file.unwrap_or_else(|| panic!("no {path} in {outcome}"))["action"]
        .as_str()
        .unwrap()
}

#[test]
fn what_was_installed_is_what_is_taken_out() {
    let bench = Bench::new();
    let config =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\" # mine\n";
    fs::write(bench.system(CONFIG), config).unwrap();
    let before = bench.tree();

    let outcome = bench.install(&[]);
    assert_eq!(outcome["restart"], "needed");
    assert_eq!(action(&outcome, VMM), "new");
    assert_eq!(action(&outcome, CONFIG), "changed");
    assert_eq!(
        fs::read_to_string(bench.system(VMM)).unwrap(),
        "this is bin/podvmm-vmm"
    );
    let mode = |path| fs::metadata(bench.system(path)).unwrap().mode() & 0o777;
    assert_eq!((mode(VMM), mode(KERNEL)), (0o755, 0o644));
    let changed = fs::read_to_string(bench.system(CONFIG)).unwrap();
    assert!(
        changed.starts_with(config) && changed.contains("runtimes.podvmm"),
        "{changed}"
    );

    let installed = bench.tree();
    let again = bench.install(&[]);
    assert_eq!(again["restart"], "not-needed");
    assert_eq!(action(&again, VMM), "same");
    assert_eq!(bench.tree(), installed);

    let outcome = bench.uninstall();
    assert_eq!(outcome["restart"], "needed");
    assert_eq!(action(&outcome, VMM), "removed");
    assert_eq!(bench.tree(), before);
    let nothing = bench.uninstall();
    assert!(
        nothing["notes"][0]
            .as_str()
            .unwrap()
            .contains("nothing was installed")
    );
}

#[test]
fn a_system_without_a_configuration_has_none_afterwards() {
    let bench = Bench::new();
    fs::remove_dir(bench.system("etc/containerd")).unwrap();
    let before = bench.tree();
    bench.install(&["--prefix", "/opt/podvmm"]);
    let config = fs::read_to_string(bench.system(CONFIG)).unwrap();
    let path = "runtime_path = \"/opt/podvmm/bin/containerd-shim-podvmm-v2\"";
    assert!(config.contains(path), "{config}");
    bench.json(&["uninstall", "--json", "--prefix", "/opt/podvmm"]);
    assert_eq!(bench.tree(), before);
}

#[test]
fn a_dry_run_does_nothing() {
    let bench = Bench::new();
    let before = bench.tree();
    let outcome = bench.install(&["--dry-run"]);
    assert_eq!(action(&outcome, VMM), "new");
    assert_eq!(bench.tree(), before);
    bench.install(&[]);
    let installed = bench.tree();
    let outcome = bench.json(&["uninstall", "--json", "--dry-run"]);
    assert_eq!(action(&outcome, VMM), "removed");
    assert_eq!(bench.tree(), installed);
}

#[test]
fn an_upgrade_replaces_what_has_changed() {
    let bench = Bench::new();
    let before = bench.tree();
    bench.install(&[]);
    fs::write(bench.dir.join("from/bin/podvmm-vmm"), "the next one").unwrap();
    let outcome = bench.install(&[]);
    assert_eq!(action(&outcome, VMM), "changed");
    assert_eq!(action(&outcome, KERNEL), "same");
    assert_eq!(outcome["restart"], "not-needed");
    assert_eq!(
        fs::read_to_string(bench.system(VMM)).unwrap(),
        "the next one"
    );
    bench.uninstall();
    assert_eq!(bench.tree(), before);
}

#[test]
fn what_others_have_put_there_stays() {
    let bench = Bench::new();
    fs::create_dir_all(bench.system("usr/local/bin")).unwrap();
    fs::write(bench.system(VMM), "somebody's").unwrap();
    let before = bench.tree();
    let (status, _, stderr) = bench.run(&["install", "--force"]);
    assert_eq!(status, 2);
    assert!(
        stderr.contains("/usr/local/bin/podvmm-vmm") && stderr.contains("move it away"),
        "{stderr}"
    );
    assert_eq!(bench.tree(), before);

    fs::remove_file(bench.system(VMM)).unwrap();
    bench.install(&[]);
    fs::write(bench.system(KERNEL), "a kernel of my own").unwrap();
    fs::write(bench.system("usr/local/lib/podvmm/notes"), "mine").unwrap();
    let (status, _, stderr) = bench.run(&["install", "--force"]);
    assert_eq!(status, 2);
    assert!(stderr.contains("vmlinux"), "{stderr}");
    let outcome = bench.uninstall();
    assert_eq!(action(&outcome, KERNEL), "left");
    assert_eq!(action(&outcome, VMM), "removed");
    assert_eq!(
        fs::read_to_string(bench.system(KERNEL)).unwrap(),
        "a kernel of my own"
    );
    assert!(bench.system("usr/local/lib/podvmm/notes").exists());
    assert!(!bench.system(RECORD).exists());
}

/// Killed at any point, it can be finished or taken out.
#[test]
fn half_an_installation_is_none_or_a_whole_one() {
    let bench = Bench::new();
    fs::write(bench.system(CONFIG), "version = 2\n").unwrap();
    let before = bench.tree();
    bench.install(&[]);
    let whole = bench.tree();
    // The record is put in place first; whatever comes after it may not have come.
    let rest = |path: &&PathBuf| !path.ends_with(RECORD) && !before.contains_key(*path);
    let files: Vec<_> = whole
        .keys()
        .filter(|path| path.is_file())
        .filter(rest)
        .cloned()
        .collect();
    assert_eq!(files.len(), 6, "{files:?}");
    for file in &files {
        fs::remove_file(file).unwrap();
        fs::write(bench.system(CONFIG), "version = 2\n").unwrap();
        bench.install(&[]);
        assert_eq!(bench.tree(), whole, "without {}", file.display());
    }
    for file in &files {
        fs::remove_file(file).unwrap();
    }
    fs::write(bench.system(CONFIG), "version = 2\n").unwrap();
    bench.uninstall();
    assert_eq!(bench.tree(), before);
}

/// What was killed while it replaced files has left some of either.
#[test]
fn half_an_upgrade_can_be_finished() {
    let bench = Bench::new();
    bench.install(&[]);
    let old = fs::read(bench.system(VMM)).unwrap();
    fs::write(bench.dir.join("from/bin/podvmm-vmm"), "the next one").unwrap();
    bench.install(&[]);
    fs::write(bench.system(VMM), old).unwrap();
    let outcome = bench.install(&[]);
    assert_eq!(action(&outcome, VMM), "changed");
}

#[test]
fn links_of_the_system_stay_in_it() {
    let bench = Bench::new();
    fs::create_dir_all(bench.system("usr/share/local")).unwrap();
    symlink("/usr/share/local", bench.system("usr/local")).unwrap();
    bench.install(&[]);
    assert!(bench.system("usr/share/local/bin/podvmm-vmm").is_file());
}

#[test]
fn nothing_is_installed_where_something_is_missing_or_wrong() {
    let bench = Bench::new();
    fs::write(bench.system(CONFIG), "version = ").unwrap();
    let before = bench.tree();
    let refused = |words: &[&str], message: &[&str]| {
        let (status, stdout, stderr) = bench.run(words);
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        for word in message {
            assert!(stderr.contains(word), "no {word:?} in {stderr}");
        }
        assert_eq!(bench.tree(), before);
    };
    refused(&["install", "--force"], &[CONFIG, "TOML"]);
    refused(&["install", "--prefix", "here"], &["--prefix", "absolute"]);
    refused(&["install", "--prefix", "/a/../b"], &["--prefix"]);
    refused(&["uninstall", "--no-such-option"], &["--no-such-option"]);
    for (file, word) in [
        ("bin/containerd-shim-podvmm-v2", "containerd-shim-podvmm-v2"),
        ("lib/podvmm/initramfs", "initramfs"),
    ] {
        let (there, away) = (bench.dir.join("from").join(file), bench.dir.join("away"));
        fs::rename(&there, &away).unwrap();
        fs::write(bench.system(CONFIG), "version = 2\n").unwrap();
        let (status, _, stderr) = bench.run(&["install", "--force"]);
        assert_eq!(status, 2);
        assert!(stderr.contains(word), "{stderr}");
        assert!(!bench.system("usr").exists());
        fs::rename(away, there).unwrap();
    }
}

#[test]
fn people_are_told_what_to_do_next() {
    let bench = Bench::new();
    let (status, stdout, stderr) = bench.run(&["install", "--force"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stdout.contains("new      /usr/local/bin/podvmm\n"),
        "{stdout}"
    );
    assert!(
        stdout.trim_end().ends_with("systemctl restart containerd"),
        "{stdout}"
    );
    let (status, _, stderr) = bench.run(&["uninstall", "--restart-containerd"]);
    assert_eq!(status, 2);
    assert!(
        stderr.contains("no systemd") && stderr.contains("everything else is done"),
        "{stderr}"
    );
}
