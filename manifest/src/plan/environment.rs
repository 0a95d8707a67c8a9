//! A container's variables, in the order in which they can name each other.

use std::collections::BTreeMap;

use super::{Context, PlanError};
use crate::expand::expand;
use crate::pod::{Container, EnvValue, FieldRef, ObjectRef, Pod, ResourceRef};
use crate::quantity::Quantity;

/// Variables of the manifest, of which `$(NAME)` tells.
pub type Variables = BTreeMap<String, String>;

pub fn variables(container: &Container, context: &Context<'_>) -> Result<Variables, PlanError> {
    let objects = &context.manifest.objects;
    let mut variables = Variables::new();
    for from in &container.env_from {
        for (key, data) in objects.get(&from.source).into_iter().flatten() {
            let name = format!("{}{key}", from.prefix);
            let value = text(container, &name, &from.source, key, data)?;
            variables.insert(name, value);
        }
    }
    for variable in &container.env {
        let name = &variable.name;
        let value = match &variable.value {
            EnvValue::Text(text) => {
                let known = |name: &str| variables.get(name).map(String::as_str);
                let expanded = expand(text, known);
                expanded.map_err(|source| PlanError::TooLong {
                    container: container.name.clone(),
                    what: format!("variable {name}"),
                    source,
                })?
            }
            EnvValue::Key(object, key) => {
                // One that is missing may be, and leaves what envFrom has given.
                match objects.get(object).and_then(|data| data.get(key)) {
                    Some(data) => text(container, name, object, key, data)?,
                    None => continue,
                }
            }
            EnvValue::Field(field) => self::field(field, context),
            EnvValue::Resource(resource) => self::resource(resource, context),
        };
        variables.insert(name.clone(), value);
    }
    Ok(variables)
}

fn text(
    container: &Container,
    variable: &str,
    object: &ObjectRef,
    key: &str,
    data: &[u8],
) -> Result<String, PlanError> {
    let text = std::str::from_utf8(data)
        .ok()
        .filter(|text| !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| PlanError::NotText {
        container: container.name.clone(),
        variable: variable.to_owned(),
        kind: object.kind,
        object: object.name.clone(),
        key: key.to_owned(),
    })
}

/// A field of the pod, as text.
pub fn field(field: &FieldRef, context: &Context<'_>) -> String {
    let (pod, surroundings) = (&context.manifest.pod, context.surroundings);
    let host_ips = || surroundings.host_ips.iter().map(ToString::to_string);
    match field {
        FieldRef::Name => pod.name.clone(),
        FieldRef::Namespace => pod.namespace.clone(),
        FieldRef::Uid => surroundings.uid.clone(),
        FieldRef::Label(key) => pod.labels.get(key).cloned().unwrap_or_default(),
        FieldRef::Annotation(key) => pod.annotations.get(key).cloned().unwrap_or_default(),
        FieldRef::Labels => lines(&pod.labels),
        FieldRef::Annotations => lines(&pod.annotations),
        FieldRef::NodeName => pod
            .node_name
            .clone()
            .unwrap_or_else(|| surroundings.node_name.clone()),
        FieldRef::ServiceAccount => pod.service_account.clone(),
        FieldRef::PodIp => surroundings.pod_ip.clone(),
        FieldRef::PodIps => surroundings.pod_ips.clone(),
        FieldRef::HostIp => host_ips().next().unwrap_or_default(),
        FieldRef::HostIps => host_ips().collect::<Vec<_>>().join(","),
    }
}

/// `key="value"` for each, with what would break a line escaped.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<_> = map
        .iter()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// A container's resource in its unit, rounded up. What has no limit has the VM's.
pub fn resource(resource: &ResourceRef, context: &Context<'_>) -> String {
    let Pod {
        init_containers,
        containers,
        ..
    } = &context.manifest.pod;
    let mut all = init_containers.iter().chain(containers);
    let of = all.find(|container| container.name == resource.container);
    let resources = of.map(|container| container.resources).unwrap_or_default();
    let amounts = if resource.limit {
        resources.limits
    } else {
        resources.requests
    };
    let amount = match resource.cpu {
        true => {
            let vms = resource
                .limit
                .then(|| context.surroundings.vcpus.saturating_mul(1000));
            let millis = amounts.cpu_millis.or(resources.limits.cpu_millis).or(vms);
            Quantity::millis(millis.unwrap_or(0))
        }
        false => {
            let vms = resource.limit.then_some(context.surroundings.memory);
            let bytes = amounts.memory.or(resources.limits.memory).or(vms);
            Quantity::whole(bytes.unwrap_or(0))
        }
    };
    amount.div_ceil(resource.divisor).unwrap_or(0).to_string()
}
