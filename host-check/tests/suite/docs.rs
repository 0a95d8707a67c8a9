//! Each id has its section of `docs/host-checks.md`, and the page names no others.

use podvmm_host_check::{Options, check, explain};

use crate::fixture::{self, all_checks};

#[test]
fn every_id_has_a_section_and_every_section_an_id() {
    for check in all_checks() {
        let section = explain::section(check.id);
        let section = section.unwrap_or_else(|| panic!("{} has no section", check.id));
        assert!(section.len() > 40, "{}: {section:?}", check.id);
    }
    let ids: Vec<&str> = all_checks().iter().map(|check| check.id).collect();
    let headings = explain::PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let headings: Vec<&str> = headings.collect();
    assert_eq!(headings, ids, "the page has the order of the checks");
}

#[test]
fn doc_points_to_the_section() {
    let report = check(&fixture::load("bare-intel").host, Options::default());
    for finding in report.checks {
        let anchor = finding.doc.strip_prefix("docs/host-checks.md#").unwrap();
        // GitHub's rule for headings: lower case, and only letters, digits and hyphens stay.
        let of_heading: String = finding
            .id
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        assert_eq!(anchor, of_heading);
    }
}

#[test]
fn a_mistyped_id_is_guessed() {
    assert_eq!(explain::similar("device"), ["kvm.device"]);
    assert_eq!(explain::similar("cpu.firm"), ["cpu.firmware"]);
    assert!(explain::similar("").is_empty());
    assert!(explain::find("kvm.device").is_some());
    assert!(explain::find("device").is_none());
}
