//! The two short commands that containerd runs, with what should not be in a bundle.

#![allow(clippy::unwrap_used)] // all of this is a test

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use tempfile::TempDir;

/// Runs the program as containerd does, with the bundle as working directory.
fn shim(bundle: &Path, command: &str) -> Output {
    let id = format!("podvmm-test-{}", std::process::id());
    Command::new(env!("CARGO_BIN_EXE_containerd-shim-podvmm-v2"))
        .args(["-namespace", "test", "-address", "", "-id", &id, command])
        .current_dir(bundle)
        .output()
        .unwrap()
}

/// `start` with this config.json fails, and says all these words.
fn refused(config: Option<&str>, words: &[&str]) {
    let bundle = TempDir::new().unwrap();
    if let Some(config) = config {
        fs::write(bundle.path().join("config.json"), config).unwrap();
    }
    let output = shim(bundle.path(), "start");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{config:?}: {output:?}");
    assert!(output.stdout.is_empty(), "an address: {output:?}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
    let left = fs::read_dir(bundle.path()).unwrap().count();
    assert_eq!(left, usize::from(config.is_some()), "files were left");
}

#[test]
fn a_bundle_that_is_none_is_refused() {
    refused(None, &["config.json"]);
    for text in ["", "{", "[]", "\"x\"", "\u{0}"] {
        refused(Some(text), &["config.json", "no OCI configuration"]);
    }
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
    refused(Some(&long), &["config.json", "at most 1048576"]);
}

#[test]
fn annotations_under_our_prefix_are_refused_by_name() {
    for name in [
        "io.podvmm.kernel",
        "io.podvmm.vmm.path",
        "io.podvmm.kernel-arguments",
        "io.podvmm.",
    ] {
        let config = format!(r#"{{"annotations":{{"{name}":"/etc/passwd"}}}}"#);
        refused(Some(&config), &[name, "take it out"]);
    }
}

#[test]
fn a_container_of_no_pod_is_refused() {
    let kind = r#""io.kubernetes.cri.container-type":"container""#;
    let with = |sandbox: &str| {
        format!(r#"{{"annotations":{{{kind},"io.kubernetes.cri.sandbox-id":"{sandbox}"}}}}"#)
    };
    refused(Some(&with("gone")), &["the pod gone has no shim"]);
    for hostile in ["", "../../etc", "a/b", "..", ".hidden"] {
        refused(
            Some(&with(hostile)),
            &["sandbox-id", "no name of a sandbox"],
        );
    }
    refused(
        Some(&format!(r#"{{"annotations":{{{kind}}}}}"#)),
        &["sandbox-id is missing"],
    );
    refused(
        Some(r#"{"annotations":{"io.kubernetes.cri.container-type":"pod"}}"#),
        &["unknown type", "pod"],
    );
}

#[test]
fn deleting_what_is_not_there_works_and_can_be_repeated() {
    let bundle = TempDir::new().unwrap();
    for _ in 0..2 {
        let output = shim(bundle.path(), "delete");
        assert!(output.status.success(), "{output:?}");
        let response = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(response.exit_status, 137);
    }
}
