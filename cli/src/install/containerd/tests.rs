//! Plans on configurations of all kinds, in systems without a containerd. What containerd makes of them
//! is tested with the real one, end to end.

use std::fs;

use serde_json::json;

use super::*;
use crate::install::testkit::TempDir;

const CONFIG: &str = "/etc/containerd/config.toml";
/// What Debian's package has.
const DEBIAN: &str = r#"version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni" # where Debian has them
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"#;

/// A system with these files of containerd's configuration.
struct System {
    dir: TempDir,
    root: Root,
    recorded: Manifest,
}

impl System {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new();
        fs::create_dir_all(dir.join("etc/containerd/conf.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.join("etc/containerd").join(name), text).unwrap();
        }
        let root = Root::new(dir.path()).unwrap();
        Self {
            dir,
            root,
            recorded: Manifest::new(),
        }
    }

    fn plan_with(&self, shim: Option<&str>) -> anyhow::Result<Plan> {
        plan(&Wanted {
            root: &self.root,
            config: Path::new(CONFIG),
            shim,
            recorded: &self.recorded,
        })
    }

    fn plan(&self) -> Plan {
        self.plan_with(None).unwrap()
    }

    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let error = format!("{:#}", self.plan_with(None).unwrap_err());
        for word in words {
            assert!(error.contains(word), "no {word:?} in: {error}");
        }
    }
}

#[track_caller]
fn edited(plan: Plan) -> (PathBuf, String) {
    match plan.change {
        Change::Edit { path, text, .. } => (path, text),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn own(plan: Plan) -> (PathBuf, String) {
    match plan.change {
        Change::File { path, text } => (path, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_of_the_first_generation_is_changed_and_keeps_its_form() {
    let system = System::with(&[("config.toml", DEBIAN)]);
    let plan = system.plan();
    assert!(
        plan.notes[0].contains("has not been checked"),
        "{:?}",
        plan.notes
    );
    let (path, text) = edited(plan);
    assert_eq!(path, Path::new(CONFIG));
    let lines: Vec<_> = text.lines().collect();
    for line in DEBIAN.lines() {
        assert!(lines.contains(&line), "{line:?} is lost in {text}");
    }
    let document = Document::parse(&text).unwrap();
    // containerd 1 has runc by itself only while no runtime is named.
    assert_eq!(document.runtimes(), ["podvmm", "runc"]);
    let handler = document.runtime(HANDLER).unwrap();
    assert_eq!(
        handler,
        json!({
            "runtime_type": "io.containerd.podvmm.v2",
            "privileged_without_host_devices": true,
            "pod_annotations": ["io.podvmm.*"],
            "container_annotations": ["io.podvmm.*"],
        })
    );
    let again = Document::parse(&document.without(&["runc", HANDLER]).unwrap()).unwrap();
    assert_eq!(again.plain(), Document::parse(DEBIAN).unwrap().plain());
}

#[test]
fn runtimes_that_are_named_are_left_alone() {
    let runc =
        "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]\nruntime_type = 'x'\n";
    let text = format!("{DEBIAN}\n{runc}");
    let (_, text) = edited(System::with(&[("config.toml", &text)]).plan());
    let document = Document::parse(&text).unwrap();
    assert_eq!(document.runtimes(), ["podvmm", "runc"]);
    assert_eq!(document.runtime("runc"), Some(json!({"runtime_type": "x"})));
}

#[test]
fn the_section_is_named_by_the_version() {
    for (text, section) in [
        ("", "cri"),
        ("disabled_plugins = ['x']", "cri"),
        ("version = 2", "io.containerd.grpc.v1.cri"),
        ("version = 3", "io.containerd.cri.v1.runtime"),
        ("version = 4", "io.containerd.cri.v1.runtime"),
        ("version = 2\n[plugins.cri]\nsandbox_image = 'x'", "cri"),
    ] {
        let (_, text) = edited(System::with(&[("config.toml", text)]).plan());
        assert_eq!(
            Document::parse(&text).unwrap().section(),
            Some(section),
            "{text}"
        );
    }
}

#[test]
fn the_last_file_with_a_section_is_the_one_that_counts() {
    let config = format!("imports = ['conf.d/*.toml']\n{DEBIAN}");
    let other = "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image = 'x'\n";
    for (files, expected) in [
        (vec![("config.toml", config.as_str())], CONFIG),
        (
            vec![
                ("config.toml", config.as_str()),
                ("conf.d/debug.toml", "version = 2\n[debug]\nlevel = 'debug'"),
            ],
            CONFIG,
        ),
        (
            vec![
                ("config.toml", config.as_str()),
                ("conf.d/a.toml", other),
                ("conf.d/b.toml", other),
            ],
            "/etc/containerd/conf.d/b.toml",
        ),
    ] {
        let (path, _) = edited(System::with(&files).plan());
        assert_eq!(path, Path::new(expected));
    }
}

#[test]
fn the_second_generation_gets_a_file_of_its_own_where_it_looks_for_one() {
    let config = "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n[plugins.'io.containerd.cri.v1.runtime'.cni]\n";
    let (path, text) = own(System::with(&[("config.toml", config)]).plan());
    assert_eq!(path, Path::new("/etc/containerd/conf.d/podvmm.toml"));
    let document = Document::parse(&text).unwrap();
    assert_eq!(document.version().unwrap(), 3);
    assert_eq!(document.runtimes(), [HANDLER]);
    let (path, _) = edited(System::with(&[("config.toml", "version = 3")]).plan());
    assert_eq!(path, Path::new(CONFIG));
}

#[test]
fn no_configuration_gets_one() {
    let (path, text) = own(System::with(&[]).plan());
    assert_eq!(path, Path::new(CONFIG));
    let document = Document::parse(&text).unwrap();
    assert_eq!(document.version().unwrap(), 2);
    assert_eq!(document.runtimes(), ["podvmm", "runc"]);
}

#[test]
fn a_shim_off_the_path_is_named() {
    let system = System::with(&[]);
    let (_, text) = own(system.plan_with(Some("/opt/podvmm/bin/shim")).unwrap());
    assert!(
        text.contains("runtime_path = \"/opt/podvmm/bin/shim\""),
        "{text}"
    );
}

#[test]
fn what_cannot_be_changed_without_harm_is_refused() {
    let refused =
        |text: &str, words: &[&str]| System::with(&[("config.toml", text)]).refused(words);
    refused("version = ", &[CONFIG, "TOML"]);
    refused("version = 'two'", &[CONFIG, "version", "write 2 or 3"]);
    refused("version = 2\nplugins = 3", &[CONFIG, "plugins", "by hand"]);
    refused(
        "version = 2\nplugins = {'io.containerd.grpc.v1.cri' = {}}",
        &[CONFIG, "by hand"],
    );
    let handler = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.podvmm]\n";
    refused(
        &format!("{handler}runtime_type = 'io.containerd.kata.v2'"),
        &[CONFIG, "runtime_type", "kata"],
    );
    refused(
        &format!("{handler}runtime_type = '{RUNTIME_TYPE}'\nruntime_path = '/other'"),
        &[CONFIG, "/other"],
    );
}

#[test]
fn a_handler_of_the_administrators_is_left() {
    let text = format!(
        "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.podvmm]\nruntime_type = '{RUNTIME_TYPE}'\n"
    );
    let plan = System::with(&[("config.toml", &text)]).plan();
    assert!(matches!(plan.change, Change::None), "{plan:?}");
    assert!(
        plan.notes.iter().any(|note| note.contains("left as it is")),
        "{:?}",
        plan.notes
    );
}

#[test]
fn a_plugin_that_is_switched_off_is_told_of() {
    for name in ["cri", "io.containerd.grpc.v1.cri"] {
        let text = format!("version = 2\ndisabled_plugins = ['{name}']");
        let plan = System::with(&[("config.toml", &text)]).plan();
        assert!(
            plan.notes[0].contains("disabled_plugins"),
            "{:?}",
            plan.notes
        );
    }
}

/// What comes after `podvmm install`, by somebody else's hand, stays.
#[test]
fn a_removal_takes_its_own_and_leaves_the_rest() {
    let system = System::with(&[("config.toml", DEBIAN)]);
    let Change::Edit { text, runtimes, .. } = system.plan().change else {
        panic!("it is an edit");
    };
    let place = system.dir.join("etc/containerd/config.toml");
    let removal = |text: &str, copy: Option<&str>| {
        fs::write(&place, text).unwrap();
        plan_removal(
            &system.root,
            Path::new(CONFIG),
            &runtimes,
            copy.map(str::to_owned),
        )
        .unwrap()
    };
    let plain = |text: &Option<String>| Document::parse(text.as_deref().unwrap()).unwrap();
    assert_eq!(removal(&text, Some(DEBIAN)).text.as_deref(), Some(DEBIAN));

    let more = format!("# mine\n{text}\n[debug]\nlevel = 'info'\n");
    let left = removal(&more, None);
    assert!(left.text.as_deref().unwrap().starts_with("# mine\n"));
    assert_eq!(plain(&left.text).runtimes(), [""; 0]);

    let other =
        "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.kata]\nruntime_type = 'k'\n";
    let left = removal(&format!("{text}\n{other}"), None);
    assert_eq!(plain(&left.text).runtimes(), ["kata", "runc"]);

    let changed = text.replace("[\"io.podvmm.*\"]", "[]");
    let left = removal(&changed, None);
    assert_eq!(left.text, None);
    assert!(left.notes[0].contains("changed since"), "{:?}", left.notes);

    fs::remove_file(&place).unwrap();
    let gone = plan_removal(&system.root, Path::new(CONFIG), &runtimes, None).unwrap();
    assert_eq!(gone.text, None);
}
