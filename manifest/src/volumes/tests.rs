use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::plan::PlannedFile;

/// A directory that goes with the test.
struct Temp(PathBuf);

impl Temp {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("podvmm-volumes-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn prepare(&self, name: &str, content: Content) -> Result<Prepared, VolumeError> {
        let volume = VolumePlan {
            name: name.into(),
            content,
            group: None,
        };
        prepare(fs::File::open(&self.0).unwrap(), &volume)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn file(path: &str, mode: u32, data: &str) -> PlannedFile {
    PlannedFile {
        path: path.into(),
        mode,
        data: data.into(),
    }
}

#[test]
fn an_empty_directory_is_everybodys_and_is_kept() {
    let temp = Temp::new();
    temp.prepare("work", Content::Directory).unwrap();
    let path = temp.0.join("work");
    assert_eq!(mode(&path), 0o777);
    fs::write(path.join("kept"), "").unwrap();
    temp.prepare("work", Content::Directory).unwrap();
    assert!(path.join("kept").exists());
}

#[test]
fn a_group_gets_its_volume() {
    let temp = Temp::new();
    // A group that this process is in can be given without privilege.
    let group = fs::metadata(&temp.0).unwrap().gid();
    let dir = fs::File::open(&temp.0).unwrap();
    let volume = |name: &str, content| VolumePlan {
        name: name.into(),
        content,
        group: Some(group),
    };
    prepare(&dir, &volume("work", Content::Directory)).unwrap();
    assert_eq!(mode(&temp.0.join("work")), 0o2777);
    let files = Content::Files(vec![file("a", 0o400, "x"), file("b", 0o004, "x")]);
    prepare(&dir, &volume("conf", files)).unwrap();
    assert_eq!(mode(&temp.0.join("conf/a")), 0o440);
    assert_eq!(mode(&temp.0.join("conf/b")), 0o004);
    assert_eq!(fs::metadata(temp.0.join("conf/a")).unwrap().gid(), group);
}

#[test]
fn files_are_seen_through_one_link() {
    let temp = Temp::new();
    let files = vec![file("a", 0o644, "1"), file("deep/er/b", 0o400, "2")];
    temp.prepare("conf", Content::Files(files)).unwrap();
    let path = temp.0.join("conf");
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(path.join("deep/er/b")).unwrap(), "2");
    assert_eq!(mode(&path.join("deep/er/b")), 0o400);
    assert_eq!(mode(&path.join("deep/er")), 0o755);
    assert_eq!(
        fs::read_link(path.join("a")).unwrap(),
        Path::new("..data/a")
    );
    assert_eq!(
        fs::read_link(path.join("..data")).unwrap(),
        Path::new("..1")
    );

    // A new version takes the place of the old one by one rename.
    temp.prepare("conf", Content::Files(vec![file("a", 0o644, "3")]))
        .unwrap();
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
    assert_eq!(
        fs::read_link(path.join("..data")).unwrap(),
        Path::new("..2")
    );
    assert!(
        !path.join("deep").exists(),
        "the link to what is gone leads nowhere"
    );
}

#[test]
fn links_are_not_followed_when_making_volumes() {
    let temp = Temp::new();
    let outside = Temp::new();
    symlink(&outside.0, temp.0.join("work")).unwrap();
    for content in [
        Content::Directory,
        Content::Files(vec![file("a", 0o644, "")]),
    ] {
        let error = temp.prepare("work", content).unwrap_err();
        assert_eq!(error.to_string(), "volume work: making its directory");
    }
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0);
    assert_eq!(mode(&outside.0), mode(&temp.0), "nor is its mode changed");
}

#[test]
fn memory_is_the_guests() {
    let temp = Temp::new();
    let prepared = temp.prepare("shm", Content::Memory { size: Some(4096) });
    assert!(matches!(
        prepared,
        Ok(Prepared::Memory { size: Some(4096) })
    ));
    assert_eq!(fs::read_dir(&temp.0).unwrap().count(), 0);
}

#[test]
fn types_of_host_paths() {
    use HostPathType::{Any, Directory, DirectoryOrCreate, File, FileOrCreate};
    let temp = Temp::new();
    let dir = temp.0.join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(temp.0.join("file"), "").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        temp.0.join("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for (name, kind, fits) in [
        ("dir", Any, true),
        ("file", Any, true),
        ("fifo", Any, false),
        ("dir", Directory, true),
        ("file", Directory, false),
        ("missing", Directory, false),
        ("missing", File, false),
        ("dir", File, false),
        ("file", File, true),
        ("dir", FileOrCreate, false),
        ("file", DirectoryOrCreate, false),
        ("new/deep", DirectoryOrCreate, true),
        ("newfile", FileOrCreate, true),
        ("nowhere/newfile", FileOrCreate, false),
    ] {
        let path = temp.0.join(name).to_str().unwrap().to_owned();
        let prepared = temp.prepare("v", Content::Host { path, kind });
        assert_eq!(prepared.is_ok(), fits, "{name} {kind:?}: {prepared:?}");
    }
    assert_eq!(mode(&temp.0.join("new/deep")) & 0o700, 0o700);
    let path = temp.0.join("fifo").to_str().unwrap().to_owned();
    let error = temp.prepare(
        "v",
        Content::Host {
            path: path.clone(),
            kind: Any,
        },
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        format!(
            "volume v: hostPath {path}: is a FIFO, and the type Any asks for another: only files and directories can be shared with a guest"
        )
    );
}

#[test]
fn a_sub_path_stays_in_its_volume() {
    let temp = Temp::new();
    let outside = Temp::new();
    fs::write(outside.0.join("secret"), "").unwrap();
    temp.prepare("work", Content::Directory).unwrap();
    let path = temp.0.join("work");
    fs::write(path.join("file"), "").unwrap();
    symlink(&outside.0, path.join("out")).unwrap();
    symlink("..", path.join("up")).unwrap();
    symlink("file", path.join("in")).unwrap();
    symlink("nowhere", path.join("dangling")).unwrap();
    let open = |sub: &str| sub_path::open(fs::File::open(&path).unwrap(), sub);

    for sub in ["file", "in", "", "new/deep/er"] {
        open(sub).unwrap_or_else(|error| panic!("{sub}: {error}"));
    }
    assert_eq!(mode(&path.join("new/deep")), 0o777, "as the volume");
    for sub in ["out", "out/secret", "out/new", "up/x", "dangling", "file/x"] {
        assert!(open(sub).is_err(), "{sub}");
    }
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&temp.0).unwrap().count(), 1);
}

#[test]
fn a_file_of_a_config_map_is_a_sub_path() {
    let temp = Temp::new();
    temp.prepare("conf", Content::Files(vec![file("a.conf", 0o644, "x")]))
        .unwrap();
    let volume = fs::File::open(temp.0.join("conf")).unwrap();
    let opened = sub_path::open(volume, "a.conf").unwrap();
    let stat = rustix::fs::fstat(opened).unwrap();
    assert!(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file());
}
