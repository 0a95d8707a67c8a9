//! `linux.devices`: which of the host's devices a guest can have.

use std::path::PathBuf;

use serde_json::Value;

use super::translate::{Object, malformed, unsupported};
use super::{BundleError, SpecBlock};
use crate::block::BlockVolume;

/// Device numbers that mean the same in every kernel: memory, terminals, and most of `misc`.
const UNIVERSAL_MAJORS: [u32; 3] = [1, 5, 10];

/// Opens the block devices, and refuses what is the host's otherwise: its numbers would be those of
/// something else in the guest. `rules` are those of `linux.resources`.
pub(super) fn open(linux: &Object, rules: Option<&Value>) -> Result<Vec<SpecBlock>, BundleError> {
    let devices = list(linux.get("devices"), "linux.devices")?;
    let rules = list(rules, "linux.resources.devices")?;
    let mut blocks = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let path = device["path"].as_str().unwrap_or_default();
        let field = || format!("linux.devices[{index}] ({path})");
        let number = |name: &str| {
            let number = device[name].as_u64().and_then(|n| u32::try_from(n).ok());
            number.ok_or_else(|| malformed(format!("linux.devices[{index}].{name}")))
        };
        match device["type"].as_str() {
            Some("b") => blocks.push((index, path, (number("major")?, number("minor")?))),
            Some("c" | "u") if !UNIVERSAL_MAJORS.contains(&number("major")?) => {
                let reason = "is a device of the host, which guests do not have";
                return Err(unsupported(field(), reason));
            }
            _ => {}
        }
    }
    // Only when nothing is refused: a privileged container may be given all that there is.
    let open = |(index, path, number): (usize, &str, (u32, u32))| {
        let access = Access::of(rules, number);
        if !access.read {
            return Err(unsupported(
                format!("linux.devices[{index}] ({path})"),
                "is a block device that linux.resources.devices does not let be read; a guest's disk can always be: allow r",
            ));
        }
        let parameter = format!("config.json: linux.devices[{index}]");
        let path = PathBuf::from(path);
        let volume = BlockVolume::of_number(&parameter, &path, number, !access.write)?;
        Ok(SpecBlock { index, volume })
    };
    blocks.into_iter().map(open).collect()
}

fn list<'a>(value: Option<&'a Value>, field: &str) -> Result<&'a [Value], BundleError> {
    match value {
        None | Some(Value::Null) => Ok(&[]),
        Some(list) => list
            .as_array()
            .map(Vec::as_slice)
            .ok_or_else(|| malformed(field)),
    }
}

/// What a container may do with a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Access {
    read: bool,
    write: bool,
}

impl Access {
    /// As a device cgroup would have it: the last rule that says something counts. Without rules, what is
    /// listed is granted.
    fn of(rules: &[Value], number: (u32, u32)) -> Self {
        let all = rules.is_empty();
        let mut access = Self {
            read: all,
            write: all,
        };
        for rule in rules.iter().filter(|rule| concerns(rule, number)) {
            let allow = rule["allow"] == true;
            let letters = rule["access"]
                .as_str()
                .filter(|letters| !letters.is_empty());
            let letters = letters.unwrap_or("rwm");
            if letters.contains('r') {
                access.read = allow;
            }
            if letters.contains('w') {
                access.write = allow;
            }
        }
        access
    }
}

fn concerns(rule: &Value, (major, minor): (u32, u32)) -> bool {
    let is_of_kind = matches!(rule["type"].as_str(), None | Some("" | "a" | "b"));
    // Left out, or negative, it stands for all.
    let is = |name: &str, number: u32| {
        let asked = rule[name].as_i64().filter(|asked| *asked >= 0);
        asked.is_none_or(|asked| asked == i64::from(number))
    };
    is_of_kind && is("major", major) && is("minor", minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn access(rules: Value) -> (bool, bool) {
        let Access { read, write } = Access::of(rules.as_array().unwrap(), (7, 3));
        (read, write)
    }

    #[test]
    fn the_last_rule_about_a_device_counts() {
        let none = json!({ "allow": false, "access": "rwm" });
        let it = |access: &str| json!({ "allow": true, "type": "b", "major": 7, "minor": 3, "access": access });
        assert_eq!(access(json!([])), (true, true));
        assert_eq!(access(json!([none])), (false, false));
        assert_eq!(access(json!([none, it("rwm")])), (true, true));
        assert_eq!(access(json!([none, it("r")])), (true, false));
        assert_eq!(access(json!([it("rw"), none])), (false, false));
        assert_eq!(access(json!([{ "allow": true }])), (true, true));
    }

    #[test]
    fn rules_about_others_say_nothing() {
        let none = json!({ "allow": false });
        for other in [
            json!({ "allow": true, "type": "c", "major": 7, "minor": 3 }),
            json!({ "allow": true, "type": "b", "major": 7, "minor": 4 }),
            json!({ "allow": true, "type": "b", "major": 8, "minor": -1 }),
        ] {
            assert_eq!(access(json!([none, other])), (false, false), "{other}");
        }
        let all = json!({ "allow": true, "type": "b", "major": 7, "minor": -1 });
        assert_eq!(access(json!([none, all])), (true, true));
    }
}
