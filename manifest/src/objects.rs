//! ConfigMaps and Secrets: data from files, or from further documents of the manifest.

use std::collections::BTreeMap;

use crate::names;
use crate::pod::{ObjectKind, ObjectRef};
use crate::problem::Code;
use crate::reader::{Fields, Item};
use crate::schema;

/// Most bytes of one object, as in Kubernetes.
pub const MAX_OBJECT: usize = 1 << 20;

/// The data of one object.
pub type Data = BTreeMap<String, Vec<u8>>;

/// All that a pod may name.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, Data>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Data>,
}

impl ObjectKind {
    /// What Kubernetes calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::ConfigMap => "--configmap",
            Self::Secret => "--secret",
        }
    }
}

impl Objects {
    /// The data that a reference leads to.
    #[must_use]
    pub fn get(&self, object: &ObjectRef) -> Option<&Data> {
        self.of(object.kind).get(&object.name)
    }

    fn of(&self, kind: ObjectKind) -> &BTreeMap<String, Data> {
        match kind {
            ObjectKind::ConfigMap => &self.config_maps,
            ObjectKind::Secret => &self.secrets,
        }
    }

    /// Tells of a reference, at `item`, that leads nowhere.
    pub(crate) fn check(&self, item: &Item<'_>, object: &ObjectRef, key: Option<&str>) {
        let (kind, name) = (object.kind.name(), &object.name);
        match (self.get(object), key) {
            _ if object.optional => {}
            (None, _) => item.error(
                Code::Reference,
                format!(
                    "{kind} {name} is not there: add it to the file as a further document, or pass {} {name}=PATH",
                    object.kind.option()
                ),
            ),
            (Some(data), Some(key)) if !data.contains_key(key) => {
                let hint = match item.report().similar(key, data.keys().map(String::as_str)) {
                    Some(similar) => format!("; is it {similar}?"),
                    None => String::new(),
                };
                item.error(Code::Reference, format!("{kind} {name} has no key {key}{hint}"));
            }
            (Some(_), _) => {}
        }
    }

    /// Takes a document of one of the two kinds.
    pub(crate) fn read(&mut self, root: &Item<'_>, kind: ObjectKind) {
        let schema = match kind {
            ObjectKind::ConfigMap => &schema::CONFIG_MAP,
            ObjectKind::Secret => &schema::SECRET,
        };
        let Some(fields) = root.object(schema) else {
            return;
        };
        let (_, _) = (fields.get("apiVersion"), fields.get("kind"));
        let data = match kind {
            ObjectKind::ConfigMap => read_data(&fields, "data", "binaryData"),
            ObjectKind::Secret => read_data(&fields, "stringData", "data"),
        };
        let Some(name) = read_name(&fields) else {
            return;
        };
        let size: usize = data.values().map(Vec::len).sum();
        if size > MAX_OBJECT {
            let message = format!("has {size} bytes of data, at most {MAX_OBJECT} are taken");
            root.error(Code::Limit, message);
        }
        let all = match kind {
            ObjectKind::ConfigMap => &mut self.config_maps,
            ObjectKind::Secret => &mut self.secrets,
        };
        if all.insert(name.clone(), data).is_some() {
            let message = format!(
                "{} {name} is given twice: remove one of the two",
                kind.name()
            );
            root.error(Code::Duplicate, message);
        }
    }
}

fn read_name(fields: &Fields<'_>) -> Option<String> {
    let metadata = fields.need("metadata", "write metadata.name")?;
    let metadata = metadata.object(&schema::METADATA)?;
    for unused in ["namespace", "labels", "annotations"] {
        metadata.get(unused);
    }
    let name = metadata.need("name", "the pod's references lead to it")?;
    name.named(names::subdomain).map(str::to_owned)
}

fn read_data(fields: &Fields<'_>, plain: &'static str, encoded: &'static str) -> Data {
    let mut data = Data::new();
    for (field, is_encoded) in [(encoded, true), (plain, false)] {
        let Some(item) = fields.get(field) else {
            continue;
        };
        for (entry, value) in item.map().unwrap_or_default() {
            item.check_key(entry, names::data_key);
            let Some(text) = value.text() else { continue };
            let bytes = match is_encoded {
                false => Some(text.as_bytes().to_vec()),
                true => base64(text),
            };
            match bytes {
                Some(bytes) => drop(data.insert(entry.key.clone(), bytes)),
                None => value.bad(format!(
                    "is not base64: encode it, or write it as it is below {plain}"
                )),
            }
        }
    }
    data
}

/// Standard base64 with padding; line breaks are skipped, as Kubernetes skips them.
fn base64(text: &str) -> Option<Vec<u8>> {
    let symbols: Vec<u8> = text
        .bytes()
        .filter(|byte| !b"\r\n".contains(byte))
        .collect();
    if !symbols.len().is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(symbols.len() / 4 * 3);
    let groups = symbols.len() / 4;
    for (index, group) in symbols.chunks_exact(4).enumerate() {
        let padding = group.iter().rev().take_while(|byte| **byte == b'=').count();
        if padding > 2 || (padding > 0 && index + 1 < groups) {
            return None;
        }
        let mut bits = 0_u32;
        for symbol in &group[..4 - padding] {
            bits = bits << 6 | sextet(*symbol)?;
        }
        bits <<= 6 * padding;
        let all = bits.to_be_bytes();
        // What the padding leaves over must be nothing.
        if all[4 - padding..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&all[1..4 - padding]);
    }
    Some(bytes)
}

fn sextet(symbol: u8) -> Option<u32> {
    let value = match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_or_refused() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("aGVsbG8=", Some(b"hello")),
            ("aGVs\nbG8h", Some(b"hello!")),
            ("/+8=", Some(&[0xff, 0xef])),
            ("aGVsbG8", None),
            ("aGVsbG9=", None),
            ("a===", None),
            ("aG==VsbG", None),
            ("aGV bG8=", None),
        ] {
            assert_eq!(base64(text).as_deref(), bytes, "{text}");
        }
    }
}
