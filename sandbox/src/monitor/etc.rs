//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod: what makes names known in it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::net::resolvers::DnsPlan;

/// What every pod knows.
const LOCAL: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// The names in `/etc` of the files that a node makes for a pod.
pub const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Files that a node makes for a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcPlan {
    /// Further lines of `/etc/hosts`.
    pub hosts: String,
    /// The pod's own names in there, separated by tabs.
    pub names: String,
    /// `/etc/hostname`.
    pub hostname: String,
    /// `/etc/resolv.conf`.
    pub dns: DnsPlan,
}

impl EtcPlan {
    /// The files of a pod that is called `hostname`, and asks whom its network or the host asks.
    #[must_use]
    pub fn of_host(hostname: &str) -> Self {
        let names = match hostname.split_once('.') {
            Some((short, _)) => format!("{hostname}\t{short}"),
            None => hostname.to_owned(),
        };
        Self {
            hosts: String::new(),
            names,
            hostname: hostname.to_owned(),
            dns: DnsPlan {
                of_surroundings: true,
                ..DnsPlan::default()
            },
        }
    }

    pub(super) fn hosts_of(&self, addresses: &[IpAddr]) -> String {
        let own = addresses.iter().map(|ip| format!("{ip}\t{}\n", self.names));
        format!("{LOCAL}{}{}", self.hosts, own.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_in_its_own_hosts() {
        let etc = EtcPlan {
            hosts: "10.1.2.3\talias\n".into(),
            names: "web.sub\tweb".into(),
            ..EtcPlan::default()
        };
        let addresses = ["10.88.0.5", "fd00::5"].map(|ip| ip.parse().unwrap());
        let hosts = etc.hosts_of(&addresses);
        let own = "10.1.2.3\talias\n10.88.0.5\tweb.sub\tweb\nfd00::5\tweb.sub\tweb\n";
        assert_eq!(hosts.strip_prefix(LOCAL), Some(own));
    }

    #[test]
    fn a_host_name_is_known_with_and_without_its_domain() {
        assert_eq!(EtcPlan::of_host("web").names, "web");
        assert_eq!(EtcPlan::of_host("web.lan").names, "web.lan\tweb");
    }
}
