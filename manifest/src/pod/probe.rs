//! Reading probes and hooks.

use std::time::Duration;

use super::{Port, spec};
use crate::problem::Code;
use crate::reader::{Fields, Item};
use crate::schema;
use crate::yaml::scalar::shorten;
use crate::yaml::{Scalar, Value};

/// What runs when a container has started or is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A command in the container.
    Exec(Vec<String>),
    /// A request: any answer is good.
    Http(HttpGet),
    /// A pause.
    Sleep(Duration),
}

/// A question that is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How it is asked.
    pub action: ProbeAction,
    /// When.
    pub timing: ProbeTiming,
    /// How long the container may take to end if this probe ends it.
    pub grace: Option<Duration>,
}

/// When a probe asks, and how often the same answer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTiming {
    /// After the container's start.
    pub initial_delay: Duration,
    /// Between questions.
    pub period: Duration,
    /// For an answer.
    pub timeout: Duration,
    /// Good answers in a row.
    pub successes: u32,
    /// Bad answers in a row.
    pub failures: u32,
}

/// How a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// A command in the container: 0 is good.
    Exec(Vec<String>),
    /// A request: a status of 200 to 399 is good.
    Http(HttpGet),
    /// A connection.
    Tcp {
        /// The pod's own address if there is none.
        host: Option<String>,
        /// Port.
        port: u16,
    },
}

/// A request over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// Over TLS, without looking at the certificate.
    pub tls: bool,
    /// The pod's own address if there is none.
    pub host: Option<String>,
    /// Port.
    pub port: u16,
    /// With the slash at its beginning.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

const OF_INIT: &str =
    "init containers have none: they end by themselves, and the next one waits for that";

/// Reads `postStart` and `preStop`.
pub fn hooks(
    container: &Fields<'_>,
    is_init: bool,
    ports: &[Port],
) -> (Option<Hook>, Option<Hook>) {
    let Some(item) = container.get("lifecycle") else {
        return (None, None);
    };
    if is_init {
        item.error(Code::Conflict, OF_INIT);
        return (None, None);
    }
    let Some(fields) = item.object(&schema::LIFECYCLE) else {
        return (None, None);
    };
    let hook = |field| fields.get(field).and_then(|item| read_hook(&item, ports));
    (hook("postStart"), hook("preStop"))
}

fn read_hook(item: &Item<'_>, ports: &[Port]) -> Option<Hook> {
    let fields = item.object(&schema::LIFECYCLE_HANDLER)?;
    let kinds = fields.names().count();
    if kinds != 1 {
        fields.error(
            Code::Conflict,
            format!("has {kinds} actions: write one of exec, httpGet, sleep"),
        );
        return None;
    }
    if let Some(item) = fields.get("exec") {
        return read_command(&item).map(Hook::Exec);
    }
    if let Some(item) = fields.get("httpGet") {
        return read_http(&item, ports).map(Hook::Http);
    }
    let fields = fields.get("sleep")?.object(&schema::SLEEP)?;
    fields.need("seconds", "it says how long");
    spec::seconds(&fields, "seconds", 0).map(Hook::Sleep)
}

fn read_command(item: &Item<'_>) -> Option<Vec<String>> {
    let fields = item.object(&schema::EXEC)?;
    let item = fields.need("command", "it is what is run")?;
    let command = item.texts()?;
    if command.first().is_none_or(String::is_empty) {
        item.error(Code::Missing, "names no program");
        return None;
    }
    Some(command)
}

/// Reads the probe in `field`; one that ends or starts containers (`one`) needs one good answer only.
pub fn read(
    container: &Fields<'_>,
    field: &'static str,
    one: bool,
    is_init: bool,
    ports: &[Port],
) -> Option<Probe> {
    let item = container.get(field)?;
    if is_init {
        item.error(Code::Conflict, OF_INIT);
        return None;
    }
    let fields = item.object(&schema::PROBE)?;
    let timing = read_timing(&fields, one);
    let grace_item = fields.get("terminationGracePeriodSeconds");
    let grace = spec::seconds(&fields, "terminationGracePeriodSeconds", 1);
    if let Some(item) = grace_item
        && !one
    {
        item.error(
            Code::Conflict,
            "a readiness probe ends nothing: leave it out",
        );
    }
    let action = read_action(&fields, ports);
    Some(Probe {
        action: action?,
        timing: timing?,
        grace,
    })
}

fn read_timing(fields: &Fields<'_>, one: bool) -> Option<ProbeTiming> {
    let count = |field, default| match fields.get(field) {
        Some(item) => item.number(1..=i32::MAX.unsigned_abs()),
        None => Some(default),
    };
    let time = |field, default, least| match fields.get(field) {
        Some(_) => spec::seconds(fields, field, least),
        None => Some(Duration::from_secs(default)),
    };
    let successes = count("successThreshold", 1);
    if let (Some(item), Some(2..)) = (fields.get("successThreshold"), successes)
        && one
    {
        item.bad("must be 1 for liveness and startup probes");
    }
    let initial_delay = time("initialDelaySeconds", 0, 0);
    let (period, timeout) = (time("periodSeconds", 10, 1), time("timeoutSeconds", 1, 1));
    let failures = count("failureThreshold", 3);
    Some(ProbeTiming {
        initial_delay: initial_delay?,
        period: period?,
        timeout: timeout?,
        successes: successes?,
        failures: failures?,
    })
}

const ACTIONS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

fn read_action(fields: &Fields<'_>, ports: &[Port]) -> Option<ProbeAction> {
    let count = fields.names().filter(|name| ACTIONS.contains(name)).count();
    if count != 1 {
        fields.error(
            Code::Conflict,
            format!("has {count} ways to ask: write one of exec, httpGet, tcpSocket"),
        );
        return None;
    }
    if let Some(item) = fields.get("exec") {
        return read_command(&item).map(ProbeAction::Exec);
    }
    if let Some(item) = fields.get("httpGet") {
        return read_http(&item, ports).map(ProbeAction::Http);
    }
    let fields = fields.get("tcpSocket")?.object(&schema::TCP_SOCKET)?;
    let host = read_host(&fields);
    let port = read_port(&fields, ports)?;
    Some(ProbeAction::Tcp { host, port })
}

fn read_http(item: &Item<'_>, ports: &[Port]) -> Option<HttpGet> {
    let fields = item.object(&schema::HTTP_GET)?;
    let tls = fields
        .get("scheme")
        .and_then(|item| item.one_of(&[("HTTP", false), ("HTTPS", true)]));
    let path = fields.get("path").and_then(|item| {
        let text = item.text()?;
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            item.bad("has a space in it: write %20");
            return None;
        }
        Some(text)
    });
    let path = path.unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let headers = fields.get("httpHeaders").and_then(|item| item.list());
    let headers = headers.unwrap_or_default();
    let headers = headers.iter().filter_map(read_header).collect();
    let host = read_host(&fields);
    Some(HttpGet {
        tls: tls.unwrap_or(false),
        host,
        port: read_port(&fields, ports)?,
        path: format!("{slash}{path}"),
        headers,
    })
}

fn read_host(fields: &Fields<'_>) -> Option<String> {
    let item = fields.get("host")?;
    let text = item.text().filter(|text| !text.is_empty())?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        item.bad(format!("{:?} is no host", shorten(text)));
        return None;
    }
    Some(text.to_owned())
}

fn read_header(item: &Item<'_>) -> Option<(String, String)> {
    let fields = item.object(&schema::HTTP_HEADER)?;
    let name = fields.need("name", "a header has a name");
    let value = fields.need("value", "write the header's value")?;
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let item = name?;
    let name = item.text()?;
    if name.is_empty() || !name.chars().all(token) {
        item.bad(format!("{:?} is no header's name", shorten(name)));
        return None;
    }
    let text = value.text()?;
    if text.contains(|c: char| c.is_control() && c != '\t') {
        value.bad("has a control character in it");
        return None;
    }
    Some((name.to_owned(), text.to_owned()))
}

/// A port by number, or by the name that the container's `ports` give it.
fn read_port(fields: &Fields<'_>, ports: &[Port]) -> Option<u16> {
    let item = fields.need(
        "port",
        "write a number, or the name of one of the container's ports",
    )?;
    let Value::Scalar(Scalar::Text(name)) = &item.node.value else {
        return item
            .number(1..=65_535)
            .and_then(|port| u16::try_from(port).ok());
    };
    let found = ports.iter().find(|port| port.name.as_ref() == Some(name));
    if let Some(port) = found {
        return Some(port.number);
    }
    let known = ports.iter().filter_map(|port| port.name.as_deref());
    let hint = match item.report().similar(name, known) {
        Some(similar) => format!("; is it {similar}?"),
        None if name.parse::<u16>().is_ok() => ": write the number without quotes".into(),
        None => String::new(),
    };
    item.error(
        Code::Reference,
        format!("the container has no port {:?}{hint}", shorten(name)),
    );
    None
}
