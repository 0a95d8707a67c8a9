use super::*;

fn root(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("podvmm-rundir-{}-{test}", std::process::id()))
}

#[test]
fn a_name_is_taken_until_its_owner_is_gone() {
    let root = root("taken");
    let first = RunDir::create(&root, "web").unwrap();
    assert!(matches!(
        RunDir::create(&root, "web"),
        Err(RunDirError::Taken(_))
    ));
    drop(first);
    assert!(!root.join("web").exists());
    drop(RunDir::create(&root, "web").unwrap());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_a_dead_owner_left_is_cleaned() {
    let root = root("stale");
    fs::create_dir_all(root.join("web/deep")).unwrap();
    fs::create_dir_all(root.join("web/vm")).unwrap();
    fs::write(root.join("web/vm/sock"), "").unwrap();
    fs::write(root.join("web/lock"), "").unwrap();
    let taken = RunDir::create(&root, "web").unwrap();
    assert!(!taken.vsock().exists() && !root.join("web/deep").exists());
    drop(taken);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn only_an_abandoned_directory_is_removed_from_outside() {
    let root = root("abandoned");
    let pod = RunDir::create(&root, "web").unwrap();
    remove_abandoned(pod.path());
    assert!(pod.path().exists());
    drop(pod);
    fs::create_dir_all(root.join("old")).unwrap();
    fs::write(root.join("old/lock"), "").unwrap();
    remove_abandoned(&root.join("old"));
    assert!(!root.join("old").exists());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_kept_directory_outlives_its_owner_without_what_was_the_vmms() {
    let root = root("kept");
    let pod = RunDir::create(&root, "web").unwrap();
    pod.keep(true).unwrap();
    fs::write(pod.path().join("state.json"), "{}").unwrap();
    assert!(is_owned(pod.path()));
    assert!(matches!(
        Abandoned::take(&root, "web"),
        Err(RunDirError::InUse(_))
    ));
    drop(pod);
    let path = root.join("web");
    assert!(path.join("state.json").exists() && !path.join(VMM_ROOT).exists());
    assert!(!is_owned(&path));
    remove_abandoned(&path);
    assert_eq!(names(&root).unwrap(), ["web"]);
    assert!(matches!(
        RunDir::create(&root, "web"),
        Err(RunDirError::Kept(_))
    ));
    Abandoned::take(&root, "web").unwrap().remove().unwrap();
    assert!(matches!(
        Abandoned::take(&root, "web"),
        Err(RunDirError::NotFound(..))
    ));
    let pod = RunDir::create(&root, "web").unwrap();
    pod.keep(true).unwrap();
    pod.keep(false).unwrap();
    drop(pod);
    assert_eq!(names(&root).unwrap(), [""; 0]);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_was_half_removed_is_no_pod_and_goes() {
    let root = root("half");
    fs::create_dir_all(root.join(".removed-1-web/vm")).unwrap();
    assert_eq!(names(&root).unwrap(), [""; 0]);
    drop(RunDir::create(&root, "web").unwrap());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_root_that_others_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let root = root("open");
    fs::create_dir_all(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        RunDir::create(&root, "web"),
        Err(RunDirError::NotOurs(_))
    ));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn names_cannot_leave_the_root() {
    let long = "x".repeat(MAX_NAME + 1);
    for name in ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", &long] {
        assert!(
            matches!(check_name(name), Err(RunDirError::Name(_))),
            "{name}"
        );
    }
    check_name("web-1.example_X").unwrap();
}
