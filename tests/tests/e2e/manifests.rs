//! Kubernetes manifests: `run -f`, and what is done with their pods afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Bench, Outcome, file, slowness};
use crate::images::Images;
use crate::pods::{Pod, podvmm_does};
use crate::rootfs::TempDir;

/// As a user of AKS would bring them.
const UNTRUSTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cri/pods/untrusted.yaml");
const TRUSTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cri/pods/trusted.yaml");
pub const IMAGE: &str = "mcr.azk8s.cn/aks/fundamental/base-ubuntu:v0.0.11";

pub fn images() -> Images {
    let images = Images::new(json!({ "Env": ["PATH=/bin"] }));
    let layout = images.layout();
    let layout = layout.to_str().expect("it is text");
    images
        .verb(&["import", "--quiet", "--name", IMAGE, layout])
        .status(0);
    images
}

pub fn run(bench: &Bench, images: &Images, manifest: &Path, options: &[&str]) -> Outcome {
    let mut run = bench.run(["-f"]);
    run.command
        .arg(manifest)
        .arg("--store")
        .arg(images.store())
        .args(options);
    run.outcome()
}

#[test]
fn the_untrusted_pod_runs_as_it_was_written() {
    let bench = Bench::new();
    let images = images();
    let pod = Pod("untrusted".to_owned());
    run(&bench, &images, UNTRUSTED.as_ref(), &["--max-mem", "1G"]).refused(&[
        "--max-mem 1024M",
        "2048M",
        "manifest",
    ]);
    run(&bench, &images, UNTRUSTED.as_ref(), &["--max-cpus", "2"]).prints("untrusted\n");
    pod.wait_for_log(".\n");
    podvmm_does(&["update", "--cpus", "2", "untrusted"]).prints("untrusted\n");
    podvmm_does(&["exec", "untrusted", "--", "nproc"]).prints("2\n");
    let inside = podvmm_does(&["exec", "untrusted", "--", "uname", "-r"]).text();
    assert!(inside.ends_with("-podvmm\n"), "{inside}");
    assert_eq!(pod.record()["plan"]["memory"], 2_u64 << 30);
    // An image in use stays, whoever asked for the pod.
    images.verb(&["rm", IMAGE]).failed(125, &["in use", IMAGE]);
    podvmm_does(&["rm", "-f", "untrusted"]).prints("untrusted\n");
    images.verb(&["rm", IMAGE]).status(0);
}

#[test]
fn containers_run_in_order_within_their_limits_and_again_by_policy() {
    let bench = Bench::new();
    let images = images();
    let dir = TempDir::new();
    let shared = dir.path().display();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-two, labels: {{app: web}}}}
spec:
  runtimeClassName: podvmm
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  initContainers:
  - {{name: first, image: '{IMAGE}', command: [sh, -c, 'echo first >> /s/order'], volumeMounts: [{{name: s, mountPath: /s}}]}}
  containers:
  - name: one
    image: '{IMAGE}'
    command: [sh, -c, 'echo one >> /s/order; cat /sys/fs/cgroup/memory.max; echo $APP $(id -u); sleep 1000']
    env: [{{name: APP, valueFrom: {{fieldRef: {{fieldPath: \"metadata.labels['app']\"}}}}}}]
    resources: {{limits: {{cpu: 500m, memory: 64Mi}}}}
    securityContext: {{runAsUser: 1234, readOnlyRootFilesystem: true}}
    volumeMounts: [{{name: s, mountPath: /s}}]
  - name: two
    image: '{IMAGE}'
    command: [sh, -c, 'echo again; exit 3']
  volumes:
  - {{name: s, hostPath: {{path: '{shared}', type: Directory}}}}
"
    );
    fs::write(dir.join("order"), "").unwrap();
    for (path, mode) in [(dir.join("order"), 0o666), (dir.path().to_owned(), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let pod = Pod("e2e-two".to_owned());
    run(&bench, &images, &path, &[]).prints("e2e-two\n");
    pod.wait_for_log("web 1234\n");
    podvmm_does(&["logs", "e2e-two/one"]).prints("67108864\nweb 1234\n");
    // It has failed, and is started again.
    let again = || podvmm_does(&["logs", "e2e-two/two"]).text();
    for _ in 0..600 {
        if again().matches("again").count() > 1 {
            break;
        }
        sleep(Duration::from_millis(200));
    }
    assert!(again().matches("again").count() > 1, "{}", again());
    assert_eq!(
        fs::read_to_string(dir.join("order")).unwrap(),
        "first\none\n"
    );
    let plan = pod.record()["plan"].clone();
    assert_eq!(plan["vcpus"], 2);
    assert_eq!(plan["memory"], (2_u64 << 30) + (64 << 20));
}

/// The record of one of the pod's containers, as soon as `is_so`.
fn container_when(
    pod: &Pod,
    index: usize,
    what: &str,
    is_so: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let until = Instant::now() + Duration::from_secs(12) * slowness();
    loop {
        let record = pod.record();
        let container = record["record"]["containers"][index].clone();
        if is_so(&container) {
            return container;
        }
        assert!(Instant::now() < until, "not {what}: {record:#}");
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn probes_and_hooks_are_carried_out() {
    let bench = Bench::new();
    let images = images();
    let dir = TempDir::new();
    let shared = dir.path().display();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-probes}}
spec:
  runtimeClassName: podvmm
  terminationGracePeriodSeconds: 60
  containers:
  - name: web
    image: '{IMAGE}'
    command: [sh, -c, 'mkdir /srv; echo ok > /srv/healthz; trap \"echo asked >> /s/order; exit 0\" TERM; httpd -f -p 8080 -h /srv & wait']
    lifecycle:
      postStart: {{exec: {{command: [sh, -c, 'echo started >> /s/order; touch /started']}}}}
      preStop: {{exec: {{command: [sh, -c, 'sleep 1; echo hook >> /s/order']}}}}
    startupProbe: {{exec: {{command: [test, -e, /started]}}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 30}}
    readinessProbe: {{exec: {{command: [sh, -c, 'cat /ready']}}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}}
    livenessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}}
    volumeMounts: [{{name: s, mountPath: /s}}]
  - name: deaf
    image: '{IMAGE}'
    command: [sh, -c, 'trap \"\" TERM; while :; do sleep 1; done']
    livenessProbe: {{tcpSocket: {{port: 9}}, periodSeconds: 2, timeoutSeconds: 20, failureThreshold: 2, terminationGracePeriodSeconds: 1}}
  volumes:
  - {{name: s, hostPath: {{path: '{shared}', type: Directory}}}}
"
    );
    fs::write(dir.join("order"), "").unwrap();
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let pod = Pod("e2e-probes".to_owned());
    run(&bench, &images, &path, &[]).prints("e2e-probes\n");

    // The hook is done when `run` returns. It is not ready, and the reason is told.
    let unready = container_when(&pod, 0, "complained of", |web| !web["complaint"].is_null());
    assert_eq!(unready["ready"], false);
    let complaint = "Readiness probe failed: cat: can't open '/ready': No such file or directory";
    let listed = podvmm_does(&["ps"]).status(0).text();
    assert!(listed.contains(complaint), "{listed}");
    podvmm_does(&["exec", "e2e-probes/web", "touch", "/ready"]).prints("");
    container_when(&pod, 0, "ready", |web| web["ready"] == true);

    // Nobody listens, and the signal is ignored: killed after the probe's own grace.
    let deaf = container_when(&pod, 1, "started again", |deaf| deaf["restarts"] == 1);
    assert_eq!(deaf["exit"]["code"], 137);
    let refused = "Liveness probe failed: dial tcp 127.0.0.1:9: connect: connection refused";
    assert_eq!(deaf["complaint"], refused);

    podvmm_does(&["exec", "e2e-probes/web", "rm", "/srv/healthz"]).prints("");
    // It is told before the end; soon afterwards the new container is not ready, and tells that.
    let wrong = "Liveness probe failed: HTTP probe failed with statuscode: 404";
    container_when(&pod, 0, wrong, |web| web["complaint"] == wrong);
    container_when(&pod, 0, "started again", |web| web["restarts"] == 1);
    container_when(&pod, 0, "running", |web| web["phase"] == "running");
    podvmm_does(&["stop", "e2e-probes"]).status(0);
    let life = "started\nhook\nasked\n";
    assert_eq!(
        fs::read_to_string(dir.join("order")).unwrap(),
        life.repeat(2)
    );
}

#[test]
fn a_pod_ends_at_its_deadline_and_a_start_hook_that_fails_ends_its_container() {
    let bench = Bench::new();
    let images = images();
    let dir = TempDir::new();
    let manifest = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: e2e-late}}
spec:
  runtimeClassName: podvmm
  activeDeadlineSeconds: {}
  terminationGracePeriodSeconds: 1
  restartPolicy: OnFailure
  containers:
  - name: good
    image: '{IMAGE}'
    command: [sleep, '1000']
    lifecycle: {{preStop: {{sleep: {{seconds: 900}}}}}}
  - name: bad
    image: '{IMAGE}'
    command: [sleep, '1000']
    lifecycle: {{postStart: {{exec: {{command: [sh, -c, 'echo why; exit 4']}}}}}}
",
        2 * slowness()
    );
    let path = file(dir.path(), "pod.yaml", manifest.as_bytes());
    let pod = Pod("e2e-late".to_owned());
    run(&bench, &images, &path, &[]).prints("e2e-late\n");
    let bad = container_when(&pod, 1, "complained of", |bad| !bad["complaint"].is_null());
    let complaint = "PostStartHook failed: Exec(sh -c echo why; exit 4): exit status 4: why\n";
    assert_eq!(bad["complaint"], complaint);
    let record = pod.wait_for_status("stopped");
    let reason = record["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("DeadlineExceeded: "), "{record:#}");
    let listed = podvmm_does(&["ps", "-a"]).status(0).text();
    assert!(
        listed.contains("Failed") && listed.contains("DeadlineExceeded"),
        "{listed}"
    );
}

#[test]
fn manifests_that_are_not_run() {
    let bench = Bench::new();
    let images = images();
    run(&bench, &images, TRUSTED.as_ref(), &[])
        .refused(&["asks for no sandbox", "runtimeClassName"]);
    run(&bench, &images, "/nothing/there".as_ref(), &[]).refused(&["/nothing/there"]);
    let dir = TempDir::new();
    let untrusted = fs::read_to_string(UNTRUSTED).unwrap();
    for (name, text, words) in [
        (
            "tab",
            untrusted.replace("  containers", "\tcontainers"),
            &["tab", "line"][..],
        ),
        (
            "image",
            untrusted.replace("v0.0.11", "v0"),
            &["mcr.azk8s.cn", "untrusted"],
        ),
        (
            "probe",
            format!("{untrusted}\n    livenessProbe: {{grpc: {{port: 1}}}}\n"),
            &["livenessProbe.grpc", "tcpSocket"],
        ),
    ] {
        let path = file(dir.path(), name, text.as_bytes());
        let image = if name == "image" {
            text.replace("command:", "imagePullPolicy: Never\n    command:")
        } else {
            text
        };
        fs::write(&path, image).unwrap();
        run(&bench, &images, &path, &[]).failed(125, words);
    }
    // What the manifest says is not said twice.
    run(&bench, &images, UNTRUSTED.as_ref(), &["--cpus", "2"]).failed(125, &["--cpus", "--file"]);
}
