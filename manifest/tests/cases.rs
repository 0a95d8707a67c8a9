//! Manifests and what is said about them, in full.
//!
//! A case is a file of `good` or `bad`. Its last lines are what is expected: each begins with `#! `, and
//! they are every problem in its order. `PODVMM_UPDATE_CASES=1` writes what is said into the files, to be
//! looked at in the difference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use podvmm_manifest::{MAX_BYTES, Options, Rejected, parse};

const EXPECTED: &str = "#! ";

fn cases(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(kind);
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() > 3, "{kind}: where are the cases?");
    paths
}

fn said(text: &str, options: &Options) -> (bool, String) {
    match parse(text, options) {
        Ok(manifest) => {
            let lines: Vec<_> = manifest
                .warnings
                .iter()
                .map(|w| format!("warning: {w}"))
                .collect();
            (true, lines.join("\n"))
        }
        Err(rejected) => (false, rejected.to_string()),
    }
}

fn run(kind: &str, is_good: bool) {
    let mut wrong = Vec::new();
    for path in cases(kind) {
        let text = fs::read_to_string(&path).unwrap();
        let options = Options {
            ignore_unsupported: text.starts_with("# ignore-unsupported\n"),
            ..Options::default()
        };
        let (fine, said) = said(&text, &options);
        let (input, expected) = match text.find(&format!("\n{EXPECTED}")) {
            Some(end) => text.split_at(end + 1),
            None => (text.as_str(), ""),
        };
        let said: String = said
            .lines()
            .map(|line| format!("{EXPECTED}{line}\n"))
            .collect();
        if std::env::var_os("PODVMM_UPDATE_CASES").is_some() {
            fs::write(&path, format!("{input}{said}")).unwrap();
        } else if said != expected {
            wrong.push(format!(
                "{}: said\n{said}expected\n{expected}",
                path.display()
            ));
        }
        assert_eq!(fine, is_good, "{}:\n{said}", path.display());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn good_manifests() {
    run("good", true);
}

#[test]
fn bad_manifests() {
    run("bad", false);
}

fn rejected(text: &str) -> Rejected {
    parse(text, &Options::default()).expect_err("a bad manifest")
}

const HEAD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n";

#[test]
fn a_thousand_containers() {
    let mut text = format!("{HEAD}  containers:\n");
    for index in 0..1000 {
        text += &format!("  - {{name: c{index}, image: i}}\n");
    }
    assert_eq!(
        rejected(&text).to_string(),
        "spec.containers (line 6:5): has 1000 containers, and a pod has at most 64 together with its \
         init containers: make it several pods"
    );
}

#[test]
fn a_thousand_problems_are_not_all_told() {
    let mut text = format!("{HEAD}  x: 1\n");
    for index in 0..1000 {
        text += &format!("  x{index}: 1\n");
    }
    let rejected = rejected(&text);
    assert_eq!(rejected.problems.len(), 100);
    assert!(
        rejected.to_string().ends_with("\nand 902 more"),
        "{rejected}"
    );
}

#[test]
fn what_is_too_large_is_not_read() {
    let text = "#".repeat(MAX_BYTES + 1);
    assert_eq!(
        rejected(&text).to_string(),
        "line 1:1: the text has 1048577 bytes, at most 1048576 are read: large data belongs into files or images"
    );
    let text = format!("{HEAD}  x: [{}]", "a,".repeat(200_000));
    assert_eq!(
        rejected(&text).to_string(),
        "line 5:199981: there are more than 100000 values: no pod needs as many"
    );
}

#[test]
fn nesting_ends() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
        let text = format!("{}x{}", open.repeat(10_000), close.repeat(10_000));
        let rejected = rejected(&text).to_string();
        assert!(rejected.contains("is not YAML: "), "{open}: {rejected}");
    }
}

#[test]
fn texts_that_are_no_manifest() {
    for text in [
        "",
        "\n",
        "---",
        "...",
        "null",
        "[]",
        "a",
        "42",
        "\u{feff}",
        "\0",
        "{",
        "}",
        "- - -",
        "? ?",
        "%YAML 1.2\n---\n",
        "&a *a",
        "!!str x",
        "a: b: c",
        "'",
        "\"\\x",
        "|\n",
        "{a: [}",
        "\t",
        "kind: Pod",
        "kind: [Pod]\napiVersion: v1",
        "kind: Pod\napiVersion: v1\nspec: 1",
        "kind: Pod\napiVersion: v1\nmetadata: []\nspec: {containers: {}}",
        "<<: {kind: Pod}",
    ] {
        assert!(!rejected(text).problems.is_empty(), "{text:?}");
    }
}

#[test]
fn json_is_yaml() {
    let text = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {"a": "\u00e9\n"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}"#;
    let manifest = parse(text, &Options::default()).unwrap();
    assert_eq!(manifest.pod.annotations["a"], "é\n");
    let text = text.replace("\"image\"", "\"Image\"");
    assert_eq!(
        rejected(&text)
            .problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "spec.containers[0].image (line 2:33): is missing: a container is made of one",
            "spec.containers[0].Image (line 2:47): Container has no such field; is it image?",
        ]
    );
}

/// Lists whose entries are compared with each other have limits: pairs of 50,000 take minutes.
#[test]
fn lists_that_are_compared_have_limits() {
    let container = |fields: &str, entry: &str| {
        let list = entry.repeat(300);
        format!("{HEAD}  containers: [{{name: c, image: i, {fields}: [{list}]}}]\n")
    };
    for (text, field, most) in [
        (
            container("volumeMounts", "{name: v, mountPath: /a},"),
            "spec.containers[0].volumeMounts",
            256,
        ),
        (
            container("ports", "{containerPort: 1},"),
            "spec.containers[0].ports",
            256,
        ),
        (
            format!("{HEAD}  volumes: [{}]\n", "{name: v},".repeat(300)),
            "spec.volumes",
            256,
        ),
        (
            format!(
                "{HEAD}  dnsConfig: {{options: [{}]}}\n",
                "{name: v},".repeat(300)
            ),
            "spec.dnsConfig.options",
            64,
        ),
    ] {
        let problems = rejected(&text).problems;
        let wanted = format!("has 300 entries, at most {most} are taken");
        let told = problems
            .iter()
            .any(|p| p.path == field && p.message == wanted);
        assert!(told, "{field}: {problems:?}");
    }
}
