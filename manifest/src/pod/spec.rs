//! Reading the pod as a whole.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{
    Dns, HostAlias, Pod, RUNTIME_CLASSES, RestartPolicy, Sandbox, container, security, volume,
};
use crate::names;
use crate::objects::Objects;
use crate::problem::Code;
use crate::reader::{Fields, Item};
use crate::schema;

const DEFAULT_GRACE: u64 = 30;
/// Longest that anything can be told to take: a century.
pub const MAX_SECONDS: i64 = 100 * 365 * 86_400;
/// Most entries of resolv.conf that resolvers heed.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_OPTIONS: usize = 64;

struct Metadata {
    name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// Reads a document of kind Pod. None if something essential is missing, which has been told of then.
pub fn read(root: &Item<'_>, objects: &Objects) -> Option<Pod> {
    let fields = root.object(&schema::POD)?;
    for known in ["apiVersion", "kind"] {
        fields.get(known);
    }
    let metadata = fields.need("metadata", "write metadata.name");
    let metadata = metadata.and_then(|item| read_metadata(&item));
    let spec = fields.need("spec", "it holds the containers")?;
    let spec = spec.object(&schema::POD_SPEC)?;
    let (volumes, references) = match spec.get("volumes") {
        Some(item) => volume::read_all(&item, objects),
        None => (Vec::new(), Vec::new()),
    };
    let security = security::Pod::read(spec.get("securityContext"));
    let host = refuse_host(&spec);
    let scope = container::Scope::new(&volumes, objects, &security);
    let (init_containers, containers) = container::read_all(&spec, &scope);
    scope.check_references(references, root.report());
    let restart = spec.get("restartPolicy").and_then(|item| {
        item.one_of(&[
            ("Always", RestartPolicy::Always),
            ("OnFailure", RestartPolicy::OnFailure),
            ("Never", RestartPolicy::Never),
        ])
    });
    let grace = seconds(&spec, "terminationGracePeriodSeconds", 0);
    let deadline = seconds(&spec, "activeDeadlineSeconds", 1);
    let (hostname, subdomain) = (label(&spec, "hostname"), label(&spec, "subdomain"));
    let sandbox = sandbox(&spec);
    let dns = read_dns(&spec);
    let host_aliases = spec
        .get("hostAliases")
        .map_or_else(Vec::new, |item| read_aliases(&item));
    let share_processes = spec
        .get("shareProcessNamespace")
        .and_then(|item| item.bool());
    let service_account = spec.get("serviceAccountName");
    let service_account = service_account.and_then(|item| item.named(names::subdomain));
    let node_name = spec
        .get("nodeName")
        .and_then(|item| item.named(names::subdomain));
    host?;
    let metadata = metadata?;
    Some(Pod {
        name: metadata.name,
        namespace: metadata.namespace,
        labels: metadata.labels,
        annotations: metadata.annotations,
        sandbox,
        init_containers,
        containers,
        volumes,
        restart: restart.unwrap_or_default(),
        grace: grace.unwrap_or(Duration::from_secs(DEFAULT_GRACE)),
        deadline,
        hostname,
        subdomain,
        host_aliases,
        dns,
        share_processes: share_processes.unwrap_or(false),
        supplemental_groups: security.groups,
        image_groups: security.image_groups,
        fs_group: security.fs_group,
        sysctls: security.sysctls,
        node_name: node_name.map(str::to_owned),
        service_account: service_account.unwrap_or("default").to_owned(),
    })
}

fn read_metadata(item: &Item<'_>) -> Option<Metadata> {
    let fields = item.object(&schema::METADATA)?;
    let name = fields.need("name", "a pod has a name");
    let name = name.and_then(|item| item.named(names::subdomain));
    let namespace = fields
        .get("namespace")
        .and_then(|item| item.named(names::label));
    let labels = fields.get("labels");
    let labels = labels.and_then(|item| item.text_map(names::qualified, names::label_value));
    let annotations = fields.get("annotations");
    let annotations = annotations.and_then(|item| item.text_map(names::qualified, |_| Ok(())));
    Some(Metadata {
        name: name?.to_owned(),
        namespace: namespace.unwrap_or("default").to_owned(),
        labels: labels.unwrap_or_default(),
        annotations: annotations.unwrap_or_default(),
    })
}

fn label(spec: &Fields<'_>, field: &'static str) -> Option<String> {
    spec.get(field)?.named(names::label).map(str::to_owned)
}

/// A number of seconds.
pub fn seconds(fields: &Fields<'_>, field: &'static str, least: i64) -> Option<Duration> {
    let seconds = fields.get(field)?.int(least..=MAX_SECONDS)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

fn sandbox(spec: &Fields<'_>) -> Sandbox {
    let Some(item) = spec.get("runtimeClassName") else {
        return Sandbox::NotAsked;
    };
    let Some(name) = item.named(names::subdomain) else {
        return Sandbox::NotAsked;
    };
    if !RUNTIME_CLASSES.contains(&name) {
        let all = RUNTIME_CLASSES.join(", ");
        item.unsupported(format!(
            "{name} is no runtime class of podvmm: use one of {all}, or leave it out"
        ));
    }
    Sandbox::Asked(name.to_owned())
}

/// What a pod with a kernel of its own cannot have of its host's. None if it asks for any.
fn refuse_host(spec: &Fields<'_>) -> Option<()> {
    let mut fine = Some(());
    for (field, what) in [
        ("hostNetwork", "network: publish ports with hostPort"),
        ("hostPID", "processes"),
        ("hostIPC", "shared memory"),
    ] {
        let Some(item) = spec.get(field) else {
            continue;
        };
        if item.bool() == Some(true) {
            let message = format!(
                "a pod with a kernel of its own cannot have the host's {what}; leave it out, or run the pod without a sandbox"
            );
            item.error(Code::Refused, message);
            fine = None;
        }
    }
    if let Some(item) = spec.get("hostUsers")
        && item.bool() == Some(false)
    {
        item.unsupported(
            "a user namespace of the pod's own is not supported: leave it out; the virtual machine keeps root of the pod from being root of the host",
        );
    }
    if let Some(item) = spec.get("os")
        && let Some(fields) = item.object(&schema::POD_OS)
        && let Some(name) = fields.need("name", "write linux")
        && name.text().is_some_and(|name| name != "linux")
    {
        name.error(Code::Refused, "must be linux: podvmm runs nothing else");
    }
    fine
}

fn ip(item: &Item<'_>) -> Option<IpAddr> {
    let text = item.text()?;
    let ip = text.parse().ok();
    if ip.is_none() {
        item.bad(format!("{text:?} is no IP address"));
    }
    ip
}

/// An address in a field.
pub fn ip_of(fields: &Fields<'_>, field: &'static str) -> Option<IpAddr> {
    ip(&fields.get(field)?)
}

fn read_aliases(item: &Item<'_>) -> Vec<HostAlias> {
    let read = |item: Item<'_>| {
        let fields = item.object(&schema::HOST_ALIAS)?;
        let address = fields.need("ip", "an alias names an address");
        let names = fields.need("hostnames", "an alias names hosts");
        let mut hosts = Vec::new();
        for name in names.and_then(|item| item.list()).unwrap_or_default() {
            hosts.extend(name.named(names::subdomain).map(str::to_owned));
        }
        Some(HostAlias {
            ip: ip(&address?)?,
            names: hosts,
        })
    };
    let items = item.list().unwrap_or_default();
    items.into_iter().filter_map(read).collect()
}

fn read_dns(spec: &Fields<'_>) -> Dns {
    let policy = spec.get("dnsPolicy");
    let of_host = policy.as_ref().and_then(|item| {
        item.one_of(&[
            ("ClusterFirst", true),
            ("ClusterFirstWithHostNet", true),
            ("Default", true),
            ("None", false),
        ])
    });
    let mut dns = Dns {
        of_host: of_host.unwrap_or(true),
        ..Dns::default()
    };
    if let Some(item) = spec.get("dnsConfig") {
        read_dns_config(&item, &mut dns);
    }
    if let Some(policy) = policy
        && !dns.of_host
        && dns.nameservers.is_empty()
    {
        policy.error(
            Code::Conflict,
            "None needs a name server in spec.dnsConfig.nameservers",
        );
    }
    dns
}

fn read_dns_config(item: &Item<'_>, dns: &mut Dns) {
    let Some(fields) = item.object(&schema::DNS_CONFIG) else {
        return;
    };
    if let Some(item) = fields.get("nameservers") {
        let servers = item.list().unwrap_or_default();
        dns.nameservers = servers.iter().filter_map(ip).collect();
        if servers.len() > MAX_NAMESERVERS {
            let count = servers.len();
            item.bad(format!(
                "has {count} servers; resolvers ask at most {MAX_NAMESERVERS}"
            ));
        }
    }
    if let Some(item) = fields.get("searches") {
        let searches = item.list().unwrap_or_default();
        let name = |item: &Item<'_>| {
            let text = item.text()?;
            let name = text.strip_suffix('.').unwrap_or(text);
            match names::subdomain(name) {
                Ok(()) => Some(text.to_owned()),
                Err(rule) => {
                    item.bad(format!("{text:?} {rule}"));
                    None
                }
            }
        };
        dns.searches = searches.iter().filter_map(name).collect();
        if searches.len() > MAX_SEARCHES {
            let count = searches.len();
            item.bad(format!(
                "has {count} domains, at most {MAX_SEARCHES} are searched"
            ));
        }
    }
    let options = fields
        .get("options")
        .and_then(|item| item.short_list(MAX_OPTIONS));
    for item in options.unwrap_or_default() {
        dns.options.extend(read_dns_option(&item));
    }
}

fn read_dns_option(item: &Item<'_>) -> Option<(String, Option<String>)> {
    let fields = item.object(&schema::DNS_OPTION)?;
    let word = |item: &Item<'_>| {
        let text = item.filled()?;
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            item.bad("must be one word");
            return None;
        }
        Some(text.to_owned())
    };
    let name = fields.need("name", "an option has a name")?;
    let value = match fields.get("value") {
        Some(item) => Some(word(&item)?),
        None => None,
    };
    Some((word(&name)?, value))
}
