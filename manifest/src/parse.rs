//! From a text to a checked manifest.

use crate::objects::Objects;
use crate::pod::{self, ObjectKind, Pod};
use crate::problem::{Code, Place, Problem, Rejected, Report};
use crate::reader::Item;
use crate::yaml::{self, Node, Scalar, Value, scalar};

/// How a manifest is read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Fields that Kubernetes has and podvmm does not support become warnings and have no effect.
    pub ignore_unsupported: bool,
    /// ConfigMaps and Secrets that are given beside the text.
    pub objects: Objects,
}

/// A checked manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The pod.
    pub pod: Pod,
    /// Data that it may refer to: what was given, and further documents.
    pub objects: Objects,
    /// What will not be as the manifest's author may think.
    pub warnings: Vec<Problem>,
}

/// Reads a manifest: one Pod, and any ConfigMaps and Secrets that it uses.
///
/// # Errors
/// [`Rejected`] with all problems, in the order of the text.
pub fn parse(text: &str, options: &Options) -> Result<Manifest, Rejected> {
    let report = Report::new(options.ignore_unsupported);
    let (pod, objects) = read(text, &options.objects, &report);
    if pod.is_none() && !report.has_errors() {
        report.error(Place::START, "", Code::Kind, "the Pod cannot be read");
    }
    let warnings = report.finish()?;
    // There is a pod, or there was an error.
    let pod = pod.ok_or_else(Rejected::default)?;
    Ok(Manifest {
        pod,
        objects,
        warnings,
    })
}

fn read(text: &str, given: &Objects, report: &Report) -> (Option<Pod>, Objects) {
    let documents = yaml::load(text, report);
    let broken = report.has_errors();
    let mut objects = given.clone();
    let mut pods = Vec::new();
    for document in &documents {
        match kind(document, report) {
            Some(Kind::Pod) => pods.push(document),
            Some(Kind::Object(kind)) => objects.read(&Item::root(document, report), kind),
            None => {}
        }
    }
    for further in pods.iter().skip(1) {
        let message = "is a second Pod: write one file for each";
        report.error(further.place, "kind", Code::Kind, message);
    }
    let pod = match pods.first() {
        Some(document) => pod::read(&Item::root(document, report), &objects),
        None => {
            // After a syntax error nobody knows what would have come.
            if !broken && !report.has_errors() {
                let message = "there is no object of kind Pod in it";
                report.error(Place::START, "", Code::Kind, message);
            }
            None
        }
    };
    (pod, objects)
}

enum Kind {
    Pod,
    Object(ObjectKind),
}

/// Which kind of object a document is, if it is one that is taken.
fn kind(document: &Node, report: &Report) -> Option<Kind> {
    if !matches!(document.value, Value::Map(_)) {
        if !matches!(document.value, Value::Broken) {
            let message = format!(
                "must be an object of kind Pod and is {}",
                document.describe()
            );
            report.error(document.place, "", Code::Kind, message);
        }
        return None;
    }
    let known = text(document, "kind", report)?;
    let kind = match known {
        "Pod" => Kind::Pod,
        "ConfigMap" => Kind::Object(ObjectKind::ConfigMap),
        "Secret" => Kind::Object(ObjectKind::Secret),
        other => {
            let place = document
                .get("kind")
                .map_or(document.place, |node| node.place);
            report.error(place, "kind", Code::Kind, explain_kind(other));
            return None;
        }
    };
    let version = text(document, "apiVersion", report)?;
    if version != "v1" {
        let place = document
            .get("apiVersion")
            .map_or(document.place, |node| node.place);
        let message = format!("is {:?}, must be v1", scalar::shorten(version));
        report.error(place, "apiVersion", Code::Kind, message);
    }
    Some(kind)
}

fn text<'a>(document: &'a Node, field: &str, report: &Report) -> Option<&'a str> {
    match document.get(field) {
        Some(Node {
            value: Value::Scalar(Scalar::Text(text)),
            ..
        }) => Some(text),
        Some(node) if !node.is_null() => {
            let message = format!("must be a string and is {}", node.describe());
            report.error(node.place, field, Code::Type, message);
            None
        }
        _ => {
            let message = format!(
                "is missing: write {}",
                match field {
                    "kind" => "kind: Pod",
                    _ => "apiVersion: v1",
                }
            );
            report.error(document.place, field, Code::Missing, message);
            None
        }
    }
}

fn explain_kind(kind: &str) -> String {
    let shown = scalar::shorten(kind);
    match kind {
        "Deployment"
        | "ReplicaSet"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "ReplicationController"
        | "PodTemplate" => format!(
            "{shown} is not taken, only Pod is: make its template (metadata and spec) an object of kind Pod"
        ),
        "CronJob" => format!(
            "{shown} is not taken, only Pod is: make spec.jobTemplate.spec.template an object of kind Pod"
        ),
        "List" | "PodList" => {
            format!("{shown} is not taken: write its items as documents, one Pod in each file")
        }
        _ => format!("{shown:?} is not taken, only Pod is, with ConfigMaps and Secrets beside it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{OBJECTS, Support};

    const FULL: &str = include_str!("../tests/good/full.yaml");

    #[test]
    fn what_is_listed_as_supported_is_read() {
        let report = Report::default();
        assert!(read(FULL, &Objects::default(), &report).0.is_some());
        let asked = report.asked.borrow();
        for object in OBJECTS {
            for field in object.fields {
                let supported = matches!(field.support, Support::Supported(_));
                // The other direction is asserted where fields are read.
                let read = asked.contains(&(object.name, field.name));
                assert_eq!(read, supported, "{}.{}", object.name, field.name);
            }
        }
    }

    #[test]
    fn what_is_listed_as_accepted_is_accepted() {
        for object in OBJECTS {
            for field in object.fields {
                if matches!(field.support, Support::Accepted(..)) {
                    let key = format!("{}:", field.name);
                    assert!(
                        FULL.contains(&key),
                        "{}.{}: no case",
                        object.name,
                        field.name
                    );
                }
            }
        }
        let manifest = parse(FULL, &Options::default()).unwrap();
        assert_eq!(manifest.warnings, []);
    }
}
