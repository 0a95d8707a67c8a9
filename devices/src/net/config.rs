//! What a network device is made of: settings as they come in, and types that cannot be wrong.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::spec::{ETHERNET_HEADER, VLAN_TAG};
use crate::rate::RateLimit;

/// Settings that are not what the device needs.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidNetConfig {
    /// Not six bytes in hexadecimal, apart by colons.
    #[error("`{0}` is no MAC address; write it as 02:00:5e:00:53:01")]
    MacSyntax(String),
    /// All zeros, or the address of a group.
    #[error("MAC address {0} cannot be an interface's: it is zero or a group's")]
    MacKind(String),
    /// Out of range.
    #[error("MTU {0}: an interface has one of {min} to {max} bytes", min = Mtu::MIN, max = Mtu::MAX)]
    Mtu(u32),
}

/// An address that an interface can have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Its six bytes.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<[u8; 6]> for MacAddress {
    type Error = InvalidNetConfig;

    fn try_from(octets: [u8; 6]) -> Result<Self, InvalidNetConfig> {
        let mac = Self(octets);
        if octets == [0; 6] || octets[0] & 1 != 0 {
            return Err(InvalidNetConfig::MacKind(mac.to_string()));
        }
        Ok(mac)
    }
}

impl FromStr for MacAddress {
    type Err = InvalidNetConfig;

    fn from_str(text: &str) -> Result<Self, InvalidNetConfig> {
        let wrong = || InvalidNetConfig::MacSyntax(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Self::try_from(octets)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidNetConfig;

    fn try_from(text: String) -> Result<Self, InvalidNetConfig> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Largest packet of an interface in bytes, without the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u16);

impl Mtu {
    /// What IPv4 needs (virtio-v1.2 §5.1.4.1).
    pub const MIN: u32 = 68;
    /// What its field holds.
    pub const MAX: u32 = u16::MAX as u32;
    /// Ethernet's.
    pub const ETHERNET: Self = Self(1500);

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// The longest frame that holds such a packet.
    pub(super) fn frame(self) -> usize {
        usize::from(self.0) + ETHERNET_HEADER + VLAN_TAG
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidNetConfig;

    fn try_from(mtu: u32) -> Result<Self, InvalidNetConfig> {
        match u16::try_from(mtu) {
            Ok(narrow) if mtu >= Self::MIN => Ok(Self(narrow)),
            _ => Err(InvalidNetConfig::Mtu(mtu)),
        }
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        mtu.0.into()
    }
}

/// Everything that a network device is made of, besides its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// The guest's address.
    pub mac: MacAddress,
    /// The guest's MTU; longer frames of the guest are dropped.
    pub mtu: Mtu,
    /// What the guest may receive. A large segment is one request.
    #[serde(default)]
    pub rx_limit: RateLimit,
    /// What the guest may send.
    #[serde(default)]
    pub tx_limit: RateLimit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_as_people_do() {
        let mac: MacAddress = "02:00:5E:00:53:af".parse().unwrap();
        assert_eq!(mac.octets(), [2, 0, 0x5e, 0, 0x53, 0xaf]);
        assert_eq!(mac.to_string(), "02:00:5e:00:53:af");
        for text in [
            "",
            "02:00:5e:00:53",
            "02:00:5e:00:53:01:02",
            "2:0:5e:0:53:1",
            "02-00-5e-00-53-01",
            "+2:00:5e:00:53:01",
            "02:00:5e:00:53:0g",
        ] {
            let expected = InvalidNetConfig::MacSyntax(text.to_owned());
            assert_eq!(text.parse::<MacAddress>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn addresses_that_no_interface_has_are_refused() {
        for octets in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let refused = MacAddress::try_from(octets);
            assert!(matches!(refused, Err(InvalidNetConfig::MacKind(_))));
        }
    }

    #[test]
    fn mtus_are_what_the_configuration_space_allows() {
        for mtu in [68, 1500, 65535] {
            assert_eq!(Mtu::try_from(mtu).map(u32::from), Ok(mtu));
        }
        for mtu in [0, 67, 65536] {
            assert_eq!(Mtu::try_from(mtu), Err(InvalidNetConfig::Mtu(mtu)));
        }
    }

    #[test]
    fn settings_come_in_as_text_and_unknown_ones_are_refused() {
        let text = r#"{"mac": "02:00:00:00:00:01", "mtu": 1400,
                       "tx_limit": {"bytes": {"per_second": 1000000, "burst": 100000}}}"#;
        let config: NetConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.mtu.get(), 1400);
        assert_eq!(config.rx_limit, RateLimit::default());
        assert!(config.tx_limit.bytes.is_some());
        for bad in [
            text.replace("mtu", "mtv"),
            text.replace("1400", "14"),
            text.replace("02:", "03:"),
            text.replace("1000000", "0"),
        ] {
            assert!(serde_json::from_str::<NetConfig>(&bad).is_err(), "{bad}");
        }
    }
}
