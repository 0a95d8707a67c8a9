//! Whom a pod asks for names: its `/etc/resolv.conf`.
//!
//! ```text
//!   the network's, if plugins name some ─┐
//!   else the host's, but for loopback ───┴─ base ─┬─▶ resolv.conf
//!   what the pod's own plan adds ─────────────────┘
//! ```

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The host's files. Where a resolver of the host itself stands in the first, systemd has the ones that it
/// asks in the second.
const OF_HOST: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Resolvers ask no more of them.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// Name servers, and how they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolvers {
    /// Servers, the first before all.
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked up.
    pub searches: Vec<String>,
    /// Options as `NAME` or `NAME:VALUE`.
    pub options: Vec<String>,
}

/// Whom a pod asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsPlan {
    /// Whether the network's are the base, or else the host's; otherwise nothing is.
    pub of_surroundings: bool,
    /// What comes after the base; options take the place of the base's of the same name.
    pub own: Resolvers,
}

impl Resolvers {
    /// Those of a resolv.conf. Servers on loopback addresses are left out: nothing answers there in a guest.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().and_then(server)),
                // The last one counts.
                Some("search" | "domain") => found.searches = words.map(str::to_owned).collect(),
                Some("options") => found.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }

    /// Those of the host.
    #[must_use]
    pub fn of_host() -> Self {
        Self::of_files(&OF_HOST.map(Path::new))
    }

    /// Those of the first file that names a server, or else of the first.
    fn of_files(paths: &[&Path]) -> Self {
        let read = |path: &&Path| Self::parse(&std::fs::read_to_string(path).unwrap_or_default());
        let mut all = paths.iter().map(read);
        let first = all.next().unwrap_or_default();
        if first.servers.is_empty() {
            let other = all.find(|resolvers| !resolvers.servers.is_empty());
            return other.unwrap_or(first);
        }
        first
    }

    /// Those of the result of a CNI plugin (CNI specification 1.0.0, §5, `dns`), if it names servers.
    #[must_use]
    pub fn of_cni(result: &Value) -> Option<Self> {
        let words = |name: &str| {
            let list = result["dns"][name].as_array();
            let words = list.into_iter().flatten().filter_map(Value::as_str);
            words.filter(|word| is_word(word)).map(str::to_owned)
        };
        let mut found = Self {
            servers: words("nameservers")
                .filter_map(|word| server(&word))
                .collect(),
            searches: words("search").collect(),
            options: words("options").collect(),
        };
        if found.searches.is_empty() {
            let domain = result["dns"]["domain"].as_str();
            let domain = domain.filter(|domain| is_word(domain));
            found.searches.extend(domain.map(str::to_owned));
        }
        (!found.servers.is_empty()).then_some(found)
    }

    fn add(&mut self, other: &Self) {
        self.servers.extend(&other.servers);
        self.searches.extend(other.searches.iter().cloned());
        for option in &other.options {
            self.options.retain(|known| name(known) != name(option));
            self.options.push(option.clone());
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let searches = unique(&self.searches, MAX_SEARCHES);
        if !searches.is_empty() {
            let _ = writeln!(text, "search {}", searches.join(" "));
        }
        for server in unique(&self.servers, MAX_SERVERS) {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

impl DnsPlan {
    /// Content of the pod's resolv.conf.
    pub(crate) fn resolv_conf(
        &self,
        of_network: Option<Resolvers>,
        of_host: impl FnOnce() -> Resolvers,
    ) -> String {
        let mut all = match self.of_surroundings {
            true => of_network.unwrap_or_else(of_host),
            false => Resolvers::default(),
        };
        all.add(&self.own);
        all.to_text()
    }
}

fn server(word: &str) -> Option<IpAddr> {
    let ip: Option<IpAddr> = word.parse().ok();
    ip.filter(|ip| !ip.is_loopback())
}

/// Whether it stays what it is on a line of the file.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

fn name(option: &str) -> &str {
    option.split(':').next().unwrap_or(option)
}

fn unique<T: PartialEq + Clone>(all: &[T], limit: usize) -> Vec<T> {
    let mut kept = Vec::new();
    for one in all {
        if kept.len() < limit && !kept.contains(one) {
            kept.push(one.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: &str = "\
# comment
domain old
search lan example.com
nameserver 127.0.0.53
nameserver 10.0.0.1
nameserver fd00::1%eth0
options edns0 ndots:1 trust-ad
";

    fn plan(of_surroundings: bool) -> DnsPlan {
        DnsPlan {
            of_surroundings,
            ..DnsPlan::default()
        }
    }

    fn host() -> Resolvers {
        Resolvers::parse(HOST)
    }

    #[test]
    fn the_hosts_resolvers_are_the_base() {
        assert_eq!(
            plan(true).resolv_conf(None, host),
            "search lan example.com\nnameserver 10.0.0.1\noptions edns0 ndots:1 trust-ad\n"
        );
        assert_eq!(plan(false).resolv_conf(None, host), "");
    }

    #[test]
    fn a_pod_adds_and_replaces() {
        let ip = |text: &str| text.parse().unwrap();
        let dns = DnsPlan {
            of_surroundings: true,
            own: Resolvers {
                servers: vec![ip("10.0.0.1"), ip("10.0.0.2"), ip("::2"), ip("::3")],
                searches: vec!["lan".into(), "pod".into()],
                options: vec!["ndots:5".into(), "rotate".into()],
            },
        };
        assert_eq!(
            dns.resolv_conf(None, host),
            "search lan example.com pod\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver ::2\n\
             options edns0 trust-ad ndots:5 rotate\n"
        );
    }

    #[test]
    fn a_networks_resolvers_come_before_the_hosts() {
        let result = json!({ "dns": {
            "nameservers": ["127.0.0.1", "10.1.0.53", "nonsense"],
            "domain": "pods.example",
            "search": ["a.example", "b.example\nnameserver 6.6.6.6"],
            "options": ["ndots:3"],
        } });
        let found = Resolvers::of_cni(&result);
        let text = "search a.example\nnameserver 10.1.0.53\noptions ndots:3\n";
        assert_eq!(plan(true).resolv_conf(found.clone(), host), text);
        assert_eq!(plan(false).resolv_conf(found, host), "");
        let domain = json!({ "dns": { "nameservers": ["10.1.0.53"], "domain": "pods.example" } });
        let found = Resolvers::of_cni(&domain).unwrap();
        assert_eq!(found.searches, ["pods.example"]);
        // Without servers it says nothing that would be of use with the host's.
        for result in [
            json!({}),
            json!({ "dns": {} }),
            json!({ "dns": { "nameservers": ["127.0.0.1"], "search": ["a.example"] } }),
        ] {
            assert_eq!(Resolvers::of_cni(&result), None, "{result}");
        }
    }

    #[test]
    fn a_host_that_asks_itself_has_others_behind_it() {
        let dir = std::env::temp_dir().join(format!("podvmm-resolvers-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let [etc, systemd] = ["etc", "systemd"].map(|name| dir.join(name));
        let of = || Resolvers::of_files(&[&etc, &systemd]).to_text();
        assert_eq!(of(), "");
        std::fs::write(&etc, "search stub\nnameserver 127.0.0.53\n").unwrap();
        assert_eq!(of(), "search stub\n");
        std::fs::write(&systemd, "nameserver ::1\n").unwrap();
        assert_eq!(of(), "search stub\n");
        std::fs::write(&systemd, "search lan\nnameserver 192.0.2.53\n").unwrap();
        assert_eq!(of(), "search lan\nnameserver 192.0.2.53\n");
        std::fs::write(&etc, "nameserver 127.0.0.1\nnameserver 192.0.2.1\n").unwrap();
        assert_eq!(of(), "nameserver 192.0.2.1\n");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
