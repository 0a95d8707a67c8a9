//! The JSON form of every report is what `docs/host-check.schema.json` says, and nothing more.
//!
//! The validator knows the keywords that the schema uses and refuses others, so that none is
//! passed over in silence. Beyond JSON Schema's own rules it refuses fields that the schema does
//! not describe: a new field has to be published.

use podvmm_host_check::{Options, Purpose, check};
use serde_json::Value;

use crate::fixture;

const SCHEMA: &str = include_str!("../../../docs/host-check.schema.json");

/// Keywords that say nothing about a value.
const ANNOTATIONS: [&str; 3] = ["$schema", "title", "description"];

fn validate(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let complain = |what: &dyn std::fmt::Debug| Err(format!("{at}: {value}: {what:?}"));
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let holds = match keyword.as_str() {
            keyword if ANNOTATIONS.contains(&keyword) => true,
            "type" => match rule {
                Value::Array(types) => types.iter().any(|one| is_of_type(value, one)),
                one => is_of_type(value, one),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
            "minItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| matches(rule.as_str().unwrap(), text)),
            "required" => value.as_object().is_none_or(|object| {
                let names = rule.as_array().unwrap();
                names
                    .iter()
                    .all(|name| object.contains_key(name.as_str().unwrap()))
            }),
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let Some(schema) = rule.get(name) else {
                        return complain(&format!("{name} is not in the schema"));
                    };
                    validate(schema, value, &format!("{at}.{name}"))?;
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(rule, item, &format!("{at}[{index}]"))?;
                }
                true
            }
            other => panic!("the validator does not know the keyword {other}"),
        };
        if !holds {
            return complain(&format!("{keyword} {rule}"));
        }
    }
    Ok(())
}

fn is_of_type(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the validator does not know the type {other}"),
    }
}

/// The schema's patterns: literal characters, `\` before one, and sets in brackets with a `+`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern
        .strip_prefix('^')
        .unwrap()
        .strip_suffix('$')
        .unwrap();
    let mut text = text;
    while let Some(first) = pattern.chars().next() {
        if let Some(rest) = pattern.strip_prefix('[') {
            let (set, rest) = rest.split_once("]+").expect("a set of the form […]+");
            let end = text.find(|c| !in_set(set, c)).unwrap_or(text.len());
            if end == 0 {
                return false;
            }
            (pattern, text) = (rest, &text[end..]);
        } else {
            let skip = usize::from(first == '\\');
            let literal = pattern.chars().nth(skip).unwrap();
            let Some(rest) = text.strip_prefix(literal) else {
                return false;
            };
            (pattern, text) = (&pattern[skip + literal.len_utf8()..], rest);
        }
    }
    text.is_empty()
}

fn in_set(set: &str, c: char) -> bool {
    let set: Vec<char> = set.chars().collect();
    let ranges = set.windows(3).filter(|window| window[1] == '-');
    let mut ranges = ranges.map(|window| window[0]..=window[2]);
    ranges.any(|range| range.contains(&c))
        || (set.contains(&c) && (c != '-' || set.last() == Some(&'-')))
}

#[test]
fn the_validator_finds_what_is_wrong() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let host = fixture::load("bare-intel").host;
    let good = check(&host, Options::default()).to_json();
    validate(&schema, &good, "report").unwrap();
    let wrong: [(&str, Value); 8] = [
        ("/schema_version", 2.into()),
        ("/verdict", "maybe".into()),
        ("/host/azure_generation", 3.into()),
        ("/probe/exit_us", (-1).into()),
        ("/checks", Value::Array(vec![])),
        ("/checks/0/id", "cpu".into()),
        ("/checks/0/doc", "docs/host-checks.md".into()),
        ("/checks/0/message", "".into()),
    ];
    for (path, value) in wrong {
        let mut report = good.clone();
        *report.pointer_mut(path).unwrap() = value;
        assert!(validate(&schema, &report, "report").is_err(), "{path}");
    }
    let mut report = good.clone();
    report.as_object_mut().unwrap().remove("headline");
    assert!(validate(&schema, &report, "report").is_err());
    let mut report = good;
    report["new"] = true.into();
    assert!(validate(&schema, &report, "report").is_err());
}

#[test]
fn every_report_follows_the_schema() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for fixture in fixture::all() {
        for purpose in Purpose::ALL {
            for strict in [false, true] {
                let options = Options {
                    purpose,
                    strict,
                    fast: false,
                };
                let report = check(&fixture.host, options).to_json();
                if let Err(error) = validate(&schema, &report, "report") {
                    panic!("{}: {error}", fixture.name);
                }
            }
        }
    }
}
