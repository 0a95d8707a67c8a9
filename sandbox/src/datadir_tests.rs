use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::rundir::{Abandoned, RunDir};

/// A place for pods, and one for what they have on disk.
fn places(test: &str) -> (PathBuf, PathBuf) {
    let base = std::env::temp_dir().join(format!("podvmm-data-{}-{test}", std::process::id()));
    (base.join("run"), base.join("data"))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn fill(data: &DataDir) {
    data.volume("a", None).unwrap();
    fs::create_dir_all(data.path.join("a/b/c")).unwrap();
    fs::write(data.path.join("a/b/file"), "x").unwrap();
}

#[test]
fn it_goes_with_the_pods_own_directory() {
    let (root, data) = places("owner");
    let pod = RunDir::create(&root, "web").unwrap();
    let own = DataDir::create(&data, pod.path()).unwrap();
    fill(&own);
    assert_eq!(names(&data).len(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&own.path), 0o700);
    assert_eq!(mode(&own.path.join("a")), 0o777);
    drop(pod);
    assert_eq!(names(&data), [""; 0]);
    assert_eq!(names(&root), [""; 0]);
    fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
fn one_that_is_kept_is_removed_with_the_pod() {
    let (root, data) = places("kept");
    let pod = RunDir::create(&root, "web").unwrap();
    pod.keep(true).unwrap();
    let own = DataDir::create(&data, pod.path()).unwrap();
    fill(&own);
    let path = own.path.clone();
    drop((pod, own));
    assert!(path.join("a/b/file").exists());
    // Another pod's start leaves it alone.
    let other = RunDir::create(&root, "other").unwrap();
    let _others = DataDir::create(&data, other.path()).unwrap();
    assert!(path.join("a/b/file").exists());
    Abandoned::take(&root, "web").unwrap().remove().unwrap();
    assert_eq!(names(&data).len(), 1);
    drop(other);
    assert_eq!(names(&data), [""; 0]);
    fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
fn what_a_dead_pod_left_is_not_the_next_ones() {
    let (root, data) = places("again");
    let pod = RunDir::create(&root, "web").unwrap();
    let own = DataDir::create(&data, pod.path()).unwrap();
    fill(&own);
    let path = own.path.clone();
    // Killed: nothing is dropped, and the kernel takes the locks.
    let stolen = root.join("stolen");
    fs::rename(pod.path(), &stolen).unwrap();
    drop((pod, own));
    fs::rename(&stolen, root.join("web")).unwrap();
    let pod = RunDir::create(&root, "web").unwrap();
    assert!(!path.exists());
    let own = DataDir::create(&data, pod.path()).unwrap();
    assert_eq!(names(&own.path), [LOCK]);
    drop(pod);
    fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
fn what_no_link_leads_to_is_swept_unless_it_is_locked() {
    let (root, data) = places("swept");
    let pod = RunDir::create(&root, "web").unwrap();
    let own = DataDir::create(&data, pod.path()).unwrap();
    fill(&own);
    let path = own.path.clone();
    // As after a restart of the host: what was in /run is gone.
    fs::remove_dir_all(&root).unwrap();
    let other = RunDir::create(&root, "other").unwrap();
    drop(DataDir::create(&data, other.path()).unwrap());
    assert!(path.exists(), "it is locked");
    drop((pod, own, other));
    fs::create_dir_all(data.join(".removed-1-1/x")).unwrap();
    fs::create_dir(data.join("not ours")).unwrap();
    let other = RunDir::create(&root, "other").unwrap();
    let others = DataDir::create(&data, other.path()).unwrap();
    assert!(!path.exists());
    let mut left = names(&data);
    left.sort();
    let name = others.path.file_name().unwrap().to_str().unwrap();
    assert_eq!(left, [name, "not ours"]);
    drop(other);
    fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
fn a_directory_of_others_is_refused() {
    let (root, data) = places("others");
    let pod = RunDir::create(&root, "web").unwrap();
    fs::create_dir_all(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    let error = DataDir::create(&data, pod.path()).unwrap_err();
    assert!(matches!(error, DataDirError::NotOurs(_)), "{error}");
    drop(pod);
    fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
fn a_volume_has_its_group() {
    let (root, data) = places("group");
    let pod = RunDir::create(&root, "web").unwrap();
    let own = DataDir::create(&data, pod.path()).unwrap();
    if rustix::process::geteuid().is_root() {
        own.volume("a", Some(77)).unwrap();
        let made = fs::metadata(own.path.join("a")).unwrap();
        assert_eq!((made.gid(), made.mode() & 0o7777), (77, 0o2777));
    } else {
        let error = own.volume("a", Some(77)).unwrap_err().to_string();
        assert!(error.contains("fsGroup 77"), "{error}");
    }
    drop(pod);
    fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
fn a_path_is_a_word_and_back() {
    for path in ["/run/podvmm/web", "/a!b/%c/ü", "/"] {
        let word = word(Path::new(path));
        assert!(!word.contains('/'), "{word}");
        assert_eq!(unword(word.as_ref()).unwrap(), Path::new(path));
    }
    assert_eq!(word(Path::new("/run/podvmm/web")), "!run!podvmm!web");
    for word in ["run", "", "not ours", "%2", "%zz", "!a%2"] {
        assert_eq!(unword(word.as_ref()), None, "{word}");
    }
}
