//! Configurations of networks: which there are, and the one that is used where there is none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CniError, CniPlan, OWN_NETWORK};

/// Longest configuration that is read.
const MAX_BYTES: u64 = 1 << 20;
/// What a configuration without a version means (CNI specification 0.2.0).
const OLDEST_VERSION: &str = "0.2.0";

/// A network: plugins that are called one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkList {
    pub name: String,
    pub version: String,
    /// The plugins' own configurations; each has a `type`.
    pub plugins: Vec<Value>,
}

/// The network that `plan` asks for.
pub(super) fn find(plan: &CniPlan) -> Result<NetworkList, CniError> {
    let files = files(&plan.conf_dir)?;
    let Some(name) = &plan.network else {
        // As for containerd and others, the first file by name.
        return match files.first() {
            Some(path) => read(path),
            None => Ok(own()),
        };
    };
    let mut known = Vec::new();
    let mut malformed = None;
    for path in &files {
        match read(path) {
            Ok(list) if list.name == *name => return Ok(list),
            Ok(list) => known.push(list.name),
            Err(error) => malformed = malformed.or(Some(error)),
        }
    }
    if name == OWN_NETWORK {
        return Ok(own());
    }
    known.push(OWN_NETWORK.to_owned());
    Err(malformed.unwrap_or_else(|| CniError::NoNetwork {
        name: name.clone(),
        dir: plan.conf_dir.clone(),
        known,
    }))
}

/// The files that may be configurations, in order of their names.
fn files(dir: &Path) -> Result<Vec<PathBuf>, CniError> {
    let failed = |cause| CniError::Read {
        path: dir.to_owned(),
        cause,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        if matches!(kind, Some("conflist" | "conf" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<NetworkList, CniError> {
    let failed = |cause| CniError::Read {
        path: path.to_owned(),
        cause,
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES), &mut text).map_err(failed)?;
    parse(&text).map_err(|problem| CniError::Malformed {
        path: path.to_owned(),
        problem,
    })
}

/// A list of plugins, or the configuration of a single one.
fn parse(text: &str) -> Result<NetworkList, String> {
    let whole: Value =
        serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let name = whole["name"].as_str().unwrap_or_default().to_owned();
    check_name(&name)?;
    let version = match &whole["cniVersion"] {
        Value::Null => OLDEST_VERSION.to_owned(),
        Value::String(version) => version.clone(),
        _ => return Err("cniVersion is no string".into()),
    };
    let plugins = match whole.get("plugins") {
        Some(Value::Array(plugins)) => plugins.clone(),
        Some(_) => return Err("plugins is no list".into()),
        None => vec![whole],
    };
    if plugins.is_empty() {
        return Err("plugins is empty".into());
    }
    for (index, plugin) in plugins.iter().enumerate() {
        // It becomes the name of a file.
        let kind = plugin["type"].as_str().unwrap_or_default();
        if kind.is_empty() || kind.starts_with('.') || kind.contains('/') {
            return Err(format!("plugin {index}: its type is no plugin's name"));
        }
    }
    Ok(NetworkList {
        name,
        version,
        plugins,
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(format!("its name is {name:?}, which is no network's"))
    }
}

/// A veth for each pod, routed and translated by the host. There is no bridge that would stay behind; the
/// leases are in /run, as nothing of a pod outlives the host.
fn own() -> NetworkList {
    NetworkList {
        name: OWN_NETWORK.to_owned(),
        version: "0.4.0".to_owned(),
        plugins: vec![
            json!({
                "type": "ptp",
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{ "subnet": "10.223.0.0/16" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }),
            json!({ "type": "firewall" }),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &Path, network: Option<&str>) -> CniPlan {
        CniPlan {
            network: network.map(str::to_owned),
            conf_dir: dir.to_owned(),
            ..CniPlan::default()
        }
    }

    #[test]
    fn the_first_by_name_or_the_one_that_is_named() {
        let dir = std::env::temp_dir().join(format!("podvmm-cni-list-{}", std::process::id()));
        assert_eq!(find(&plan(&dir, None)).unwrap().name, "podvmm");
        fs::create_dir_all(&dir).unwrap();
        let write = |file: &str, text: &str| fs::write(dir.join(file), text).unwrap();
        write("00-README", "no configuration");
        write(
            "20-b.conflist",
            r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"bridge"},{"type":"tuning"}]}"#,
        );
        write("10-a.conf", r#"{"name":"a","type":"ptp"}"#);
        let first = find(&plan(&dir, None)).unwrap();
        assert_eq!((&*first.name, &*first.version), ("a", "0.2.0"));
        assert_eq!(first.plugins[0]["type"], "ptp");
        let named = find(&plan(&dir, Some("b"))).unwrap();
        assert_eq!((&*named.version, named.plugins.len()), ("1.0.0", 2));
        assert_eq!(find(&plan(&dir, Some("podvmm"))).unwrap(), own());
        let text = find(&plan(&dir, Some("c"))).unwrap_err().to_string();
        assert!(text.contains("cni=c") && text.contains("a, b"), "{text}");
        // One that is broken does not hide the rest, and is told where it is meant.
        write("05-broken.conf", "{");
        assert_eq!(find(&plan(&dir, Some("b"))).unwrap(), named);
        let text = find(&plan(&dir, None)).unwrap_err().to_string();
        assert!(
            text.contains("05-broken.conf") && text.contains("JSON"),
            "{text}"
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for (text, word) in [
            ("[]", "name"),
            (r#"{"name":"../x","type":"ptp"}"#, "name"),
            (r#"{"name":"a"}"#, "type"),
            (r#"{"name":"a","type":"../../bin/sh"}"#, "type"),
            (r#"{"name":"a","plugins":{}}"#, "no list"),
            (r#"{"name":"a","plugins":[]}"#, "empty"),
            (r#"{"name":"a","plugins":[{"type":"ptp"},{}]}"#, "plugin 1"),
            (r#"{"name":"a","type":"ptp","cniVersion":1}"#, "cniVersion"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }
}
