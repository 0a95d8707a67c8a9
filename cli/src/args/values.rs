//! Values of options: what a text has to look like, and what it becomes.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use sandbox::monitor::Restart;
use sandbox::{Rate, RateLimit, User};
use vmm::VcpuCount;

/// A block device of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub source: PathBuf,
    pub path: String,
    pub read_only: bool,
}

impl Device {
    /// As docker and podman read it: what is behind a single colon is permissions if it can be.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write HOST, HOST:CONTAINER or HOST:CONTAINER:PERMISSIONS";
        let is_permissions = |part: &str| !part.is_empty() && !part.starts_with('/');
        let parts: Vec<_> = text.split(':').collect();
        let (source, path, permissions) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, permissions] if is_permissions(permissions) => (source, source, permissions),
            [source, path] => (source, path, "rwm"),
            [source, path, permissions] => (source, path, permissions),
            _ => return Err(FORM.into()),
        };
        if source.is_empty() {
            return Err(format!("HOST is empty; {FORM}"));
        }
        if permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(format!(
                "`{permissions}` are no permissions; write r, rw or rwm"
            ));
        }
        if !permissions.contains('r') {
            return Err(format!(
                "`{permissions}`: a disk can always be read; write r, rw or rwm"
            ));
        }
        let path = absolute(path).map_err(|error| {
            format!("{error}; name the one inside as well, as in HOST:/dev/xvda")
        })?;
        Ok(Self {
            source: source.into(),
            path,
            read_only: !permissions.contains('w'),
        })
    }
}

/// A shared file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub source: PathBuf,
    pub destination: String,
    pub read_only: bool,
}

impl Volume {
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(':').collect();
        let (source, destination, read_only) = match parts[..] {
            [source, destination] | [source, destination, "rw"] => (source, destination, false),
            [source, destination, "ro"] => (source, destination, true),
            [_, _, mode] => return Err(format!("`{mode}` is no mode; write ro or rw")),
            _ => return Err("write SRC:DST or SRC:DST:ro".into()),
        };
        if source.is_empty() {
            return Err("SRC is empty; write SRC:DST or SRC:DST:ro".into());
        }
        let destination = absolute(destination)?;
        Ok(Self {
            source: source.into(),
            destination,
            read_only,
        })
    }
}

/// A pod's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// `lo` and nothing else.
    None,
    /// The interfaces of a network namespace.
    Netns(PathBuf),
    /// What CNI plugins make: by the first configuration, or the one of this name.
    Cni(Option<String>),
}

impl Net {
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(("cni", name)) = text.split_once('=')
            && !name.is_empty()
        {
            return Ok(Self::Cni(Some(name.to_owned())));
        }
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "cni" => Ok(Self::Cni(None)),
            Some(("netns", path)) if !path.is_empty() => Ok(Self::Netns(path.into())),
            _ => Err(format!(
                "`{text}` is no network; write none, cni, cni=NAME, or netns:PATH such as netns:/run/netns/NAME"
            )),
        }
    }
}

/// A variable for the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable(pub Option<String>);

pub fn variable(text: &str) -> Result<Variable, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err("a variable needs a name; write NAME=VALUE".into());
    }
    if text.contains('=') {
        return Ok(Variable(Some(text.to_owned())));
    }
    Ok(Variable(
        std::env::var(text)
            .ok()
            .map(|value| format!("{text}={value}")),
    ))
}

pub fn restart(text: &str) -> Result<Restart, String> {
    match text {
        "no" | "never" => Ok(Restart::Never),
        "on-failure" => Ok(Restart::OnFailure),
        "always" => Ok(Restart::Always),
        _ => Err(format!(
            "`{text}` is no policy; write no, on-failure or always"
        )),
    }
}

pub fn vcpus(text: &str) -> Result<VcpuCount, String> {
    let count = text
        .parse()
        .map_err(|_| format!("`{text}` is no whole number of CPUs"))?;
    VcpuCount::new(count).map_err(|error| error.to_string())
}

/// `BYTES`, `BYTES,REQUESTS` or `,REQUESTS` in a second; nothing is no limit.
pub fn rate_limit(text: &str) -> Result<RateLimit, String> {
    let (bytes, requests) = text.split_once(',').unwrap_or((text, ""));
    let rate = |amount: &str, read: fn(&str) -> Result<u64, String>| match amount {
        "" => Ok(None),
        amount => match NonZeroU64::new(read(amount)?) {
            Some(amount) => Ok(Some(Rate::per_second(amount))),
            None => Err("0 lets nothing pass; leave it out for no limit".to_owned()),
        },
    };
    let count = |text: &str| {
        let count = text.parse();
        count.map_err(|_| format!("`{text}` is no whole number of requests"))
    };
    Ok(RateLimit {
        bytes: rate(bytes, sandbox::config::parse_bytes)?,
        requests: rate(requests, count)?,
    })
}

pub fn absolute(path: &str) -> Result<String, String> {
    if path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Err(format!(
            "`{path}` is not absolute; it is a path in the container and starts with /"
        ))
    }
}

pub fn user(text: &str) -> Result<User, String> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| format!("`{text}` is no number; users and groups are given by id"))
    };
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (number(uid)?, number(gid)?),
        None => (number(text)?, 0),
    };
    Ok(User { uid, gid })
}

pub fn user_or_name(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split(':').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        return Err(format!("`{text}` is neither USER nor USER:GROUP"));
    }
    Ok(text.to_owned())
}

pub fn hostname(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let ends = text.starts_with(['-', '.']) || text.ends_with(['-', '.']);
    if text.is_empty() || text.len() > 63 || ends || !text.chars().all(allowed) {
        return Err(format!(
            "`{text}` is no host name of 1 to 63 letters, digits, `-` and `.`"
        ));
    }
    Ok(text.to_owned())
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is no duration; write 500ms, 30s, 5m or 1h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(wrong()),
    };
    match millis {
        Some(0) => Err("0 leaves no time; leave --timeout out for no limit".into()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(wrong()),
    }
}
