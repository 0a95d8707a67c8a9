//! Contents of /etc/hosts and /etc/resolv.conf.

use std::fmt::Write;
use std::net::IpAddr;

use crate::pod::{Dns, Pod};

/// Resolvers ask no more of them.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

const LOCAL: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// Content of /etc/hosts, but for the lines of the pod's own addresses, which may not be known yet.
#[must_use]
pub fn hosts(pod: &Pod) -> String {
    let mut text = LOCAL.to_owned();
    for alias in pod
        .host_aliases
        .iter()
        .filter(|alias| !alias.names.is_empty())
    {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.names.join("\t"));
    }
    text
}

/// What those lines call the pod. With a subdomain it has the name that it would have in a cluster, too.
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

/// Content of /etc/resolv.conf: the host's, as far as the policy takes it, and what the pod adds.
///
/// Servers on the host's loopback addresses are left out: nothing answers there in a guest.
#[must_use]
pub fn resolv_conf(dns: &Dns, host: &str) -> String {
    let mut servers = Vec::<IpAddr>::new();
    let mut searches = Vec::<String>::new();
    let mut options = Vec::<(String, Option<String>)>::new();
    if dns.of_host {
        for line in host.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.parse().ok());
                    servers.extend(server.filter(|ip: &IpAddr| !ip.is_loopback()));
                }
                // The last one counts.
                Some("search" | "domain") => searches = words.map(str::to_owned).collect(),
                Some("options") => options.extend(words.map(option)),
                _ => {}
            }
        }
    }
    servers.extend(&dns.nameservers);
    searches.extend(dns.searches.iter().cloned());
    for (name, value) in &dns.options {
        options.retain(|(known, _)| known != name);
        options.push((name.clone(), value.clone()));
    }
    let mut text = String::new();
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", unique(searches, MAX_SEARCHES).join(" "));
    }
    for server in unique(servers, MAX_NAMESERVERS) {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let words = options.into_iter().map(|(name, value)| match value {
            Some(value) => format!("{name}:{value}"),
            None => name,
        });
        let _ = writeln!(text, "options {}", words.collect::<Vec<_>>().join(" "));
    }
    text
}

fn option(word: &str) -> (String, Option<String>) {
    match word.split_once(':') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (word.to_owned(), None),
    }
}

fn unique<T: PartialEq>(all: Vec<T>, limit: usize) -> Vec<T> {
    let mut kept = Vec::new();
    for one in all {
        if kept.len() < limit && !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_hosts_resolvers_are_the_base() {
        let of_host = |of_host| Dns {
            of_host,
            ..Dns::default()
        };
        assert_eq!(
            resolv_conf(&of_host(true), HOST),
            "search lan example.com\nnameserver 10.0.0.1\noptions edns0 ndots:1 trust-ad\n"
        );
        assert_eq!(resolv_conf(&of_host(false), HOST), "");
    }

    #[test]
    fn a_pod_adds_and_replaces() {
        let ip = |text: &str| text.parse().unwrap();
        let dns = Dns {
            of_host: true,
            nameservers: vec![ip("10.0.0.1"), ip("10.0.0.2"), ip("::2"), ip("::3")],
            searches: vec!["lan".into(), "pod".into()],
            options: vec![("ndots".into(), Some("5".into())), ("rotate".into(), None)],
        };
        assert_eq!(
            resolv_conf(&dns, HOST),
            "search lan example.com pod\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver ::2\n\
             options edns0 trust-ad ndots:5 rotate\n"
        );
    }
}
