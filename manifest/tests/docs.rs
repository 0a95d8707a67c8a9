//! The tables of docs/manifests.md are what the code's lists say.
//!
//! `PODVMM_UPDATE_CASES=1` writes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use podvmm_manifest::schema::{OBJECTS, Object, Support};

const BEGIN: &str = "<!-- fields: made by manifest/tests/docs.rs -->\n";
const END: &str = "<!-- end of fields -->\n";

fn table(object: &Object) -> String {
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for field in object.fields {
        let name = field.name;
        match field.support {
            Support::Supported("") => rows[0].push(format!("`{name}`")),
            Support::Supported(note) => rows[0].push(format!("`{name}` ({note})")),
            Support::Accepted(_, reason) => rows[1].push(format!("`{name}`: {reason}")),
            Support::Unsupported(remedy) => rows[2].push(format!("`{name}`: {remedy}")),
        }
    }
    let mut text = format!("| {} | |\n|---|---|\n", object.name);
    for (row, (title, separator)) in rows.iter().zip([
        ("supported", ", "),
        ("accepted, no effect", "; "),
        ("unsupported", "; "),
    ]) {
        if !row.is_empty() {
            let _ = writeln!(text, "| {title} | {} |", row.join(separator));
        }
    }
    text
}

#[test]
fn the_documentation_has_the_fields_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifests.md");
    let page = fs::read_to_string(&path).unwrap();
    let tables: Vec<_> = OBJECTS.iter().map(|object| table(object)).collect();
    let (before, rest) = page.split_once(BEGIN).expect("where the tables begin");
    let (found, after) = rest.split_once(END).expect("where the tables end");
    let wanted = format!("\n{}\n", tables.join("\n"));
    if std::env::var_os("PODVMM_UPDATE_CASES").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            found, wanted,
            "PODVMM_UPDATE_CASES=1 writes docs/manifests.md anew"
        );
    }
}
