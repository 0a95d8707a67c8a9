//! Reading containers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use super::mount::{self, absolute};
use super::{Container, Port, Protocol, PullPolicy, Volume, env, probe, resources, security, spec};
use crate::names;
use crate::objects::Objects;
use crate::problem::{Code, Place, Report};
use crate::reader::{Fields, Item};
use crate::schema;

/// Most containers of a pod, init containers among them.
pub const MAX_CONTAINERS: usize = 64;

/// Most ports of a container.
const MAX_PORTS: usize = 256;

/// What containers may refer to, and what has been seen of other containers.
pub struct Scope<'a> {
    pub objects: &'a Objects,
    pub volumes: &'a [Volume],
    security: &'a security::Pod,
    names: RefCell<HashMap<String, String>>,
    host_ports: RefCell<HashMap<HostPort, String>>,
    references: RefCell<Vec<Reference>>,
}

/// A container's name in some field, which may be that of a later container.
#[derive(Debug)]
pub struct Reference {
    place: Place,
    path: String,
    container: String,
}

impl Reference {
    pub fn new(item: &Item<'_>, container: &str) -> Self {
        Self {
            place: item.place(),
            path: item.path.clone(),
            container: container.to_owned(),
        }
    }
}

/// A port of the host that leads to a container.
type HostPort = (Option<IpAddr>, u16, Protocol);

impl<'a> Scope<'a> {
    pub fn new(volumes: &'a [Volume], objects: &'a Objects, security: &'a security::Pod) -> Self {
        Self {
            objects,
            volumes,
            security,
            names: RefCell::default(),
            host_ports: RefCell::default(),
            references: RefCell::default(),
        }
    }

    /// Remembers a reference to be checked when all containers are known.
    pub fn refer(&self, item: &Item<'_>, container: &str) {
        let reference = Reference::new(item, container);
        self.references.borrow_mut().push(reference);
    }

    /// Tells of references that lead to no container.
    pub fn check_references(&self, of_volumes: Vec<Reference>, report: &Report) {
        let names = self.names.borrow();
        let all = self
            .references
            .borrow_mut()
            .drain(..)
            .chain(of_volumes)
            .collect::<Vec<_>>();
        for Reference {
            place,
            path,
            container,
        } in all
        {
            if names.contains_key(&container) {
                continue;
            }
            let hint = match report.similar(&container, names.keys().map(String::as_str)) {
                Some(similar) => format!("; is it {similar}?"),
                None => String::new(),
            };
            let message = format!("there is no container {container}{hint}");
            report.error(place, &path, Code::Reference, message);
        }
    }

    fn name(&self, item: &Item<'_>) -> Option<String> {
        let name = item.named(names::label)?.to_owned();
        let mut names = self.names.borrow_mut();
        match names.get(&name) {
            Some(first) => {
                let message = format!(
                    "{name} is the name of {first} as well: containers need names of their own"
                );
                item.error(Code::Duplicate, message);
            }
            None => drop(names.insert(name.clone(), item.path.clone())),
        }
        Some(name)
    }
}

/// Reads init containers and containers.
pub fn read_all(spec: &Fields<'_>, scope: &Scope<'_>) -> (Vec<Container>, Vec<Container>) {
    let init = spec.get("initContainers");
    let apps = spec.need("containers", "a pod has at least one");
    if let Some(item) = &apps
        && item.list_is_empty()
    {
        item.error(Code::Missing, "is empty: a pod has at least one");
    }
    let mut left = MAX_CONTAINERS;
    let mut read = |item: Option<Item<'_>>, is_init| {
        let Some(item) = item else { return Vec::new() };
        let items = item.list().unwrap_or_default();
        if items.len() > left {
            let message = format!(
                "has {} containers, and a pod has at most {MAX_CONTAINERS} together with its init containers: make it several pods",
                items.len()
            );
            item.error(Code::Limit, message);
        }
        let taken = items.len().min(left);
        left -= taken;
        let items = items.iter().take(taken);
        items
            .filter_map(|item| read(item, is_init, scope))
            .collect()
    };
    let init = read(init, true);
    (init, read(apps, false))
}

fn read(item: &Item<'_>, is_init: bool, scope: &Scope<'_>) -> Option<Container> {
    let fields = item.object(&schema::CONTAINER)?;
    let name = fields.need("name", "containers have names");
    let name = name.and_then(|item| scope.name(&item));
    let image = fields.need("image", "a container is made of one");
    let image = image.and_then(|item| read_image(&item));
    let resources = fields.get("resources");
    let resources = resources
        .map(|item| resources::read(&item))
        .unwrap_or_default();
    let ports = fields
        .get("ports")
        .map_or_else(Vec::new, |item| read_ports(&item, scope));
    let own = name.as_deref().unwrap_or("?");
    let (env_from, env) = env::read_all(&fields, own, scope);
    let mounts = fields.get("volumeMounts");
    let mounts = mounts.map_or_else(Vec::new, |item| mount::read_all(&item, scope));
    let security = scope.security.of_container(fields.get("securityContext"));
    let text_list = |field| fields.get(field).and_then(|item| item.texts());
    let flag = |field| {
        fields
            .get(field)
            .and_then(|item| item.bool())
            .unwrap_or(false)
    };
    let (post_start, pre_stop) = probe::hooks(&fields, is_init, &ports);
    let probe = |field, one| probe::read(&fields, field, one, is_init, &ports);
    let (liveness, readiness) = (probe("livenessProbe", true), probe("readinessProbe", false));
    let startup = probe("startupProbe", true);
    let working_dir = fields.get("workingDir").and_then(|item| absolute(&item));
    let (termination_path, termination_from_log) = termination(&fields);
    let (command, args) = (text_list("command"), text_list("args"));
    let pull = pull(&fields, image.as_deref().unwrap_or_default());
    let (stdin, stdin_once, tty) = (flag("stdin"), flag("stdinOnce"), flag("tty"));
    Some(Container {
        name: name?,
        image: image?,
        pull,
        command,
        args,
        working_dir,
        env_from,
        env,
        resources,
        mounts,
        security,
        ports,
        post_start,
        pre_stop,
        liveness,
        readiness,
        startup,
        stdin,
        stdin_once,
        tty,
        termination_path,
        termination_from_log,
    })
}

fn read_image(item: &Item<'_>) -> Option<String> {
    let text = item.filled()?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        item.bad("has a space in it, which no image's name has");
        return None;
    }
    Some(text.to_owned())
}

/// As Kubernetes has it: what may change under its name is pulled always.
fn pull(fields: &Fields<'_>, image: &str) -> PullPolicy {
    let policy = fields.get("imagePullPolicy").and_then(|item| {
        item.one_of(&[
            ("Always", PullPolicy::Always),
            ("IfNotPresent", PullPolicy::IfNotPresent),
            ("Never", PullPolicy::Never),
        ])
    });
    policy.unwrap_or_else(|| {
        let name = image.rsplit('/').next().unwrap_or_default();
        let is_fixed = image.contains('@');
        let tag = name.split_once(':').map(|(_, tag)| tag);
        match tag {
            _ if is_fixed => PullPolicy::IfNotPresent,
            None | Some("latest") => PullPolicy::Always,
            Some(_) => PullPolicy::IfNotPresent,
        }
    })
}

fn termination(fields: &Fields<'_>) -> (String, bool) {
    let path = fields
        .get("terminationMessagePath")
        .and_then(|item| absolute(&item));
    let from_log = fields.get("terminationMessagePolicy");
    let from_log =
        from_log.and_then(|item| item.one_of(&[("File", false), ("FallbackToLogsOnError", true)]));
    (
        path.unwrap_or_else(|| "/dev/termination-log".into()),
        from_log.unwrap_or(false),
    )
}

fn read_ports(item: &Item<'_>, scope: &Scope<'_>) -> Vec<Port> {
    let mut ports = Vec::<Port>::new();
    for item in item.short_list(MAX_PORTS).unwrap_or_default() {
        let Some(port) = read_port(&item, scope) else {
            continue;
        };
        if let Some(name) = &port.name
            && ports.iter().any(|other| other.name.as_ref() == Some(name))
        {
            let message = format!("{name} is the name of another port of this container");
            item.error(Code::Duplicate, message);
        }
        ports.push(port);
    }
    ports
}

fn read_port(item: &Item<'_>, scope: &Scope<'_>) -> Option<Port> {
    let fields = item.object(&schema::PORT)?;
    let number = |item: Item<'_>| {
        let number = item.number(1..=65_535)?;
        u16::try_from(number).ok()
    };
    let name = fields.get("name").and_then(|item| item.named(names::port));
    let protocol = fields.get("protocol").and_then(|item| {
        item.one_of(&[
            ("TCP", Protocol::Tcp),
            ("UDP", Protocol::Udp),
            ("SCTP", Protocol::Sctp),
        ])
    });
    let host_item = fields.get("hostPort");
    let host_ip = spec::ip_of(&fields, "hostIP");
    let port = fields.need("containerPort", "a port has a number");
    let port = Port {
        name: name.map(str::to_owned),
        number: port.and_then(number)?,
        protocol: protocol.unwrap_or(Protocol::Tcp),
        host_port: host_item.clone().and_then(number),
        host_ip,
    };
    if let (Some(item), Some(host_port)) = (host_item, port.host_port) {
        let mut seen = scope.host_ports.borrow_mut();
        match seen.get(&(host_ip, host_port, port.protocol)) {
            Some(first) => item.error(Code::Conflict, format!("is {first} as well")),
            None => drop(seen.insert((host_ip, host_port, port.protocol), item.path)),
        }
    }
    Some(port)
}
