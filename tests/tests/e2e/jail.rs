//! The jail of a running pod's VMM process, looked at from outside through /proc, and what happens when
//! part of it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::blocks::Loop;
use crate::harness::{Bench, Run, Running, file};
use crate::rootfs::TempDir;

const IDLE: &str = "echo ready; exec sleep 1000";
/// CHOWN, DAC_OVERRIDE, FOWNER and FSETID.
const FOR_FILES: &str = "000000000000001b";
const NONE: &str = "0000000000000000";
/// `podvmm_sandbox::jail::FIRST_UID`.
const FIRST_UID: u32 = 2_000_000_000;
const USER: u32 = 54_321;

/// A process of the host.
pub struct Process(u32);

impl Process {
    /// The one child of `parent`, once it is called `name`.
    fn child_of(parent: u32, name: &str) -> Self {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let child = children.expect("the parent runs");
            if let Ok(pid) = child.trim().parse::<u32>() {
                let process = Self(pid);
                if process.read("comm").trim_end() == name {
                    return process;
                }
            }
            assert!(Instant::now() < until, "no {name} below {parent}: {child}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn warden_of(podvmm: &Running) -> Self {
        Self::child_of(podvmm.pid(), "podvmm-warden")
    }

    pub fn vmm_of(podvmm: &Running) -> Self {
        Self::child_of(Self::warden_of(podvmm).0, "podvmm-vmm")
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).expect("it runs");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.flatten().map(name).collect()
    }

    fn link(&self, name: &str) -> String {
        let target = fs::read_link(self.path(name)).expect("it runs");
        target.to_string_lossy().into_owned()
    }

    /// A field of `status`, of the process or of a thread.
    fn status(&self, of: &str, field: &str) -> String {
        let status = self.read(&format!("{of}status"));
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field}: {status}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn kill(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0 as i32).expect("it is a process");
        kill_process(pid, signal).expect("it runs");
    }

    fn is_gone(&self) -> bool {
        !self.path("").exists()
    }

    /// Each namespace that it shares with this process.
    fn shared_namespaces(&self) -> BTreeSet<&'static str> {
        const KINDS: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
        let is_shared = |kind: &&str| {
            let name = format!("ns/{kind}");
            self.link(&name) == Self(std::process::id()).link(&name)
        };
        KINDS.into_iter().filter(is_shared).collect()
    }

    /// Mounts by their number.
    fn mounts(&self) -> BTreeMap<String, String> {
        let info = self.read("mountinfo");
        let number = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        info.lines()
            .map(|line| (number(line), line.to_owned()))
            .collect()
    }
}

fn idle<'a>(bench: &Bench, options: impl IntoIterator<Item = &'a str>) -> Running {
    let mut running = bench.sh_with(options, IDLE).start();
    running.wait_for("ready\n");
    running
}

pub fn end(running: Running) {
    running.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    running.signal(Signal::TERM);
    assert_ne!(running.wait().code, Some(0));
}

#[test]
fn a_running_vmm_has_namespaces_a_root_and_a_user_of_its_own() {
    let bench = Bench::new();
    let volume = TempDir::new();
    let share = format!("{}:/v", volume.path().display());
    let running = idle(&bench, ["--jail", "full", "--volume", &share]);
    let vmm = Process::vmm_of(&running);
    assert_eq!(vmm.shared_namespaces(), BTreeSet::new());
    assert_eq!(vmm.status("", "NSpid"), format!("{} 1", vmm.0));
    let map: Vec<_> = vmm
        .read("uid_map")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(map, ["0", "0", "4294967295"]);
    // Nobody's user, who accesses files as root.
    let own = FIRST_UID + vmm.0;
    for field in ["Uid", "Gid"] {
        assert_eq!(vmm.status("", field), format!("{own} {own} {own} 0"));
    }
    assert_eq!(vmm.status("", "Groups"), "");

    assert_eq!(
        vmm.names("root"),
        ["sock"],
        "its root has the pod's socket and nothing else"
    );
    let mounts = vmm.mounts();
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    let root = mounts.values().next().expect("there is one");
    assert!(root.contains(" ro,nosuid,nodev,noexec"), "{root}");

    assert_eq!(vmm.read("environ"), "");
    let limits = vmm.read("limits");
    for limit in [
        "Max core file size        0                    0 ",
        "Max processes             256                  256 ",
    ] {
        assert!(limits.contains(limit), "{limits}");
    }
    end(running);
}

#[test]
fn every_thread_of_a_vmm_has_the_promised_rights_and_its_filters() {
    let bench = Bench::new();
    let running = idle(&bench, ["--cpus", "2"]);
    let vmm = Process::vmm_of(&running);
    let mut threads = BTreeMap::new();
    for thread in vmm.names("task") {
        let of = format!("task/{thread}/");
        for (field, value) in [
            ("CapInh", NONE),
            ("CapPrm", FOR_FILES),
            ("CapEff", FOR_FILES),
            ("CapBnd", NONE),
            ("CapAmb", NONE),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(vmm.status(&of, field), value, "{field} of {thread}");
        }
        threads.insert(vmm.status(&of, "Name"), vmm.status(&of, "Seccomp_filters"));
    }
    // The first has the union of all lists and hides clone3; each other one has its own list as well.
    let expected = [
        ("podvmm-vmm", "2"),
        ("control", "3"),
        ("vcpu0", "3"),
        ("vcpu1", "3"),
        ("virtio-vsock", "3"),
        ("virtio-fs-hp", "3"),
        ("virtio-fs-1", "3"),
        ("virtio-fs-2", "3"),
        ("virtio-rng", "3"),
        ("virtio-balloon", "3"),
    ];
    let expected = expected.map(|(name, filters)| (name.to_owned(), filters.to_owned()));
    assert_eq!(threads, BTreeMap::from(expected));
    end(running);
}

#[test]
fn a_vmm_holds_no_file_of_the_host_but_what_its_shares_have() {
    let bench = Bench::new();
    let running = idle(&bench, []);
    let vmm = Process::vmm_of(&running);
    let of_the_host = Process(std::process::id()).mounts();
    let mut shares = 0;
    for fd in vmm.names("fd") {
        // Closed since the list was made: a file that was being looked at.
        let Ok(target) = fs::read_link(vmm.path(&format!("fd/{fd}"))) else {
            continue;
        };
        let target = target.to_string_lossy();
        let known = ["socket:", "anon_inode:", "/dev/null", "/memfd:vmm-stderr"];
        if known.iter().any(|known| target.starts_with(known)) {
            continue;
        }
        // A mount that no mount table has: what is above it cannot be reached. Kernel and initramfs
        // would be of the host's, and so would /dev/kvm.
        let Ok(info) = fs::read_to_string(vmm.path(&format!("fdinfo/{fd}"))) else {
            continue;
        };
        let mount = info
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:"))
            .map(str::trim)
            .unwrap_or_else(|| panic!("{target}: {info}"));
        assert!(
            !of_the_host.contains_key(mount),
            "descriptor {fd} is {target}"
        );
        shares += 1;
    }
    assert!(shares > 1, "at least the root and /proc/self/fd are open");
    end(running);
}

/// Runs as another user, who may open /dev/kvm.
struct AnotherUser {
    runtime: TempDir,
    mode: u32,
}

const KVM: &str = "/dev/kvm";

impl AnotherUser {
    fn new() -> Self {
        let runtime = TempDir::new();
        chown(runtime.path(), Some(USER), Some(USER)).expect("the tests run as root");
        let mode = fs::metadata(KVM).expect("the bench has found it").mode();
        fs::set_permissions(KVM, fs::Permissions::from_mode(mode | 0o666)).expect("we are root");
        Self { runtime, mode }
    }

    fn runs(&self, mut run: Run) -> Run {
        run.command
            .uid(USER)
            .gid(USER)
            .env("XDG_RUNTIME_DIR", self.runtime.path());
        run
    }
}

impl Drop for AnotherUser {
    fn drop(&mut self) {
        let _ = fs::set_permissions(KVM, fs::Permissions::from_mode(self.mode));
    }
}

#[test]
fn case_13_a_disk_that_may_only_be_read_cannot_be_opened_anew_for_writing() {
    let bench = Bench::new();
    let dir = TempDir::new();
    let images = ["image", "device"].map(|name| file(dir.path(), name, &[1; 4096]));
    let device = Loop::on(&images[1]);
    let options = [(&images[0], "a"), (&device.0, "b")]
        .map(|(path, name)| format!("--device={}:/dev/{name}:r", path.display()));
    let running = idle(&bench, options.iter().map(String::as_str));
    let vmm = Process::vmm_of(&running);
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.ino(), file.rdev()));
    let (image, _) = identity(&images[0]).expect("it is there");
    let (_, number) = identity(&device.0).expect("it is there");
    let mut found = BTreeSet::new();
    for fd in vmm.names("fd") {
        let path = vmm.path("fd").join(fd);
        let kind = match identity(&path) {
            Ok((ino, 0)) if ino == image => "image",
            Ok((_, rdev)) if rdev == number => "device",
            _ => continue,
        };
        found.insert(kind);
        let opened = fs::OpenOptions::new().write(true).open(&path);
        let refused = [ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied];
        let error = opened.expect_err(kind).kind();
        assert!(refused.contains(&error), "{kind}: {error}");
    }
    assert_eq!(found, BTreeSet::from(["device", "image"]));
    end(running);
}

#[test]
fn as_another_user_a_vmm_has_no_rights_but_that_users() {
    let bench = Bench::new();
    let user = AnotherUser::new();
    let volume = TempDir::new();
    chown(volume.path(), Some(USER), Some(USER)).unwrap();
    fs::write(volume.join("of-root"), "").unwrap();
    let share = format!("{}:/v", volume.path().display());
    let script = "echo new >/v/new && chown 1:1 /v/new; stat -c '%n %u %g' /v/*; echo ready; exec sleep 1000";
    let run = bench.sh_with(["--jail", "full", "--volume", &share], script);
    let mut running = user.runs(run).start();
    running.wait_for("ready\n");
    let vmm = Process::vmm_of(&running);
    assert_eq!(vmm.shared_namespaces(), BTreeSet::new());
    for (map, own) in [("uid_map", USER), ("gid_map", USER)] {
        let fields: Vec<_> = vmm
            .read(map)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(
            fields,
            [own.to_string(), own.to_string(), "1".into()],
            "{map}"
        );
    }
    for thread in vmm.names("task") {
        for field in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(
                vmm.status(&format!("task/{thread}/"), field),
                NONE,
                "{field}"
            );
        }
    }
    assert_eq!(vmm.names("root"), ["sock"]);
    running.signal(Signal::KILL);
    let outcome = running.wait();
    // Its own files stay its own, and those that it cannot see the owner of look like root's.
    let owners = format!("/v/new {USER} {USER}\n/v/of-root 0 0\n");
    assert!(outcome.text().contains(&owners), "{outcome:?}");
    assert_eq!(fs::metadata(volume.join("new")).unwrap().uid(), USER);
}

#[test]
fn another_user_gives_disks_of_its_own_images_and_of_no_others() {
    let bench = Bench::new();
    let user = AnotherUser::new();
    let dir = TempDir::new();
    let image = file(dir.path(), "image", &[b'x'; 4096]);
    chown(&image, Some(USER), Some(USER)).unwrap();
    let of_root = file(dir.path(), "of-root", &[b'x'; 4096]);
    fs::set_permissions(&of_root, fs::Permissions::from_mode(0o600)).unwrap();
    let device = |path: &Path, rest: &str| format!("--device={}:/dev/{rest}", path.display());
    let script = "printf new | dd of=/dev/a conv=notrunc,fsync 2>/dev/null; head -c 4 /dev/b";
    let options = [
        device(&image, "a"),
        device(&image, "b:r"),
        "--jail=full".into(),
    ];
    let run = bench.sh_with(options, script);
    user.runs(run).outcome().prints("newx");
    assert_eq!(&fs::read(&image).unwrap()[..4], b"newx");
    let run = bench.sh_with([device(&of_root, "a:r")], "true");
    let words = ["--device", "of-root", "permission denied"];
    user.runs(run).outcome().refused(&words);
}

#[test]
fn a_refused_system_call_ends_the_pod_and_is_named() {
    let bench = Bench::new();
    let running = idle(&bench, []);
    // What the kernel does when a filter refuses a call; no other thread is in none.
    Process::vmm_of(&running).kill(Signal::SYS);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(125), "{outcome:?}");
    for words in ["podvmm-vmm: thread ", "system call ", " is not allowed"] {
        assert!(outcome.stderr.contains(words), "{outcome:?}");
    }
}

#[test]
fn warden_and_vmm_end_together_and_leave_nothing() {
    let bench = Bench::new();
    let running = idle(&bench, []);
    let (warden, vmm) = (Process::warden_of(&running), Process::vmm_of(&running));
    vmm.kill(Signal::KILL);
    let outcome = running.wait();
    assert!(
        outcome.stderr.contains("signal 9 ended the VMM"),
        "{outcome:?}"
    );
    assert!(warden.is_gone());

    let running = idle(&bench, []);
    let (warden, vmm) = (Process::warden_of(&running), Process::vmm_of(&running));
    warden.kill(Signal::KILL);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(125), "{outcome:?}");
    let until = Instant::now() + Duration::from_secs(1);
    while !vmm.is_gone() {
        assert!(Instant::now() < until, "the VMM outlives its warden");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Takes user namespaces away from everybody for as long as it lives.
struct NoUserNamespaces(String);

const MAX_USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

impl NoUserNamespaces {
    fn new() -> Self {
        let before = fs::read_to_string(MAX_USER_NAMESPACES).unwrap();
        fs::write(MAX_USER_NAMESPACES, "0").unwrap();
        Self(before)
    }
}

impl Drop for NoUserNamespaces {
    fn drop(&mut self) {
        let _ = fs::write(MAX_USER_NAMESPACES, &self.0);
    }
}

#[test]
fn what_is_missing_is_said_and_refused_if_all_is_asked_for() {
    if std::env::var_os("LAB").is_none() {
        println!(
            "skipped: takes user namespaces away from the whole machine, which only the lab allows"
        );
        return;
    }
    let bench = Bench::new();
    let user = AnotherUser::new();
    let _none = NoUserNamespaces::new();
    // Root still makes the other namespaces, with real capabilities.
    let outcome = bench.sh("echo fine").outcome().prints("fine\n");
    assert!(outcome.stderr.contains("no user namespace"), "{outcome:?}");
    assert!(!outcome.stderr.contains("beside and above"), "{outcome:?}");
    let outcome = user.runs(bench.sh("echo fine")).outcome().prints("fine\n");
    for gap in ["no user namespace", "beside and above a share"] {
        assert!(outcome.stderr.contains(gap), "{outcome:?}");
    }
    bench
        .sh_with(["--jail", "full"], "true")
        .outcome()
        .failed(125, &["--jail full", "no user namespace"]);
    let run = bench.sh_with(["--jail", "full"], "true");
    user.runs(run).outcome().failed(125, &["--jail full"]);
}

#[test]
fn without_jail_and_filter_the_vmm_is_like_any_process() {
    let bench = Bench::new();
    let running = idle(&bench, ["--jail", "off", "--seccomp", "off"]);
    let vmm = Process::vmm_of(&running);
    assert_eq!(vmm.shared_namespaces().len(), 7);
    assert_eq!(vmm.status("", "Seccomp"), "0");
    end(running);
}

#[test]
fn a_filter_that_only_logs_lets_everything_pass() {
    let bench = Bench::new();
    let running = idle(&bench, ["--seccomp", "log"]);
    let vmm = Process::vmm_of(&running);
    assert_eq!(vmm.status("", "Seccomp"), "2");
    end(running);
}

#[test]
fn the_vmm_is_started_in_the_cgroup_that_is_named() {
    let root = Path::new("/sys/fs/cgroup");
    if !root.join("cgroup.controllers").exists() {
        println!("skipped: no cgroup v2 at {}", root.display());
        return;
    }
    let name = format!("e2e-podvmm-{}", std::process::id());
    let cgroup = root.join(&name);
    fs::create_dir(&cgroup).unwrap();
    let bench = Bench::new();
    let running = idle(&bench, ["--cgroup", cgroup.to_str().unwrap()]);
    let (warden, vmm) = (Process::warden_of(&running), Process::vmm_of(&running));
    let is_in = |process: &Process| {
        process
            .read("cgroup")
            .lines()
            .any(|line| line == format!("0::/{name}"))
    };
    assert!(
        is_in(&vmm) && !is_in(&warden),
        "the warden cleans up whatever happens in there"
    );
    end(running);
    let removed = fs::remove_dir(&cgroup);
    let missing = root.join("no-such-group");
    bench
        .sh_with(["--cgroup", missing.to_str().unwrap()], "true")
        .outcome()
        .failed(125, &["no-such-group"]);
    removed.unwrap();
}
