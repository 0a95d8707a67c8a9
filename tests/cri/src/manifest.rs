//! Pod manifests: what the tests' own need, and nothing else.

use serde::Deserialize;

/// A pod, as its author writes it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    /// `v1`.
    pub api_version: ApiVersion,
    /// `Pod`.
    pub kind: Kind,
    /// What it is called.
    pub metadata: Metadata,
    /// What it is to be.
    pub spec: PodSpec,
}

/// The version of the API.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub enum ApiVersion {
    /// The only one that pods have.
    #[serde(rename = "v1")]
    V1,
}

/// The kind of object.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// The only one that is read here.
    Pod,
}

/// Of a pod's metadata, the name.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The pod's name.
    pub name: String,
}

/// Of a pod's specification, the RuntimeClass and the containers.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodSpec {
    /// Which RuntimeClass it asks for; none is the node's default runtime.
    pub runtime_class_name: Option<String>,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// One container.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its image.
    pub image: String,
    /// The command in place of the image's.
    pub command: Vec<String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// If it is not YAML, or has anything that is not read here.
    pub fn parse(yaml: &str) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_str(yaml)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_untrusted_pod_asks_for_a_runtime_class() {
        let manifest = Manifest::parse(include_str!("../pods/untrusted.yaml")).unwrap();
        assert_eq!(manifest.metadata.name, "untrusted");
        assert_eq!(
            manifest.spec.runtime_class_name.as_deref(),
            Some("kata-mshv-vm-isolation")
        );
        let container = &manifest.spec.containers[0];
        assert_eq!(container.name, "untrusted");
        assert_eq!(container.command[..2], ["/bin/sh", "-ec"]);
    }

    #[test]
    fn the_trusted_pod_asks_for_none() {
        let manifest = Manifest::parse(include_str!("../pods/trusted.yaml")).unwrap();
        assert_eq!(manifest.spec.runtime_class_name, None);
        assert_eq!(manifest.spec.containers.len(), 1);
    }

    #[test]
    fn what_is_not_read_is_refused() {
        let manifest = include_str!("../pods/trusted.yaml");
        for (from, to) in [
            ("kind: Pod", "kind: Job"),
            ("apiVersion: v1", "apiVersion: v2"),
            ("spec:", "spec:\n  hostNetwork: true"),
        ] {
            assert!(
                Manifest::parse(&manifest.replace(from, to)).is_err(),
                "{to}"
            );
        }
    }
}
