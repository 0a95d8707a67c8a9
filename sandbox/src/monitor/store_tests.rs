use std::fs;

use super::*;
use crate::monitor::plan::PodPlan;
use crate::rundir::RunDir;

fn root(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("podvmm-store-{}-{test}", std::process::id()))
}

fn pod(root: &Path, name: &str, phase: Phase) -> RunDir {
    let dir = RunDir::create(root, name).unwrap();
    dir.keep(true).unwrap();
    let mut record = PodRecord::new(&PodPlan::new(name), false);
    record.phase = phase;
    record.write(dir.path()).unwrap();
    dir
}

/// Lets go of a directory. A process that another test is about to start has what we have, for an instant.
fn leave(dir: RunDir) {
    let path = dir.path().to_owned();
    drop(dir);
    assert!(wait_for_lock(&path, Duration::from_secs(10)));
}

#[test]
fn what_nobody_owns_is_dead_unless_it_had_ended() {
    let root = root("status");
    let store = PodStore::new(&root);
    assert_eq!(store.list().unwrap(), []);
    let running = pod(&root, "running", Phase::Running);
    leave(pod(&root, "ended", Phase::Stopped));
    leave(pod(&root, "starting", Phase::Creating));
    fs::create_dir(root.join("empty")).unwrap();
    let library = RunDir::create(&root, "library").unwrap();
    let status = || -> Vec<_> {
        let views = store.list().unwrap().into_iter();
        views.map(|view| (view.name, view.status)).collect()
    };
    let named = |name: &str, status| (name.to_owned(), status);
    assert_eq!(
        status(),
        [
            named("empty", Status::Dead),
            named("ended", Status::Stopped),
            named("library", Status::Unmanaged),
            named("running", Status::Running),
            named("starting", Status::Dead),
        ]
    );
    let error = store.remove("library", true).unwrap_err().to_string();
    assert!(error.contains("cannot be asked"), "{error}");
    leave(running);
    let view = store.get("running").unwrap();
    assert_eq!(view.status, Status::Dead);
    let reason = view.reason.unwrap();
    assert!(reason.contains("was killed while the pod ran"), "{reason}");
    leave(library);
    for name in ["empty", "ended", "running", "starting"] {
        store.remove(name, false).unwrap();
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn another_run_of_the_host_is_recognised() {
    let root = root("boot");
    let dir = pod(&root, "web", Phase::Running);
    let mut record = PodRecord::read(dir.path()).unwrap();
    record.boot_id = "another".into();
    // A number that somebody else has by now.
    record.warden = record.monitor;
    record.write(dir.path()).unwrap();
    leave(dir);
    let store = PodStore::new(&root);
    let reason = store.get("web").unwrap().reason.unwrap();
    assert!(reason.contains("restarted"), "{reason}");
    store.remove("web", false).unwrap();
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_lives_is_not_removed_and_what_is_not_there_is_said_so() {
    let root = root("alive");
    let store = PodStore::new(&root);
    let dir = pod(&root, "web", Phase::Running);
    let error = store.remove("web", false).unwrap_err().to_string();
    assert!(
        error.contains("in use") && error.contains("rm -f"),
        "{error}"
    );
    assert!(dir.path().join("state.json").exists());
    for name in ["other", "../web", "", "web/vm"] {
        let error = store.remove(name, true).unwrap_err().to_string();
        assert!(error.contains("there is no pod"), "{error}");
    }
    leave(dir);
    store.remove("web", true).unwrap();
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_malformed_record_hides_no_pod() {
    let root = root("malformed");
    let dir = pod(&root, "web", Phase::Running);
    fs::write(dir.path().join("state.json"), "{").unwrap();
    let store = PodStore::new(&root);
    assert_eq!(store.get("web").unwrap().status, Status::Unmanaged);
    leave(dir);
    assert_eq!(store.get("web").unwrap().status, Status::Dead);
    store.remove("web", false).unwrap();
    fs::remove_dir_all(root).unwrap();
}
