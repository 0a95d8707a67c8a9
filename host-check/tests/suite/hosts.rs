//! Each recorded machine leads to the findings that it should, and each check is needed for that.

use std::collections::{BTreeMap, BTreeSet};

use podvmm_host_check::{Options, Purpose, Status, check};

use crate::fixture::{self, all_checks};

#[test]
fn every_machine_leads_to_its_findings() {
    let fixtures = fixture::all();
    assert!(fixtures.len() >= 20, "{} machines", fixtures.len());
    let checks = all_checks();
    let wrong: Vec<String> = fixtures
        .iter()
        .filter_map(|fixture| fixture.verify(&checks).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The suite itself is tested: without any one of the checks some machine's case has to fail.
#[test]
fn no_check_can_be_taken_out_unnoticed() {
    let fixtures = fixture::all();
    for left_out in all_checks() {
        let mut rest = all_checks();
        rest.retain(|check| check.id != left_out.id);
        let noticed = fixtures
            .iter()
            .any(|fixture| fixture.verify(&rest).is_err());
        assert!(noticed, "nobody misses {}", left_out.id);
    }
}

/// A check that is never bad on any machine could as well say "pass" always.
#[test]
fn every_check_is_as_bad_as_it_can_be_on_some_machine() {
    let mut worst: BTreeMap<&str, Status> = BTreeMap::new();
    for fixture in fixture::all() {
        for purpose in Purpose::ALL {
            for finding in fixture.report(purpose, &all_checks()).checks {
                if finding.status == Status::Skip {
                    continue;
                }
                let entry = worst.entry(finding.id).or_insert(finding.status);
                *entry = finding.status.max(*entry);
            }
        }
    }
    for check in all_checks() {
        let possible = Purpose::ALL.map(|purpose| check.weight.worst(purpose));
        let possible = possible.into_iter().max().unwrap();
        assert_eq!(worst.get(check.id), Some(&possible), "{}", check.id);
    }
}

#[test]
fn every_check_passes_somewhere() {
    let mut passed = BTreeSet::new();
    for fixture in fixture::all() {
        let report = fixture.report(Purpose::Cli, &all_checks());
        passed.extend(report.with_status(Status::Pass).map(|finding| finding.id));
    }
    for check in all_checks() {
        // Nested virtualization of our guests is neither good nor bad.
        assert!(
            passed.contains(check.id) || check.id == "kvm.nested",
            "{}",
            check.id
        );
    }
}

#[test]
fn ids_are_stable_names() {
    let mut seen = BTreeSet::new();
    for check in all_checks() {
        let (group, subject) = check.id.split_once('.').expect("a dot");
        assert_eq!(group, check.group.word(), "{}", check.id);
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(
            !subject.is_empty() && subject.chars().all(allowed),
            "{}",
            check.id
        );
        assert!(seen.insert(check.id), "{} twice", check.id);
    }
}

/// The fast subset comes to the same first failure as the whole, as far as it looks.
#[test]
fn the_fast_subset_agrees_with_the_whole() {
    for fixture in fixture::all() {
        let whole = fixture.report(Purpose::Cli, &all_checks());
        let options = Options {
            fast: true,
            ..Options::default()
        };
        let fast = check(&fixture.host, options);
        let first_in_whole = whole
            .with_status(Status::Fail)
            .find(|finding| all_checks().iter().any(|c| c.id == finding.id && c.fast));
        let first_in_fast = fast.with_status(Status::Fail).next();
        assert_eq!(first_in_fast, first_in_whole, "{}", fixture.name);
        assert!(fast.checks.len() < whole.checks.len() / 2);
    }
}

#[test]
fn strict_makes_failures_of_warnings_and_of_nothing_else() {
    for fixture in fixture::all() {
        let options = Options {
            purpose: Purpose::Node,
            ..Options::default()
        };
        let mild = check(&fixture.host, options);
        let strict = check(
            &fixture.host,
            Options {
                strict: true,
                ..options
            },
        );
        for (mild, strict) in mild.checks.iter().zip(&strict.checks) {
            let expected = match mild.status {
                Status::Warn => Status::Fail,
                status => status,
            };
            assert_eq!(strict.status, expected, "{}: {}", fixture.name, mild.id);
        }
    }
}

/// "Switch it on in the BIOS" is wrong advice where the firmware is the hypervisor's.
#[test]
fn nobody_in_a_virtual_machine_is_sent_to_the_firmware() {
    for fixture in fixture::all() {
        let report = fixture.report(Purpose::Cli, &all_checks());
        if report.host.hypervisor.is_none() {
            continue;
        }
        for finding in &report.checks {
            for word in ["BIOS", "firmware's setup"] {
                assert!(
                    !finding.remedy.contains(word),
                    "{}: {}",
                    fixture.name,
                    finding.remedy
                );
            }
        }
    }
}

/// What `podvmm run` shows: one line that begins with what is wrong and ends with what to do.
#[test]
fn the_error_names_parameter_cause_and_remedy() {
    for fixture in fixture::all() {
        let report = fixture.report(Purpose::Cli, &all_checks());
        let Err(error) = report.ready() else { continue };
        let text = error.to_string();
        for part in [
            error.finding.parameter.as_str(),
            error.finding.remedy.as_str(),
            error.finding.id,
        ] {
            assert!(
                text.contains(part),
                "{}: no {part:?} in {text}",
                fixture.name
            );
        }
        let before = text.split(": ").collect::<Vec<_>>();
        assert_eq!(
            before.iter().collect::<BTreeSet<_>>().len(),
            before.len(),
            "{}: says something twice: {text}",
            fixture.name
        );
    }
}
