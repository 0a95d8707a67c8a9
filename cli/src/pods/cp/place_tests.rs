use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Temporary(PathBuf);

impl Temporary {
    fn new(test: &str) -> Self {
        let name = format!("podvmm-cp-{}-{test}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// What is there, hidden things too.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As the agent's program would send it.
fn archive(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    agent_protocol::archive::write(path, Some((0, 0)), &mut bytes).unwrap();
    bytes
}

fn get(bytes: &[u8], name: &str, to: &Path) -> Result<(), String> {
    let place = Place::find(to, Path::new(name));
    let staged = place.and_then(|place| place.unpack(bytes));
    let settled = staged.and_then(|staged| staged.settle());
    settled.map_err(|error| format!("{error:#}"))
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn things_go_where_cp_puts_them() {
    let dir = Temporary::new("rules");
    fs::create_dir_all(dir.join("tree/sub")).unwrap();
    fs::write(dir.join("tree/sub/file"), "one").unwrap();
    fs::write(dir.join("plain"), "two").unwrap();
    let (tree, plain) = (archive(&dir.join("tree")), archive(&dir.join("plain")));
    let content = archive(&dir.join("tree/."));
    let to = Temporary::new("rules-to");
    fs::create_dir(to.join("there")).unwrap();
    get(&plain, "plain", &to.join("there")).unwrap();
    get(&plain, "plain", &to.join("new")).unwrap();
    get(&tree, "tree", &to.join("there")).unwrap();
    // It is there already, and is added to.
    fs::write(to.join("there/tree/sub/own"), "own").unwrap();
    get(&tree, "tree", &to.join("there")).unwrap();
    get(&tree, "tree", &to.join("copy")).unwrap();
    get(&content, ".", &to.join("there")).unwrap();
    get(&content, ".", &to.join("content")).unwrap();
    for (path, text) in [
        ("there/plain", "two"),
        ("new", "two"),
        ("there/tree/sub/file", "one"),
        ("there/tree/sub/own", "own"),
        ("copy/sub/file", "one"),
        ("there/sub/file", "one"),
        ("content/sub/file", "one"),
    ] {
        assert_eq!(read(to.join(path)), text, "{path}");
    }
    for (bytes, name, place, word) in [
        (&plain, "plain", "none/x", "none: No such file"),
        (&plain, "plain", "nowhere/", "no such directory"),
        (&tree, "tree", "new", "is no directory"),
        (&content, ".", "new", "is no directory"),
        (&plain, "other", "x", "something else than other"),
    ] {
        let path = format!("{}/{place}", to.0.display());
        let error = get(bytes, name, Path::new(&path)).unwrap_err();
        assert!(error.contains(word), "{place}: {error}");
    }
    assert_eq!(to.names(), ["content", "copy", "new", "there"]);
}

/// An archive as a hostile container would send it.
fn hostile(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = tar::Header::new_gnu();
        // Names that the library would refuse to write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        let data = match kind {
            tar::EntryType::Regular => content.as_bytes(),
            _ => {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
                b""
            }
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn case_20_a_container_does_not_write_outside_of_the_target() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let outside = Temporary::new("hostile-outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    let away = outside.0.to_str().unwrap();
    let secret = format!("{away}/secret");
    let through = format!("{away}/new");
    for (index, entries) in [
        &[(Symlink, "a", away), (Regular, "a/new", "caught")][..],
        &[(Symlink, "a", secret.as_str()), (Regular, "a", "caught")],
        &[(Regular, "../new", "caught")],
        &[(Regular, through.as_str(), "caught")],
        &[
            (Directory, "a", ""),
            (Link, "a/l", secret.as_str()),
            (Regular, "a/l", "caught"),
        ],
        &[
            (Directory, "a", ""),
            (Symlink, "a/up", "../.."),
            (Regular, "a/up/new", "caught"),
        ],
        // Beside what was asked for.
        &[(Regular, "a", "x"), (Regular, "there", "caught")],
    ]
    .into_iter()
    .enumerate()
    {
        let to = Temporary::new(&format!("hostile-{index}"));
        fs::write(to.join("there"), "there").unwrap();
        let _ = get(&hostile(entries), "a", &to.0);
        assert_eq!(read(to.join("there")), "there", "{index}");
        assert_eq!(outside.names(), ["secret"], "{index}");
        assert_eq!(read(outside.join("secret")), "secret", "{index}");
        assert!(to.names().iter().all(|name| name == "a" || name == "there"));
    }
}

#[test]
fn case_20_a_link_of_an_earlier_copy_is_not_followed() {
    let outside = Temporary::new("earlier-outside");
    let to = Temporary::new("earlier");
    fs::create_dir(to.join("tree")).unwrap();
    symlink(&outside.0, to.join("tree/sub")).unwrap();
    let from = Temporary::new("earlier-from");
    fs::create_dir_all(from.join("tree/sub")).unwrap();
    fs::write(from.join("tree/sub/new"), "caught").unwrap();
    let error = get(&archive(&from.join("tree")), "tree", &to.0).unwrap_err();
    assert!(error.contains("sub: is no directory"), "{error}");
    assert!(outside.names().is_empty());
}

#[test]
fn files_bring_no_rights() {
    let to = Temporary::new("rights");
    let bytes = hostile(&[(tar::EntryType::Regular, "a", "x")]);
    get(&bytes, "a", &to.0).unwrap();
    let metadata = fs::metadata(to.join("a")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    // A name that deletes in a layer is a name here.
    let bytes = hostile(&[(tar::EntryType::Regular, ".wh.a", "y")]);
    get(&bytes, ".wh.a", &to.0).unwrap();
    assert_eq!(to.names(), [".wh.a", "a"]);
}
