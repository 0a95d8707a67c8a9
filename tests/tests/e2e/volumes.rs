//! Volumes of manifests, the files that a node makes for a pod, and what containers of a pod share.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Bench, file, slowness};
use crate::manifests::{IMAGE, images, run};
use crate::pods::{Pod, podvmm_does};
use crate::rootfs::TempDir;

/// What `inspect` tells of a container.
fn container(pod: &Pod, name: &str) -> Value {
    let record = pod.record();
    let all = record["record"]["containers"].as_array();
    let mut all = all.expect("they are recorded").iter();
    all.find(|container| container["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {record:#}"))
        .clone()
}

/// Waits until a container's log holds this, and gives all of it.
fn wait_for_log(container: &str, text: &str) -> String {
    let until = Instant::now() + Duration::from_secs(15) * slowness();
    loop {
        let log = podvmm_does(&["logs", container]).text();
        if log.contains(text) {
            return log;
        }
        assert!(Instant::now() < until, "no {text:?} in the log: {log}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The directories of emptyDirs below `data`.
fn kept(data: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn who_runs_out_of_memory_is_started_again_in_a_pod_that_shares() {
    let bench = Bench::new();
    let images = images();
    let dir = TempDir::new();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-oom}}
spec:
  runtimeClassName: podvmm
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  initContainers:
  - {{name: first, image: '{IMAGE}', command: [sh, -c, 'echo made by init > /s/page'], volumeMounts: [{{name: s, mountPath: /s}}]}}
  containers:
  - name: web
    image: '{IMAGE}'
    command: [httpd, -f, -p, '127.0.0.1:8080', -h, /www]
    volumeMounts: [{{name: s, mountPath: /www, readOnly: true}}]
  - name: hungry
    image: '{IMAGE}'
    command: [sh, -c, '[ -e /s/again ] || {{ touch /s/again; exec dd if=/dev/zero of=/dev/null bs=200M; }}; while ! wget -qO- http://127.0.0.1:8080/page; do sleep 1; done; exec sleep 1000']
    resources: {{limits: {{memory: 64Mi}}}}
    volumeMounts: [{{name: s, mountPath: /s}}]
  volumes:
  - {{name: s, emptyDir: {{}}}}
"
    );
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let data = dir.join("data");
    let pod = Pod("e2e-oom".to_owned());
    run(&bench, &images, &path, &["--data", data.to_str().unwrap()]).prints("e2e-oom\n");
    wait_for_log("e2e-oom/hungry", "made by init\n");
    let hungry = container(&pod, "hungry");
    assert_eq!(hungry["phase"], "running", "{hungry:#}");
    assert_eq!(hungry["restarts"], 1);
    assert_eq!(hungry["oom_kills"], 1);
    assert_eq!(hungry["exit"]["oom_killed"], true);
    assert_eq!(hungry["exit"]["code"], 137);
    let web = container(&pod, "web");
    assert_eq!(
        (&web["restarts"], &web["phase"]),
        (&0.into(), &"running".into())
    );

    let listed = podvmm_does(&["ps"]).status(0).text();
    let line = listed.lines().nth(1).unwrap_or_default();
    assert!(line.contains("(OOMKilled: hungry)"), "{listed}");
    let cells: Vec<_> = line
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    assert_eq!(cells[2..4], ["2/2", "1"], "{listed}");
    let stats = podvmm_does(&["stats", "--no-stream", "e2e-oom"])
        .status(0)
        .text();
    let line = stats
        .lines()
        .find(|line| line.contains("hungry"))
        .unwrap_or_default();
    let cells: Vec<_> = line.split_whitespace().collect();
    assert!(
        line.contains("/ 64.0MiB") || line.contains("/ 64MiB"),
        "{stats}"
    );
    // Restarts, and kills among them.
    assert_eq!(cells[cells.len() - 2..], ["1", "1"], "{stats}");

    // However the pod has died, nothing of it stays on disk.
    let [own] = &kept(&data)[..] else {
        panic!("{:?}", kept(&data));
    };
    assert!(own.join("volume-s/again").exists());
    let monitor = pod.record()["record"]["monitor"]["pid"].as_i64().unwrap();
    let monitor = Pid::from_raw(i32::try_from(monitor).unwrap()).unwrap();
    kill_process(monitor, Signal::KILL).unwrap();
    pod.wait_for_status("dead");
    assert!(own.join("volume-s/again").exists());
    podvmm_does(&["rm", "e2e-oom"]).prints("e2e-oom\n");
    assert_eq!(kept(&data), [""; 0].map(std::path::PathBuf::from));
}

const LOOKS: &str = r#"
cd /; stat -c "%a %u:%g %n" conf/a.conf sec/key sec/deep/er all/labels disk sub mem etc/hosts
cat conf/a.conf sec/key sec/deep/er all/labels all/mem app.conf; echo
echo x 2>/dev/null > conf/a.conf || echo conf refused
echo x 2>/dev/null > app.conf || echo app.conf refused
touch disk/mine mem/mine sub/mine && stat -c "%u:%g %n" disk/mine mem/mine sub/mine
find disk | sort
dd if=/dev/zero of=mem/big bs=64k 2>/dev/null || echo mem full
stat -c %s mem/big
cat etc/hosts etc/hostname etc/resolv.conf; hostname
echo last words > dev/termination-log
exit 3
"#;

const SEEN: &str = "\
644 0:77 conf/a.conf
440 0:77 sec/key
440 0:77 sec/deep/er
644 0:77 all/labels
2777 0:77 disk
2777 0:77 sub
2777 0:77 mem
644 0:0 etc/hosts
from the map
from a filefrom a fileapp=\"web\"67108864from the map

conf refused
app.conf refused
1234:77 disk/mine
1234:77 mem/mine
1234:77 sub/mine
disk
disk/a
disk/a/b
disk/a/b/mine
disk/mine
mem full
1048576
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
10.1.2.3\talias.example\tother
127.0.0.1\tnamed.sub.default.svc.cluster.local\tnamed
named
search example.org
nameserver 192.0.2.53
named
";

#[test]
fn volumes_and_files_are_as_a_kubelet_makes_them() {
    let bench = Bench::new();
    let images = images();
    let dir = TempDir::new();
    let script = LOOKS.replace('\n', "\n      ");
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-files, labels: {{app: web}}}}
spec:
  runtimeClassName: podvmm
  restartPolicy: Never
  hostname: named
  subdomain: sub
  dnsPolicy: None
  dnsConfig: {{nameservers: [192.0.2.53], searches: [example.org]}}
  hostAliases: [{{ip: 10.1.2.3, hostnames: [alias.example, other]}}]
  securityContext: {{runAsUser: 1234, fsGroup: 77}}
  containers:
  - name: main
    image: '{IMAGE}'
    command:
    - sh
    - -c
    - |
      {script}
    resources: {{limits: {{memory: 64Mi}}}}
    volumeMounts:
    - {{name: conf, mountPath: /conf}}
    - {{name: conf, mountPath: /app.conf, subPath: a.conf}}
    - {{name: sec, mountPath: /sec}}
    - {{name: all, mountPath: /all}}
    - {{name: disk, mountPath: /disk}}
    - {{name: disk, mountPath: /sub, subPath: a/b}}
    - {{name: mem, mountPath: /mem}}
  - name: broken
    image: '{IMAGE}'
    command: [sh, -c, 'echo it is broken; exit 1']
    terminationMessagePolicy: FallbackToLogsOnError
  volumes:
  - {{name: conf, configMap: {{name: m}}}}
  - {{name: sec, secret: {{secretName: s, defaultMode: 0400, items: [{{key: k, path: key}}, {{key: k, path: deep/er}}]}}}}
  - name: all
    projected:
      sources:
      - downwardAPI:
          items:
          - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}
          - {{path: mem, resourceFieldRef: {{containerName: main, resource: limits.memory}}}}
  - {{name: disk, emptyDir: {{}}}}
  - {{name: mem, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: m}}
data: {{a.conf: \"from the map\\n\"}}
"
    );
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let secret = file(dir.path(), "k", b"from a file");
    let data = dir.join("data");
    let pod = Pod("e2e-files".to_owned());
    let given = format!("s={}", secret.display());
    let options = ["--secret", &given, "--data", data.to_str().unwrap()];
    run(&bench, &images, &path, &options).prints("e2e-files\n");
    pod.wait_for_status("stopped");
    let seen = podvmm_does(&["logs", "e2e-files/main"]).status(0);
    assert_eq!(seen.text(), SEEN, "{}", seen.stderr);
    let main = container(&pod, "main");
    assert_eq!(main["exit"]["code"], 3);
    assert_eq!(main["message"], "last words\n");
    assert_eq!(container(&pod, "broken")["message"], "it is broken\n");
    // What a secret holds is shown to nobody.
    let shown = podvmm_does(&["inspect", "e2e-files"]).status(0).text();
    assert!(
        !shown.contains("from a file") && !shown.contains("66726f6d"),
        "{shown}"
    );

    let [own] = &kept(&data)[..] else {
        panic!("{:?}", kept(&data));
    };
    assert!(own.join("volume-disk/mine").exists());
    podvmm_does(&["rm", "e2e-files"]).prints("e2e-files\n");
    assert!(kept(&data).is_empty());
}

#[test]
fn a_pod_is_evicted_whose_volume_on_disk_becomes_too_large() {
    let bench = Bench::new();
    let images = images();
    let dir = TempDir::new();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-large}}
spec:
  runtimeClassName: podvmm
  terminationGracePeriodSeconds: 600
  containers:
  - name: main
    image: '{IMAGE}'
    command: [sh, -c, 'truncate -s 1G /within/sparse; dd if=/dev/zero of=/x/a bs=64k count=32; ln /x/a /x/b; exec sleep 1000']
    volumeMounts: [{{name: within, mountPath: /within}}, {{name: x, mountPath: /x}}]
  volumes:
  - {{name: within, emptyDir: {{sizeLimit: 1Mi}}}}
  - {{name: x, emptyDir: {{sizeLimit: 1Mi}}}}
"
    );
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let data = dir.join("data");
    let pod = Pod("e2e-large".to_owned());
    let options = ["--data", data.to_str().unwrap()];
    run(&bench, &images, &path, &options).prints("e2e-large\n");
    // It is looked every 10 s, and the containers are asked to end and may have 1 s, whatever the manifest says.
    let until = Instant::now() + Duration::from_secs(30) * slowness();
    while pod.status() != "stopped" {
        assert!(Instant::now() < until, "{:#}", pod.record());
        std::thread::sleep(Duration::from_millis(200));
    }
    let reason = "Evicted: Usage of EmptyDir volume \"x\" exceeds the limit \"1Mi\".";
    assert_eq!(pod.record()["reason"], reason);
    assert_eq!(container(&pod, "main")["exit"]["code"], 143);
    let listed = podvmm_does(&["ps", "-a"]).status(0).text();
    assert!(
        listed.contains("Failed") && listed.contains("Evicted: Usage of EmptyDir volume"),
        "{listed}"
    );
    podvmm_does(&["rm", "e2e-large"]).prints("e2e-large\n");
    assert!(kept(&data).is_empty());
}

#[test]
fn containers_see_each_others_processes_if_they_are_to() {
    let bench = Bench::new();
    let images = images();
    let dir = TempDir::new();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-pids}}
spec:
  runtimeClassName: podvmm
  shareProcessNamespace: true
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  initContainers:
  - {{name: first, image: '{IMAGE}', command: [cat, /proc/1/comm]}}
  containers:
  - {{name: one, image: '{IMAGE}', command: [sh, -c, 'sleep 4321 & sleep 1234']}}
  - {{name: two, image: '{IMAGE}', command: [sh, -c, 'cat /proc/1/comm; until killall sleep; do sleep 0; done; exec sleep 999']}}
"
    );
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let pod = Pod("e2e-pids".to_owned());
    run(&bench, &images, &path, &[]).prints("e2e-pids\n");
    // One kills what the other waits for: that one has failed, and is started again.
    let until = Instant::now() + Duration::from_secs(20) * slowness();
    while container(&pod, "one")["restarts"] == 0 {
        assert!(Instant::now() < until, "{:#}", pod.record());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(container(&pod, "one")["exit"]["code"], 143);
    podvmm_does(&["logs", "e2e-pids/first"]).prints("pause\n");
    let log = wait_for_log("e2e-pids/two", "pause\n");
    assert!(log.starts_with("pause\n"), "{log}");
    let seen = podvmm_does(&["exec", "e2e-pids/two", "--", "ps", "-o", "args"]).text();
    assert!(
        seen.contains("sleep 4321") && seen.contains("sleep 999"),
        "{seen}"
    );
}
