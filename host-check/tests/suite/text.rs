//! What people read.

use podvmm_host_check::text::{Style, report};
use podvmm_host_check::{Options, Purpose, check, explain};

use crate::fixture::{self, all_checks};

const NARROW: Style = Style {
    width: 80,
    colour: false,
    whole_first_line: false,
};

#[test]
fn nothing_is_wider_than_the_terminal() {
    for fixture in fixture::all() {
        for width in [80, 100] {
            let style = Style { width, ..NARROW };
            let found = fixture.report(Purpose::Node, &all_checks());
            let mut text = report(&found, style);
            for finding in &found.checks {
                text += &explain::explain(finding, style);
            }
            for line in text.lines() {
                let is_one_word = line.split_whitespace().count() <= 1;
                assert!(
                    line.chars().count() <= width || is_one_word,
                    "{}: {line}",
                    fixture.name
                );
                assert_eq!(line, line.trim_end(), "{}", fixture.name);
            }
        }
    }
}

#[test]
fn a_failure_comes_first_and_with_its_remedy() {
    let fixture = fixture::load("software-kvm");
    let found = check(&fixture.host, Options::default());
    let text = report(&found, NARROW);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("Not ready: KVM is present but emulates kernel mode"),
        "{text}"
    );
    let place = |word: &str| {
        let found = lines.iter().position(|line| line.starts_with(word));
        found.unwrap_or_else(|| panic!("no {word} in {text}"))
    };
    assert!(place("FAIL") < place("warn"), "{text}");
    assert!(place("warn") < place("info"), "{text}");
    assert!(place("info") < place("ok"), "{text}");
    let failure = lines[place("FAIL")..place("warn")].join("\n");
    for label in ["parameter", "found", "needed", "why", "do"] {
        assert!(
            failure.contains(&format!("\n      {label:11}")),
            "{failure}"
        );
    }
}

#[test]
fn the_first_line_stays_whole_for_programs() {
    let fixture = fixture::load("software-kvm");
    let found = check(&fixture.host, Options::default());
    let style = Style {
        whole_first_line: true,
        ..NARROW
    };
    let text = report(&found, style);
    let first = text.lines().next().unwrap();
    assert_eq!(first, found.headline);
    for words in [
        "KVM is present but emulates kernel mode",
        "M instructions/s at CPL 0",
        "M at CPL 3",
        "nested virtualization",
    ] {
        assert!(first.contains(words), "{first}");
    }
}

#[test]
fn colour_is_only_colour() {
    for fixture in fixture::all() {
        let found = fixture.report(Purpose::Cli, &all_checks());
        let plain = report(&found, NARROW);
        assert!(!plain.contains('\x1b'));
        let style = Style {
            colour: true,
            ..NARROW
        };
        let coloured = report(&found, style);
        assert!(coloured.contains("\x1b["), "{}", fixture.name);
        assert_eq!(without_colour(&coloured), plain, "{}", fixture.name);
    }
}

fn without_colour(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += part.split_once('m').unwrap().1;
    }
    plain
}

#[test]
fn a_user_is_told_what_root_would_add() {
    let found = check(
        &fixture::load("module-missing-user").host,
        Options::default(),
    );
    let text = report(&found, NARROW);
    let words: Vec<&str> = text.split_whitespace().collect();
    let said = words
        .join(" ")
        .contains("as root, `podvmm check` sees more");
    assert!(said, "{text}");
    let found = check(&fixture::load("probe-not-tried").host, Options::default());
    assert!(!report(&found, NARROW).contains("as root"));
}
