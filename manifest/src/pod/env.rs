//! Reading variables and what they are taken from.

use super::container::Scope;
use crate::names;
use crate::objects::Objects;
use crate::problem::Code;
use crate::quantity::Quantity;
use crate::reader::{Fields, Item};
use crate::schema;

/// A source of variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    /// What stands before each key.
    pub prefix: String,
    /// Where the data is.
    pub source: ObjectRef,
}

/// A ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Which of both.
    pub kind: ObjectKind,
    /// Name.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// What data is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// Written down; `$(VAR)` is expanded.
    Text(String),
    /// The pod.
    Field(FieldRef),
    /// A container's resources.
    Resource(ResourceRef),
    /// An object's key.
    Key(ObjectRef, String),
}

/// A field of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldRef {
    /// metadata.name.
    Name,
    /// metadata.namespace.
    Namespace,
    /// metadata.uid.
    Uid,
    /// metadata.labels['KEY'].
    Label(String),
    /// metadata.annotations['KEY'].
    Annotation(String),
    /// metadata.labels.
    Labels,
    /// metadata.annotations.
    Annotations,
    /// spec.nodeName.
    NodeName,
    /// spec.serviceAccountName.
    ServiceAccount,
    /// status.podIP.
    PodIp,
    /// status.podIPs.
    PodIps,
    /// status.hostIP.
    HostIp,
    /// status.hostIPs.
    HostIps,
}

/// A container's resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRef {
    /// Whose.
    pub container: String,
    /// A limit or a request.
    pub limit: bool,
    /// CPU or memory.
    pub cpu: bool,
    /// Unit.
    pub divisor: Quantity,
}

/// Reads `envFrom` and `env` of the container `own`.
pub fn read_all(fields: &Fields<'_>, own: &str, scope: &Scope<'_>) -> (Vec<EnvFrom>, Vec<EnvVar>) {
    let list = |field| {
        fields
            .get(field)
            .and_then(|item| item.list())
            .unwrap_or_default()
    };
    let env_from = list("envFrom");
    let env_from = env_from
        .iter()
        .filter_map(|item| read_from(item, scope.objects));
    let env_from = env_from.collect();
    let env = list("env");
    let env = env
        .iter()
        .filter_map(|item| read_variable(item, own, scope));
    (env_from, env.collect())
}

fn read_from(item: &Item<'_>, objects: &Objects) -> Option<EnvFrom> {
    let fields = item.object(&schema::ENV_FROM)?;
    let prefix = fields.get("prefix");
    let prefix = match prefix {
        Some(item) if item.text() != Some("") => item.named(names::variable)?.to_owned(),
        _ => String::new(),
    };
    let sources = [
        ("configMapRef", ObjectKind::ConfigMap),
        ("secretRef", ObjectKind::Secret),
    ];
    let mut found = sources
        .into_iter()
        .filter_map(|(field, kind)| Some((fields.get(field)?, kind)));
    let Some((source, kind)) = found.next() else {
        fields.error(
            Code::Missing,
            "has no source: write configMapRef or secretRef",
        );
        return None;
    };
    if let Some((second, _)) = found.next() {
        second.error(
            Code::Conflict,
            "is a second source: make it an entry of its own",
        );
    }
    let reference = source.object(&schema::OBJECT_REF)?;
    let source = read_object_ref(&reference, "name", kind)?;
    objects.check(item, &source, None);
    Some(EnvFrom { prefix, source })
}

/// Name and whether it may be missing, of a ConfigMap or Secret.
pub fn read_object_ref(
    fields: &Fields<'_>,
    name: &'static str,
    kind: ObjectKind,
) -> Option<ObjectRef> {
    let optional = fields.get("optional").and_then(|item| item.bool());
    let name = fields.need(name, &format!("it is a {}'s", kind.name()))?;
    Some(ObjectRef {
        kind,
        name: name.named(names::subdomain)?.to_owned(),
        optional: optional.unwrap_or(false),
    })
}

fn read_variable(item: &Item<'_>, own: &str, scope: &Scope<'_>) -> Option<EnvVar> {
    let fields = item.object(&schema::ENV)?;
    let name = fields.need("name", "a variable has a name");
    let name = name.and_then(|item| item.named(names::variable));
    let (text, source) = (fields.get("value"), fields.get("valueFrom"));
    let value = match (text, source) {
        (Some(text), None) => EnvValue::Text(text.argument()?.to_owned()),
        (None, None) => EnvValue::Text(String::new()),
        (None, Some(source)) => read_source(&source, own, scope)?,
        (Some(text), Some(source)) => {
            if text.text() != Some("") {
                source.error(
                    Code::Conflict,
                    "is there beside value: write one of the two",
                );
            }
            read_source(&source, own, scope)?
        }
    };
    Some(EnvVar {
        name: name?.to_owned(),
        value,
    })
}

fn read_source(item: &Item<'_>, own: &str, scope: &Scope<'_>) -> Option<EnvValue> {
    let fields = item.object(&schema::ENV_SOURCE)?;
    let known = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
    ];
    let mut sources = known
        .into_iter()
        .filter_map(|name| Some((name, fields.get(name)?)));
    let Some((kind, source)) = sources.next() else {
        if fields.names().next().is_none() {
            fields.error(
                Code::Missing,
                format!("has no source: write one of {}", known.join(", ")),
            );
        }
        return None;
    };
    if let Some((_, second)) = sources.next() {
        second.error(Code::Conflict, "is a second source: a variable has one");
    }
    match kind {
        "fieldRef" => read_field(&source, false).map(EnvValue::Field),
        "resourceFieldRef" => {
            let (resource, named) = read_resource(&source, own)?;
            if let Some(item) = named {
                scope.refer(&item, &resource.container);
            }
            Some(EnvValue::Resource(resource))
        }
        "configMapKeyRef" => read_key(&source, ObjectKind::ConfigMap, scope.objects),
        _ => read_key(&source, ObjectKind::Secret, scope.objects),
    }
}

fn read_key(item: &Item<'_>, kind: ObjectKind, objects: &Objects) -> Option<EnvValue> {
    let fields = item.object(&schema::KEY_REF)?;
    let object = read_object_ref(&fields, "name", kind);
    let key = fields.need("key", "it is a key of its data")?;
    let key = key.named(names::data_key)?.to_owned();
    let object = object?;
    objects.check(item, &object, Some(&key));
    Some(EnvValue::Key(object, key))
}

/// Fields that can be named, and by whom.
static FIELDS: [(&str, FieldRef, Whose); 11] = [
    ("metadata.name", FieldRef::Name, Whose::Both),
    ("metadata.namespace", FieldRef::Namespace, Whose::Both),
    ("metadata.uid", FieldRef::Uid, Whose::Both),
    ("metadata.labels", FieldRef::Labels, Whose::Volumes),
    (
        "metadata.annotations",
        FieldRef::Annotations,
        Whose::Volumes,
    ),
    ("spec.nodeName", FieldRef::NodeName, Whose::Variables),
    (
        "spec.serviceAccountName",
        FieldRef::ServiceAccount,
        Whose::Variables,
    ),
    ("status.podIP", FieldRef::PodIp, Whose::Variables),
    ("status.podIPs", FieldRef::PodIps, Whose::Variables),
    ("status.hostIP", FieldRef::HostIp, Whose::Variables),
    ("status.hostIPs", FieldRef::HostIps, Whose::Variables),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Both,
    Volumes,
    Variables,
}

/// A field of the pod, for a volume or a variable.
pub fn read_field(item: &Item<'_>, for_volume: bool) -> Option<FieldRef> {
    let fields = item.object(&schema::FIELD_REF)?;
    if let Some(version) = fields.get("apiVersion")
        && version.text().is_some_and(|text| text != "v1")
    {
        version.bad("must be v1");
    }
    let item = fields.need("fieldPath", "it is a field of the pod")?;
    let path = item.text()?;
    if let Some((field, key)) = subscript(path) {
        if let Err(rule) = names::qualified(&key) {
            item.bad(format!("the key {key:?} {rule}"));
            return None;
        }
        return match field {
            "metadata.labels" => Some(FieldRef::Label(key)),
            "metadata.annotations" => Some(FieldRef::Annotation(key)),
            _ => {
                item.bad(format!(
                    "{field} has no keys; metadata.labels and metadata.annotations have"
                ));
                None
            }
        };
    }
    let wanted = if for_volume {
        Whose::Volumes
    } else {
        Whose::Variables
    };
    match FIELDS.iter().find(|(name, ..)| *name == path) {
        Some((_, field, whose)) if *whose == Whose::Both || *whose == wanted => Some(field.clone()),
        Some((_, _, Whose::Volumes)) => {
            item.bad(format!(
                "{path} is for volumes; a variable has one of them, {path}['KEY']"
            ));
            None
        }
        Some(_) => {
            item.bad(format!("{path} is for variables, not for volumes"));
            None
        }
        None => {
            item.unknown_word(path, FIELDS.iter().map(|(name, ..)| *name));
            None
        }
    }
}

/// `field['key']` in its parts.
fn subscript(path: &str) -> Option<(&str, String)> {
    let (field, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?;
    let quoted = |quote| key.strip_prefix(quote)?.strip_suffix(quote);
    let key = quoted('\'').or_else(|| quoted('"'))?;
    Some((field, key.to_owned()))
}

/// A resource, and where its container is named if it is.
pub fn read_resource<'a>(item: &Item<'a>, own: &str) -> Option<(ResourceRef, Option<Item<'a>>)> {
    let fields = item.object(&schema::RESOURCE_REF)?;
    let named = fields.get("containerName");
    let container = match &named {
        Some(item) => item.named(names::label)?.to_owned(),
        None if own.is_empty() => {
            fields.need("containerName", "it is a container's");
            return None;
        }
        None => own.to_owned(),
    };
    let divisor = match fields.get("divisor") {
        Some(item) => {
            let divisor = item.quantity()?;
            // Kubernetes writes a divisor of 0 where there is none.
            Some(divisor).filter(|divisor| *divisor != Quantity::ZERO)
        }
        None => None,
    };
    let resource = fields.need("resource", "write limits.cpu or the like")?;
    let (limit, cpu) = resource.one_of(&[
        ("limits.cpu", (true, true)),
        ("limits.memory", (true, false)),
        ("requests.cpu", (false, true)),
        ("requests.memory", (false, false)),
    ])?;
    let resource = ResourceRef {
        container,
        limit,
        cpu,
        divisor: divisor.unwrap_or(Quantity::whole(1)),
    };
    Some((resource, named))
}
