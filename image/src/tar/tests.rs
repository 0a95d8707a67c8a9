//! Archives of other programs, and damaged ones.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::process::Command;

use super::*;
use crate::testing::{Tar, TempDir};

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut data = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match archive.read_data(&mut buffer)? {
                0 => break,
                length => data.extend_from_slice(&buffer[..length]),
            }
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

/// The file as it was before it was taken apart.
fn whole(entry: &Entry, data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; usize::try_from(entry.size).unwrap()];
    let mut data = data;
    for extent in &entry.extents {
        let (offset, length) = (extent.offset as usize, extent.length as usize);
        file[offset..offset + length].copy_from_slice(&data[..length]);
        data = &data[length..];
    }
    assert!(data.is_empty());
    file
}

#[test]
fn gnu_tar_writes_what_is_read() {
    let dir = TempDir::new();
    let long = "long".repeat(40);
    fs::create_dir_all(dir.join("in").join(&long)).unwrap();
    let mut sparse = File::create(dir.join("in").join(&long).join(&long)).unwrap();
    for place in [0, 1 << 20, 5 << 20, 5_300_000] {
        sparse.seek(SeekFrom::Start(place)).unwrap();
        sparse.write_all(b"some data").unwrap();
    }
    sparse.set_len(6 << 20).unwrap();
    let expected = fs::read(dir.join("in").join(&long).join(&long)).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=gnu", "-S"],
        &["--format=posix"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ] {
        let tar = Command::new("tar")
            .args(format)
            .args(["-C", dir.join("in").to_str().unwrap(), "-cf", "-", "."])
            .output()
            .unwrap();
        assert!(tar.status.success(), "{format:?}");
        let entries = read(&tar.stdout).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        let (entry, data) = entries.last().unwrap();
        assert_eq!(
            entry.path,
            format!("./{long}/{long}").into_bytes(),
            "{format:?}"
        );
        assert!(whole(entry, data) == expected, "{format:?}");
        let holes = format.contains(&"-S");
        assert_eq!(data.len() < 1 << 20, holes, "{format:?}");
    }
}

#[test]
fn another_writer_is_understood() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o4755);
    header.set_uid(u64::from(u32::MAX) - 1);
    header.set_gid(7);
    let long = "d/".repeat(90) + "name";
    builder
        .append_pax_extensions([("SCHILY.xattr.user.a", &b"b\n"[..])])
        .unwrap();
    builder
        .append_data(&mut header, &long, &b"hello"[..])
        .unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "link", &long).unwrap();
    let entries = read(&builder.into_inner().unwrap()).unwrap();
    let (entry, data) = &entries[0];
    assert_eq!(
        (entry.path.as_slice(), data.as_slice()),
        (long.as_bytes(), &b"hello"[..])
    );
    assert_eq!(
        (entry.mode, entry.uid, entry.gid),
        (0o4755, u64::from(u32::MAX) - 1, 7)
    );
    assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"b\n".to_vec())]);
    assert_eq!(
        (entries[1].0.kind, &entries[1].0.link[..]),
        (Kind::Symlink, long.as_bytes())
    );
}

#[test]
fn what_is_cut_short_or_damaged_is_an_error() {
    let archive = Tar::new().file("a", &[1; 2000]).file("b", b"x").end();
    for length in [1, 511, 513, 1000, 2559, 3100] {
        assert!(
            matches!(read(&archive[..length]), Err(TarError::Truncated)),
            "{length}"
        );
    }
    // The end need not be marked.
    assert_eq!(read(&archive[..archive.len() - 1024]).unwrap().len(), 2);
    assert_eq!(read(b"").unwrap().len(), 0);
    for place in [0, 120, 150, 156] {
        let mut damaged = archive.clone();
        damaged[place] ^= 0x11;
        assert!(read(&damaged).is_err(), "{place}");
    }
    let after_end = [&[0; 512][..], &archive].concat();
    assert!(matches!(read(&after_end), Err(TarError::Checksum)));
}

#[test]
fn what_would_take_too_much_memory_is_refused() {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(MAX_EXTENSION + 1);
    header.set_cksum();
    assert!(matches!(
        read(header.as_bytes()),
        Err(TarError::Extension(_))
    ));
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(matches!(
        read(header.as_bytes()),
        Err(TarError::Extension(_))
    ));
    let map = format!("{}\n", MAX_EXTENTS + 1).into_bytes();
    let sparse = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"5"),
        ])
        .file("a", &[map, vec![0; 1000]].concat());
    assert!(matches!(read(&sparse.end()), Err(TarError::Sparse)));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let huge = Tar::new()
        .pax(&[("size", b"18446744073709551615")])
        .file("a", b"");
    assert!(matches!(read(&huge.end()), Err(TarError::Number(_))));
    let longer = Tar::new()
        .pax(&[("size", b"9000000000000000000")])
        .file("a", b"");
    assert!(matches!(read(&longer.end()), Err(TarError::Truncated)));
    assert!(matches!(
        read(&Tar::new().entry(b'V', "volume", "", 0, b"").end()),
        Err(TarError::Kind(b'V'))
    ));
}
