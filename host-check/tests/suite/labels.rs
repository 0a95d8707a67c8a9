//! Labels that machines get as nodes.

use podvmm_host_check::labels::{FAILED_CHECK, ISOLATION, READY, labels};
use podvmm_host_check::{Purpose, Status};

use crate::fixture;

#[test]
fn a_machine_is_labelled_by_its_verdict() {
    for (name, ready, failed, isolation) in [
        ("bare-intel", "true", "none", "hardware"),
        ("kvm-guest-nested", "true", "none", "nested"),
        ("nested-under-tcg", "true", "none", "emulated"),
        ("azure-gen1", "false", "cpu.virtualization", "none"),
        ("software-kvm", "false", "probe.speed", "none"),
    ] {
        let report = fixture::load(name).report(Purpose::Node, &fixture::all_checks());
        let expected = [
            (READY, ready),
            (FAILED_CHECK, failed),
            (ISOLATION, isolation),
        ];
        let found = labels(&report);
        let found = found
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        assert_eq!(found, expected, "{name}");
    }
}

/// Kubernetes takes values of at most 63 letters, digits, `-`, `_` and `.`, with a letter or a digit at
/// either end.
#[test]
fn every_label_is_one_for_kubernetes() {
    for fixture in fixture::all() {
        for purpose in Purpose::ALL {
            let report = fixture.report(purpose, &fixture::all_checks());
            let failed = report.with_status(Status::Fail).next();
            for (name, value) in labels(&report) {
                let (prefix, rest) = name.split_once('/').unwrap();
                assert_eq!(prefix, "podvmm.dev");
                for text in [rest, &value] {
                    assert!((1..=63).contains(&text.len()), "{name}={value}");
                    assert!(
                        text.chars()
                            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                    );
                    let ends = |c: char| c.is_ascii_alphanumeric();
                    assert!(
                        text.starts_with(ends) && text.ends_with(ends),
                        "{name}={value}"
                    );
                }
                if name == READY {
                    assert_eq!(value == "true", failed.is_none());
                }
            }
        }
    }
}
