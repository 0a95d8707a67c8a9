//! What /etc/hosts says of a pod beside its addresses.

use std::fmt::Write;

use crate::pod::Pod;

/// Lines of /etc/hosts that the pod has aliases for.
#[must_use]
pub fn hosts(pod: &Pod) -> String {
    let mut text = String::new();
    for alias in pod
        .host_aliases
        .iter()
        .filter(|alias| !alias.names.is_empty())
    {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.names.join("\t"));
    }
    text
}

/// What the lines of the pod's own addresses call it. With a subdomain it has the name that it would have in a cluster, too.
#[must_use]
pub fn names(pod: &Pod, hostname: &str) -> String {
    match &pod.subdomain {
        Some(subdomain) => format!(
            "{hostname}.{subdomain}.{}.svc.cluster.local\t{hostname}",
            pod.namespace
        ),
        None => hostname.to_owned(),
    }
}
