//! Ports on the command line: those that `run` publishes, and those that `port-forward` forwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sandbox::forward::PortPlan;

use super::Root;

const PUBLISH: &str =
    "write HOST:CONTAINER, IP:HOST:CONTAINER, or CONTAINER alone for a free port of the host";

/// `[[IP:][HOST]:]CONTAINER[/tcp]`, as other engines have it.
pub fn publish(text: &str) -> Result<PortPlan, String> {
    let ports = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => text.strip_suffix("/tcp").unwrap_or(text),
        Some((_, protocol @ ("udp" | "sctp"))) => {
            return Err(format!(
                "{protocol} ports are not published, only those of TCP; with --net cni the pod has an address of its own that takes {protocol}"
            ));
        }
        Some((_, protocol)) => return Err(format!("`{protocol}` is no protocol; leave it out")),
    };
    let (hosts, pod) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, host) = match hosts.rsplit_once(':') {
        Some((address, host)) => (Some(ip(address)?), host),
        None => (None, hosts),
    };
    Ok(PortPlan {
        address,
        host: if host.is_empty() {
            0
        } else {
            port(host, PUBLISH)?
        },
        pod: port(pod, PUBLISH)?,
    })
}

fn ip(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let parsed = match bare {
        Some(text) => text.parse().map(|address: Ipv6Addr| address.into()),
        None => text.parse().map(|address: Ipv4Addr| address.into()),
    };
    parsed
        .map_err(|_| format!("`{text}` is no address of this host; write it as 127.0.0.1 or [::1]"))
}

fn port(text: &str, how: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ if text.contains('-') => Err(format!(
            "`{text}`: ranges of ports are not published; name each port"
        )),
        _ => Err(format!("`{text}` is no port of 1 to 65535; {how}")),
    }
}

const FORWARD_EXAMPLES: &str = "\
Examples:
  podvmm port-forward web 8080:80         this host's 127.0.0.1:8080 leads to the pod's port 80
  podvmm port-forward web 8080            the same port at both ends
  podvmm port-forward web :80             a free port of this host, which is printed
  podvmm port-forward --address 0.0.0.0 web 8080:80     from other hosts, too

It takes TCP connections until Ctrl-C, and ends when the pod does. The pod's server has to listen on its \
localhost or on all addresses. For a port that stays as long as the pod does: run --publish.";

/// Forwards ports.
#[derive(Debug, clap::Args)]
#[command(after_help = FORWARD_EXAMPLES)]
pub struct PortForward {
    #[command(flatten)]
    pub root: Root,
    /// Addresses of this host to listen at, with commas between them: localhost, or IP addresses
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_delimiter = ',', value_parser = address)]
    pub address: Vec<Address>,
    /// The pod
    #[arg(value_name = "POD", value_parser = pod)]
    pub pod: String,
    /// The port of this host and the pod's, or one for both, or :REMOTE for a free one of this host
    #[arg(required = true, value_name = "[LOCAL:]REMOTE", value_parser = Pair::parse)]
    pub ports: Vec<Pair>,
}

/// What to listen at: one address, or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(pub Vec<IpAddr>);

fn address(text: &str) -> Result<Address, String> {
    if text == "localhost" {
        return Ok(Address(vec![
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
        ]));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let parsed = bare.parse().map(|address| Address(vec![address]));
    parsed.map_err(|_| format!("`{text}` is no IP address; write 127.0.0.1, ::1 or localhost"))
}

/// Kinds of resources before the name are kubectl's habit.
fn pod(text: &str) -> Result<String, String> {
    let name = ["pod/", "pods/", "po/"]
        .iter()
        .find_map(|kind| text.strip_prefix(kind));
    let name = name.unwrap_or(text);
    if name.is_empty() || name.contains('/') {
        return Err(format!("`{text}` is no pod; write its name"));
    }
    Ok(name.to_owned())
}

/// A port here, and one in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// 0 for one that is free.
    pub local: u16,
    pub remote: u16,
}

impl Pair {
    fn parse(text: &str) -> Result<Self, String> {
        const HOW: &str = "write REMOTE, LOCAL:REMOTE or :REMOTE";
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        Ok(Self {
            local: match local {
                "" | "0" => 0,
                local => port(local, HOW)?,
            },
            remote: port(remote, HOW)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_are_written_as_for_other_engines() {
        let plan = |address: Option<&str>, host, pod| PortPlan {
            address: address.map(|address| address.parse().unwrap()),
            host,
            pod,
        };
        for (text, expected) in [
            ("8080:80", plan(None, 8080, 80)),
            ("8080:80/tcp", plan(None, 8080, 80)),
            ("127.0.0.1:8080:80", plan(Some("127.0.0.1"), 8080, 80)),
            ("[::1]:8080:80", plan(Some("::1"), 8080, 80)),
            ("[::]::80", plan(Some("::"), 0, 80)),
            ("127.0.0.1::80", plan(Some("127.0.0.1"), 0, 80)),
            ("80", plan(None, 0, 80)),
        ] {
            assert_eq!(publish(text), Ok(expected), "{text}");
        }
        for (text, word) in [
            ("", "no port"),
            ("8080:", "no port"),
            ("0:80", "`0`"),
            ("8080:65536", "65536"),
            ("8080:80/udp", "udp ports are not published"),
            ("8080:80/sctp", "sctp"),
            ("8080:80/http", "no protocol"),
            ("localhost:8080:80", "no address"),
            ("::1:8080:80", "no address"),
            ("[127.0.0.1]:1:2", "no address"),
            ("8000-8010:80", "ranges"),
        ] {
            let error = publish(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn forwarded_ports_are_written_as_for_kubectl() {
        for (text, local, remote) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            (":80", 0, 80),
            ("0:80", 0, 80),
        ] {
            assert_eq!(Pair::parse(text), Ok(Pair { local, remote }), "{text}");
        }
        for text in ["", "x", ":", "80:", "0", "1:2:3", "70000", "-1"] {
            assert!(Pair::parse(text).is_err(), "{text}");
        }
        assert_eq!(pod("pod/web"), Ok("web".into()));
        assert!(pod("svc/web").is_err() && pod("pod/").is_err());
        assert_eq!(address("localhost").unwrap().0.len(), 2);
        assert_eq!(address("[::1]"), address("::1"));
        assert!(address("example.org").is_err());
    }
}
