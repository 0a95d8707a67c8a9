//! Against plugins that are shell scripts: what they are told, in which order, and what becomes of what
//! they say. Those of the distribution are for the end-to-end tests.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

/// A directory of plugins and of a pod, gone with its owner.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("podvmm-cni-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// A plugin that writes down what it was told, and then does `script`.
    fn plugin(&self, name: &str, script: &str) {
        let path = self.0.join(name);
        let dir = self.0.display();
        let script = format!(
            "#!/bin/sh\necho {name} $CNI_COMMAND $CNI_IFNAME $CNI_CONTAINERID \"$CNI_NETNS\" >> {dir}/calls\n\
             cat > {dir}/{name}.$CNI_COMMAND\n{script}\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn attachment(&self, plugins: &[&str]) -> Attachment {
        let plugins = plugins.iter().map(|name| json!({ "type": name, "own": 1 }));
        Attachment {
            version: VERSION,
            id: "pod-1".into(),
            netns: self.0.join("no-netns"),
            list: NetworkList {
                name: "net".into(),
                version: "1.0.0".into(),
                plugins: plugins.collect(),
            },
            bin_dirs: vec!["/nonexistent".into(), self.0.clone()],
            result: None,
        }
    }

    fn told(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.join(file)).unwrap()).unwrap()
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ADDRESSES: &str = r#"[ $CNI_COMMAND = DEL ] || echo '{"cniVersion":"1.0.0",
    "ips":[{"address":"192.0.2.7/24"},{"address":"2001:db8::7/64"}]}'"#;

#[test]
fn plugins_are_called_in_order_and_taken_back_in_reverse() {
    let place = Place::new("order");
    place.plugin("first", ADDRESSES);
    place.plugin(
        "second",
        "[ $CNI_COMMAND = DEL ] || sed 's/.*\"prevResult\":\\({.*}]}\\).*/\\1/' $0.ADD",
    );
    let mut attachment = place.attachment(&["first", "second"]);
    attachment.result = attachment.set_up().unwrap();
    assert_eq!(
        attachment.addresses(),
        ["192.0.2.7", "2001:db8::7"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    let first = place.told("first.ADD");
    assert_eq!(
        first,
        json!({ "type": "first", "own": 1, "name": "net", "cniVersion": "1.0.0" })
    );
    let result = &place.told("second.ADD")["prevResult"];
    assert_eq!(result["ips"][0]["address"], "192.0.2.7/24");
    attachment.take_back().unwrap();
    assert_eq!(
        place.calls(),
        [
            "first ADD eth0 pod-1 ",
            "second ADD eth0 pod-1 ",
            "second DEL eth0 pod-1 ",
            "first DEL eth0 pod-1 ",
        ]
    );
    assert_eq!(place.told("first.DEL")["prevResult"], *result);
}

#[test]
fn a_failure_names_the_plugin_and_says_what_it_said() {
    for (script, words) in [
        (
            r#"echo '{"code":11,"msg":"try later","details":"no answer"}'; exit 1"#,
            &["second", "ADD", "try later: no answer"][..],
        ),
        ("echo broken >&2; exit 2", &["second", "broken"]),
        ("exit 3", &["second", "3"]),
        ("kill -9 $$", &["second", "signal: 9"]),
        ("echo well", &["no JSON", "well"]),
        (
            "echo '{\"msg\":\"failed to locate iptables: exec: \\\"iptables\\\": executable file not found in $PATH\"}'; exit 1",
            &["iptables", "apt-get install iptables"],
        ),
    ] {
        let place = Place::new("failure");
        place.plugin("first", ADDRESSES);
        place.plugin("second", script);
        let attachment = place.attachment(&["first", "second"]);
        let text = attachment.set_up().unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "{script}: no {word:?} in {text}");
        }
    }
}

#[test]
fn what_can_be_taken_back_is_though_something_else_cannot() {
    let place = Place::new("remains");
    place.plugin("first", "exit 0");
    place.plugin("second", "echo '{\"msg\":\"busy\"}'; exit 1");
    let attachment = place.attachment(&["first", "second"]);
    attachment.write(&place.0).unwrap();
    let error = remove(&place.0).unwrap_err();
    assert!(error.to_string().contains(FILE), "{error}");
    assert_eq!(place.calls().len(), 2);
    // It is tried again, as long as it takes.
    place.plugin("second", "exit 0");
    remove(&place.0).unwrap();
    assert_eq!(place.calls().len(), 4);
    remove(&place.0).unwrap();
    assert_eq!(place.calls().len(), 4);
}

#[test]
fn a_plugin_that_is_missing_is_told_before_anything_is_made() {
    let place = Place::new("missing");
    let conf = r#"{"name":"a","plugins":[{"type":"first"},{"type":"absent"}]}"#;
    fs::write(place.0.join("a.conflist"), conf).unwrap();
    place.plugin("first", "exit 0");
    let plan = CniPlan {
        network: None,
        conf_dir: place.0.clone(),
        bin_dirs: vec![place.0.clone()],
    };
    let text = add(&plan, "pod", &place.0).unwrap_err().to_string();
    assert!(
        text.contains("absent") && text.contains("containernetworking-plugins"),
        "{text}"
    );
    assert!(place.calls().is_empty() && !place.0.join(FILE).exists());
}

#[test]
fn a_namespace_is_there_from_add_to_remove() {
    let place = Place::new("namespace");
    let conf = r#"{"name":"a","type":"first","cniVersion":"1.0.0"}"#;
    fs::write(place.0.join("a.conf"), conf).unwrap();
    place.plugin("first", ADDRESSES);
    let plan = CniPlan {
        network: Some("a".into()),
        conf_dir: place.0.clone(),
        bin_dirs: vec![place.0.clone()],
    };
    let attachment = match add(&plan, "pod", &place.0) {
        Err(CniError::Namespace { cause, .. }) => {
            return println!("skipped: no network namespace can be made here: {cause}");
        }
        other => other.unwrap(),
    };
    let netns = attachment.netns().to_owned();
    assert!(netns.starts_with("/run/netns/"));
    crate::net::Netns::open(&netns).unwrap();
    let call = &place.calls()[0];
    assert!(call.ends_with(&netns.display().to_string()), "{call}");
    // Whoever comes later finds it in the pod's directory alone.
    drop(attachment);
    remove(&place.0).unwrap();
    assert!(!netns.exists() && !place.0.join(FILE).exists());

    // One that cannot be had leaves nothing, and is taken back.
    place.plugin("first", "[ $CNI_COMMAND = DEL ]");
    let namespaces = || fs::read_dir("/run/netns").unwrap().count();
    let before = namespaces();
    let text = add(&plan, "pod", &place.0).unwrap_err().to_string();
    assert!(text.contains("first failed at ADD"), "{text}");
    assert!(place.calls().last().unwrap().starts_with("first DEL"));
    assert_eq!(namespaces(), before);
    assert!(!place.0.join(FILE).exists());
}
