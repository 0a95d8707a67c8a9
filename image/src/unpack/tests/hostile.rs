//! Layers as an attacker would write them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::super::*;
use super::{Target, message};
use crate::testing::{Tar, gzip};

#[test]
fn names_do_not_lead_out() {
    for name in [
        "../x",
        "a/../../x",
        "/..",
        "a/..",
        "..",
        "./../outside/secret",
        "a/.wh..",
        ".wh...",
        "\u{0}",
    ] {
        for kind in [b'0', b'5', b'2', b'1', b'3'] {
            let mut target = Target::new();
            target.layer(Tar::new().dir("a")).unwrap();
            let name_only = Tar::new()
                .pax(&[("path", name.as_bytes())])
                .entry(kind, "x", "a", 0o644, b"");
            let outcome = target.layer(name_only);
            target.outside_is_untouched();
            assert!(outcome.is_err(), "{name:?} {kind}");
        }
    }
    // Absolute names are below the root.
    let mut target = Target::new();
    target.layer(Tar::new().file("/etc//x", b"in")).unwrap();
    assert_eq!(target.read("etc/x"), "in");
}

#[test]
fn links_do_not_lead_out() {
    let mut target = Target::new();
    let outside = target.dir.join("outside");
    let up = "../".repeat(20);
    let to = |prefix: &str| format!("{prefix}{}", outside.display());
    // The same text inside is another place, which is made.
    for (index, link) in [to(""), to(&up), "../outside".into(), "../../outside".into()]
        .iter()
        .enumerate()
    {
        if link.len() > 99 {
            continue;
        }
        let (evil, through) = (format!("evil{index}"), format!("evil{index}/new"));
        target
            .layer(Tar::new().symlink(&evil, link).file(&through, b"caught"))
            .unwrap();
        target
            .layer(Tar::new().dir(&format!("{evil}/made/here")))
            .unwrap();
        target
            .layer(Tar::new().file(&format!("{evil}/.wh..wh..opq"), b""))
            .unwrap();
        target
            .layer(Tar::new().file(&format!("{evil}/.wh.secret"), b""))
            .unwrap();
        target.outside_is_untouched();
    }
    // A file in the place of a link replaces the link, not what it leads to.
    let secret = outside.join("secret");
    let secret = secret.to_str().unwrap();
    if secret.len() < 100 {
        target
            .layer(Tar::new().symlink("direct", secret).file("direct", b"mine"))
            .unwrap();
        assert_eq!(target.read("direct"), "mine");
    }
    target.outside_is_untouched();
}

#[test]
fn links_that_are_there_already_are_followed_inside() {
    let mut target = Target::new();
    symlink("/usr/lib", target.path("lib")).unwrap();
    symlink("loop", target.path("loop")).unwrap();
    target
        .layer(Tar::new().dir("usr").file("lib/a", b"a"))
        .unwrap();
    assert_eq!(target.read("usr/lib/a"), "a");
    target.layer(Tar::new().file("lib/.wh.a", b"")).unwrap();
    assert!(!target.has("usr/lib/a") && target.has("usr/lib"));
    assert!(target.layer(Tar::new().file("loop/a", b"a")).is_err());
}

#[test]
fn hard_links_stay_inside() {
    let mut target = Target::new();
    let outside = target.dir.join("outside/secret").display().to_string();
    let mut links: Vec<(String, String)> = [
        "../outside/secret",
        "no-such",
        "d",
        "d/../../outside/secret",
    ]
    .iter()
    .map(|link| ("x".to_owned(), (*link).to_owned()))
    .collect();
    links.push(("x".into(), outside.clone()));
    target
        .layer(Tar::new().dir("d").symlink("evil", "../outside"))
        .unwrap();
    links.push(("x".into(), "evil/secret".into()));
    for (name, link) in links.iter().filter(|(_, link)| link.len() < 100) {
        let error = target.layer(Tar::new().hard_link(name, link)).unwrap_err();
        assert!(message(&error).contains("entry `x`"), "{}", message(&error));
        target.outside_is_untouched();
    }
    // A link to a link is one more link, not what it leads to.
    target.layer(Tar::new().hard_link("evil2", "evil")).unwrap();
    assert!(
        target
            .path("evil2")
            .symlink_metadata()
            .unwrap()
            .is_symlink()
    );
    // And one to itself changes nothing.
    target
        .layer(Tar::new().file("self", b"x").hard_link("self", "./self"))
        .unwrap();
    assert_eq!(target.read("self"), "x");
    target.outside_is_untouched();
}

#[test]
fn a_hole_of_10_gb_takes_no_room() {
    let mut target = Target::new();
    let size = 10u64 << 30;
    let map = format!("1\n{}\n4\n", size - 4).into_bytes();
    let mut data = map;
    data.resize(512, 0);
    data.extend_from_slice(b"last");
    let layer = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"hole"),
            ("GNU.sparse.realsize", size.to_string().as_bytes()),
        ])
        .file("x", &data);
    target.layer(layer).unwrap();
    let meta = fs::metadata(target.path("hole")).unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() * 512 < 1 << 20);
}

#[test]
fn bombs_meet_the_limits() {
    let limits = Limits {
        bytes: 100_000,
        entries: 10,
        file_size: 50_000,
    };
    let fresh = || Target::with(Ownership::of_this_process(), limits);
    let error = fresh()
        .layer(Tar::new().file("a", &[0; 60_000]))
        .unwrap_err();
    assert!(message(&error).contains("50000"), "{}", message(&error));
    let files = (0..11).fold(Tar::new(), |tar, n| tar.file(&format!("{n}"), b""));
    assert!(matches!(
        fresh().layer(files),
        Err(UnpackError::Entries(10))
    ));
    let large = (0..3).fold(Tar::new(), |tar, n| tar.file(&format!("{n}"), &[1; 40_000]));
    assert!(matches!(
        fresh().layer(large),
        Err(UnpackError::Bytes(100_000))
    ));
    // Compressed a thousandfold, behind the archive's end, and spread over layers.
    let bomb = gzip(&vec![0; 10_000_000]);
    assert!(matches!(
        fresh().unpacker.layer(&bomb[..]),
        Err(UnpackError::Bytes(_))
    ));
    let mut target = fresh();
    target.layer(Tar::new().file("a", &[1; 50_000])).unwrap();
    assert!(matches!(
        target.layer(Tar::new().file("b", &[1; 50_000])),
        Err(UnpackError::Bytes(_))
    ));
}

#[test]
fn too_many_levels_are_refused() {
    let mut target = Target::new();
    let deep = "d/".repeat(MAX_DEPTH + 1);
    let layer = Tar::new().pax(&[("path", deep.as_bytes())]).dir("x");
    assert!(message(&target.layer(layer).unwrap_err()).contains("levels"));
    // Links from one deep directory to another do not help.
    let half = "d/".repeat(MAX_DEPTH / 2 + 10);
    let layer = Tar::new()
        .pax(&[("path", half.as_bytes())])
        .dir("x")
        .pax(&[("linkpath", half.as_bytes())])
        .symlink("s", "x");
    target.layer(layer).unwrap();
    let through = format!("s/{half}");
    let layer = Tar::new().pax(&[("path", through.as_bytes())]).dir("x");
    let error = target.layer(layer).unwrap_err();
    assert!(message(&error).contains("levels"), "{}", message(&error));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let long = "n".repeat(256);
    for (layer, word) in [
        (Tar::new().owner(1 << 40, 0).file("x", b""), "owner"),
        (
            Tar::new().owner(u64::from(u32::MAX), 0).file("x", b""),
            "owner",
        ),
        (Tar::new().symlink("x", ""), "symbolic link"),
        (
            Tar::new().pax(&[("path", long.as_bytes())]).file("x", b""),
            "name",
        ),
        (Tar::new().file("", b"x"), "name"),
        (Tar::new().file("f", b"").file("f/x", b""), "f/x"),
    ] {
        let error = Target::new().layer(layer).unwrap_err();
        assert!(message(&error).contains(word), "{}", message(&error));
    }
    // A terminal is not to be told what to do.
    let layer = Tar::new().hard_link("\x1b]0;x\x07", "none");
    let text = message(&Target::new().layer(layer).unwrap_err());
    assert!(!text.contains('\x1b') && text.contains("\\x1b"), "{text}");
}

#[test]
fn a_layer_that_is_cut_short_is_an_error() {
    let bytes = Tar::new().file("a", &[7; 5000]).end();
    for layer in [
        bytes[..3000].to_vec(),
        gzip(&bytes)[..60].to_vec(),
        b"no archive".to_vec(),
    ] {
        let mut target = Target::new();
        assert!(target.unpacker.layer(&layer[..]).is_err());
    }
}
