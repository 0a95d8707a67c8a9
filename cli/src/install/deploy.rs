//! The files of `deploy/` say what the programs do: handler, labels, paths.

use std::fs;
use std::path::{Path, PathBuf};

use host_check::labels::{FAILED_CHECK, READY};
use serde_json::{Value, json};

use super::containerd::document::{HANDLER, RUNTIME_TYPE};
use super::layout::SHIM;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is a folder of the repository")
}

fn text(name: &str) -> String {
    let path = repository().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn runtime_classes_lead_to_the_handler_on_nodes_that_are_ready() {
    let classes = documents("deploy/runtimeclass.yaml");
    let names: Vec<_> = classes
        .iter()
        .map(|class| &class["metadata"]["name"])
        .collect();
    assert_eq!(
        names,
        ["podvmm", "kata-mshv-vm-isolation", "kata-vm-isolation"]
    );
    for class in &classes {
        let expected = json!({
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": class["metadata"],
            "handler": HANDLER,
            "overhead": class["overhead"],
            "scheduling": {"nodeSelector": {READY: "true"}},
        });
        assert_eq!(*class, expected);
        assert_eq!(
            class["overhead"], classes[0]["overhead"],
            "the same VM needs as much by any name"
        );
        let memory = class["overhead"]["podFixed"]["memory"].as_str().unwrap();
        let mib: u64 = memory.strip_suffix("Mi").unwrap().parse().unwrap();
        let vm = 2048;
        assert!(
            mib > vm,
            "{mib} MiB: the VM alone has {vm} MiB beside its containers' limits"
        );
    }
}

#[test]
fn the_shim_has_the_name_that_containerd_makes_of_the_type() {
    let name = RUNTIME_TYPE
        .strip_prefix("io.containerd.")
        .unwrap()
        .replace('.', "-");
    assert_eq!(SHIM, format!("containerd-shim-{name}"));
}

#[test]
fn the_daemon_set_runs_what_its_image_has() {
    let documents = documents("deploy/daemonset.yaml");
    let [set] = &documents[..] else {
        panic!("one document, not {}", documents.len());
    };
    assert_eq!(
        (&set["apiVersion"], &set["kind"]),
        (&json!("apps/v1"), &json!("DaemonSet"))
    );
    let labels = &set["spec"]["selector"]["matchLabels"];
    assert_eq!(*labels, set["spec"]["template"]["metadata"]["labels"]);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["hostPID"], true, "a pod's processes are seen");
    let [container] = &pod["containers"].as_array().unwrap()[..] else {
        panic!("{pod}");
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(container["image"], format!("podvmm-install:{version}"));
    let script = text("deploy/install-node");
    assert!(script.contains("host=${HOST:-/host}"));
    let mount = &container["volumeMounts"][0];
    assert_eq!(
        (&mount["name"], &mount["mountPath"]),
        (&pod["volumes"][0]["name"], &json!("/host"))
    );
    assert_eq!(pod["volumes"][0]["hostPath"]["path"], "/");
    for arg in container["args"].as_array().unwrap() {
        let arg = arg.as_str().unwrap();
        assert!(
            script.contains(&format!("{arg}() {{")),
            "install-node knows no {arg}"
        );
    }
}

#[test]
fn the_image_is_made_of_files_that_are_there() {
    let containerfile = text("deploy/Containerfile");
    let archive = "build/podvmm.tar.gz";
    assert!(text("Makefile").contains(&format!("tests/tools/dist {archive}")));
    let mut copied: Vec<PathBuf> = Vec::new();
    for line in containerfile.lines() {
        let words: Vec<_> = line.split(' ').collect();
        if let ["ADD" | "COPY", from, _] = words[..] {
            copied.push(from.into());
        }
    }
    assert_eq!(
        copied,
        [Path::new(archive), Path::new("deploy/install-node")]
    );
    assert!(repository().join(&copied[1]).is_file());
    let version = format!("podvmm-install:{}", env!("CARGO_PKG_VERSION"));
    for page in ["deploy/Containerfile", "deploy/README.md"] {
        assert!(
            text(page).contains(&version),
            "{page} names another version"
        );
    }
}

#[test]
fn the_script_knows_the_labels_that_the_check_prints() {
    let script = text("deploy/install-node");
    for label in [READY, FAILED_CHECK] {
        assert!(script.contains(&format!("^{label}=")), "{label}");
    }
    let page = text("deploy/README.md");
    for (label, _) in host_check::labels(&host_check::check(
        &host_check::Live::new(),
        host_check::Options {
            fast: true,
            ..Default::default()
        },
    )) {
        assert!(
            page.contains(&format!("`{label}`")),
            "deploy/README.md has no {label}"
        );
    }
}
