//! A pod's addresses in what its containers are told.
//!
//! Whoever plans a pod does not know them yet: a network gives them when the pod starts. A plan has a random
//! text in their place, which nothing else in it can contain, and the monitor fills them in.
//!
//! ```text
//!   plan: "IP=podIP-5f0c..." ── Pod::addresses ──▶ container: "IP=10.223.0.5"
//! ```

use std::io;
use std::net::IpAddr;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::ContainerPlan;

/// What is filled in: arguments, variables, and the options of mounts, which name parts of volumes.
const FILLED: [&str; 3] = ["/process/args", "/process/env", "/mounts"];

/// Texts that stand for a pod's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressTokens {
    /// For the first one.
    pub first: String,
    /// For all of them, with commas between.
    pub all: String,
}

impl AddressTokens {
    /// Texts that nobody can guess.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0_u8; 16];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            first: format!("podIP-{hex}"),
            all: format!("podIPs-{hex}"),
        })
    }

    /// Puts addresses in their places.
    pub(super) fn fill_in(&self, plan: &mut ContainerPlan, addresses: &[IpAddr]) {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let first = texts.first().map_or("", String::as_str);
        let all = texts.join(",");
        for part in FILLED {
            if let Some(part) = plan.spec.pointer_mut(part) {
                each_text(part, &mut |text| {
                    if text.contains(&self.first) || text.contains(&self.all) {
                        *text = text.replace(&self.first, first).replace(&self.all, &all);
                    }
                });
            }
        }
    }
}

fn each_text(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(values) => {
            for value in values {
                each_text(value, change);
            }
        }
        Value::Object(fields) => {
            for (_, value) in fields {
                each_text(value, change);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What a pod or a machine with these addresses is known by: one without a network is known to itself all
/// the same, and an address of a link means nothing without the name of an interface.
#[must_use]
pub fn known(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let is_of_a_link = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut known = addresses.to_vec();
    known.retain(|ip| !is_of_a_link(ip));
    if known.is_empty() {
        known.push(IpAddr::from([127, 0, 0, 1]));
    }
    known
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oci::ContainerConfig;

    #[test]
    fn addresses_take_the_places_that_were_kept_for_them() {
        let tokens = AddressTokens::random().unwrap();
        assert_ne!(tokens, AddressTokens::random().unwrap());
        let AddressTokens { first, all } = &tokens;
        let command = [
            "serve",
            &format!("--on={first}:80"),
            &format!("{all}{first}"),
        ];
        let mut config = ContainerConfig::command(command);
        config.env = vec![format!("IPS={all}"), "A=podIP-".into()];
        let mut plan = ContainerPlan::new(&config);
        plan.spec["mounts"] = json!([{ "options": [format!("X-mount.subdir=of/{first}")] }]);
        let addresses = ["10.0.0.5", "fd00::5"].map(|ip| ip.parse().unwrap());
        tokens.fill_in(&mut plan, &addresses);
        let args = ["serve", "--on=10.0.0.5:80", "10.0.0.5,fd00::510.0.0.5"];
        assert_eq!(plan.command(), args);
        let env = plan.spec["process"]["env"].as_array().unwrap();
        assert!(env.contains(&json!("IPS=10.0.0.5,fd00::5")), "{env:?}");
        assert!(env.contains(&json!("A=podIP-")), "{env:?}");
        let part = &plan.spec["mounts"][0]["options"][0];
        assert_eq!(part, "X-mount.subdir=of/10.0.0.5");
    }

    #[test]
    fn what_a_pod_is_known_by() {
        let parse =
            |ips: &[&str]| -> Vec<IpAddr> { ips.iter().map(|ip| ip.parse().unwrap()).collect() };
        for (all, by) in [
            (
                &["10.88.0.5", "fe80::1", "fd00::5"][..],
                &["10.88.0.5", "fd00::5"][..],
            ),
            (&[], &["127.0.0.1"]),
            (&["fe80::1"], &["127.0.0.1"]),
        ] {
            assert_eq!(known(&parse(all)), parse(by));
        }
    }
}
