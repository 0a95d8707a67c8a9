//! What is kept, what is removed, and what is left when somebody goes away half-way.

use std::fs;
use std::sync::Barrier;

use super::*;
use crate::manifest::{OCI_LAYER, OCI_MANIFEST};
use crate::progress::Silent;
use crate::testing::{Tar, TempDir, TestImage};

fn store() -> (TempDir, Store) {
    let dir = TempDir::new();
    let store = Store::open(dir.join("store")).unwrap();
    (dir, store)
}

fn add(store: &Store, name: &str, image: &TestImage) -> Image {
    for (digest, bytes) in &image.blobs {
        let at = Descriptor::new(OCI_LAYER, *digest, bytes.len() as u64);
        store.blobs.put(&at, bytes).unwrap();
    }
    let size = image.blobs[&image.manifest].len() as u64;
    let at = Descriptor::new(OCI_MANIFEST, image.manifest, size);
    store
        .add(&name.parse().unwrap(), &Platform::default(), &at)
        .unwrap()
}

fn image(content: &[u8]) -> TestImage {
    TestImage::plain(&[Tar::new().file("f", content).end()])
}

/// Files below a directory of the store.
fn count(store: &Store, part: &str) -> usize {
    fs::read_dir(store.dir.join(part)).unwrap().count()
}

#[test]
fn bytes_that_are_not_what_they_should_be_are_not_kept() {
    let (_dir, store) = store();
    let wanted = Descriptor::new(OCI_LAYER, Digest::of(b"good"), 4);
    assert!(matches!(
        store.blobs.put(&wanted, b"evil"),
        Err(StoreError::Digest { .. })
    ));
    assert!(matches!(
        store.blobs.put(&wanted, b"longer"),
        Err(StoreError::Size { .. })
    ));
    let copy = |mut bytes: &[u8]| store.blobs.copy(&wanted, &mut bytes, &Silent);
    assert!(matches!(copy(b"evil"), Err(StoreError::Digest { .. })));
    assert!(matches!(copy(b"goo"), Err(StoreError::Size { .. })));
    assert!(matches!(
        copy(b"good and more"),
        Err(StoreError::Size { .. })
    ));
    assert_eq!(count(&store, "blobs/sha256"), 0);
    copy(b"good").unwrap();
    assert_eq!(
        (count(&store, "blobs/sha256"), count(&store, "partial")),
        (1, 0)
    );
    // Once there, it is not taken in again.
    copy(b"evil").unwrap();
    assert_eq!(store.blobs.read(&wanted).unwrap().unwrap(), b"good");
    let longer = Descriptor::new(OCI_LAYER, wanted.digest, 5);
    assert!(store.blobs.has(&longer).is_err());
}

#[test]
fn what_a_process_left_is_taken_up() {
    let (_dir, store) = store();
    let wanted = Descriptor::new(OCI_LAYER, Digest::of(b"first second"), 12);
    let mut partial = store.blobs.begin(&wanted).unwrap().unwrap();
    partial.append(b"first ").unwrap();
    drop(partial);
    let mut partial = store.blobs.begin(&wanted).unwrap().unwrap();
    assert_eq!(partial.length(), 6);
    partial.append(b"second").unwrap();
    partial.finish().unwrap();
    assert!(store.blobs.begin(&wanted).unwrap().is_none());
}

#[test]
fn an_image_is_found_by_name_and_id() {
    let (_dir, store) = store();
    let first = add(&store, "app:1", &image(b"1"));
    add(&store, "app:2", &image(b"2"));
    add(&store, "other/name", &image(b"1"));
    let reference = "docker.io/library/app:1".parse().unwrap();
    assert_eq!(store.resolve(&reference).unwrap().unwrap().id(), first.id());
    assert!(store.resolve(&"app:3".parse().unwrap()).unwrap().is_none());
    assert_eq!(store.find("app:2").unwrap().name, "docker.io/library/app:2");
    let short = store.find("app:2").unwrap().id.short();
    assert_eq!(store.find(&short).unwrap().name, "docker.io/library/app:2");
    let two = store.find(&first.id().short()).unwrap_err().to_string();
    assert!(two.contains("app:1") && two.contains("other/name"), "{two}");
    for text in ["nothing", "ab", "", "0000"] {
        assert!(
            matches!(store.find(text), Err(StoreError::NotFound(_))),
            "{text}"
        );
    }
}

#[test]
fn a_name_that_comes_again_stands_for_the_new_image() {
    let (_dir, store) = store();
    add(&store, "app", &image(b"old"));
    let new = add(&store, "app", &image(b"new"));
    let records = store.list().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].id, new.id());
    let freed = store.prune(false).unwrap();
    assert_eq!(freed.blobs, 3);
    let root = new.rootfs().unwrap();
    assert_eq!(fs::read(root.path().join("f")).unwrap(), b"new");
}

#[test]
fn an_image_in_use_is_not_removed() {
    let (_dir, store) = store();
    let image = add(&store, "app", &image(b"1"));
    let root = image.rootfs().unwrap();
    assert!(root.summary().is_some());
    let again = image.rootfs().unwrap();
    assert!(again.summary().is_none());
    assert!(matches!(store.remove("app"), Err(StoreError::InUse(_))));
    let freed = store.prune(true).unwrap();
    assert_eq!(
        (freed.names.len(), freed.in_use.len(), freed.roots),
        (0, 1, 0)
    );
    drop(root);
    assert!(matches!(store.remove("app"), Err(StoreError::InUse(_))));
    assert!(again.path().join("f").exists());
    drop(again);
    let freed = store.remove("app").unwrap();
    assert_eq!((freed.names.len(), freed.blobs, freed.roots), (1, 3, 1));
    for part in ["blobs/sha256", "partial", "roots", "tmp"] {
        assert_eq!(count(&store, part), 0, "{part}");
    }
    assert!(matches!(image.rootfs(), Err(StoreError::Missing { .. })));
}

#[test]
fn an_image_stays_as_long_as_it_has_a_name() {
    let (_dir, store) = store();
    let one = add(&store, "one", &image(b"1"));
    add(&store, "two", &image(b"1"));
    let root = one.rootfs().unwrap();
    // The root stays, so its users do not mind.
    let freed = store.remove("one").unwrap();
    assert_eq!((freed.blobs, freed.roots), (0, 0));
    drop(root);
    let freed = store.prune(true).unwrap();
    assert_eq!((freed.names.len(), freed.blobs, freed.roots), (1, 3, 1));
}

#[test]
fn while_blobs_come_none_is_thrown_away() {
    let (_dir, store) = store();
    let at = Descriptor::new(OCI_LAYER, Digest::of(b"x"), 1);
    store.blobs.put(&at, b"x").unwrap();
    let busy = store.busy().unwrap();
    assert!(store.prune(true).unwrap().busy);
    assert!(store.blobs.has(&at).unwrap());
    drop(busy);
    assert_eq!(store.prune(true).unwrap().blobs, 1);
}

#[test]
fn a_layer_that_is_not_the_configurations_is_refused() {
    let (_dir, store) = store();
    let layers = [(
        Tar::new().file("evil", b"").end(),
        Tar::new().file("good", b"").end(),
    )];
    let image = add(
        &store,
        "app",
        &TestImage::of(&layers, serde_json::json!({})),
    );
    let error = image.rootfs().unwrap_err();
    assert!(matches!(error, StoreError::DiffId { .. }), "{error}");
    let hostile = TestImage::plain(&[Tar::new().file("../x", b"").end()]);
    let error = add(&store, "hostile", &hostile).rootfs().unwrap_err();
    assert!(matches!(error, StoreError::Unpack { .. }), "{error}");
    assert_eq!(count(&store, "tmp"), 0);
    assert!(!store.dir.join("x").exists() && !store.dir.join("tmp/x").exists());
}

#[test]
fn many_want_the_same_root_at_once() {
    let (_dir, store) = store();
    let layers = [Tar::new().file("f", &[7; 300_000]).end()];
    let image = add(&store, "app", &TestImage::plain(&layers));
    let all = Barrier::new(8);
    let made = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    all.wait();
                    let root = image.rootfs().unwrap();
                    assert_eq!(fs::read(root.path().join("f")).unwrap().len(), 300_000);
                    root.summary().is_some()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .filter(|made| *made)
            .count()
    });
    assert_eq!(made, 1);
}

#[test]
fn many_change_the_index_at_once() {
    let (_dir, store) = store();
    let image = image(b"1");
    add(&store, "first", &image);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (store, image) = (&store, &image);
            scope.spawn(move || {
                add(store, &format!("app:{number}"), image);
                if number % 2 == 0 {
                    store.remove(&format!("app:{number}")).unwrap();
                }
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 5);
    assert!(
        store
            .list()
            .unwrap()
            .into_iter()
            .all(|record| store.load(record).is_ok())
    );
}

#[test]
fn what_was_left_behind_is_thrown_away() {
    let (_dir, store) = store();
    let image = add(&store, "app", &image(b"1"));
    // A process was killed while it unpacked, another while it removed, another while it pulled.
    let chain = image.record().chain_id.hex();
    fs::create_dir_all(store.dir.join("tmp").join(&chain).join("half")).unwrap();
    fs::create_dir_all(
        store
            .dir
            .join("tmp")
            .join(format!("{}.removed/x", "a".repeat(64))),
    )
    .unwrap();
    fs::write(store.dir.join("partial").join("b".repeat(64)), "half").unwrap();
    fs::write(store.dir.join("names.json.new"), "{").unwrap();
    let root = image.rootfs().unwrap();
    assert!(!root.path().join("half").exists());
    store.prune(false).unwrap();
    assert_eq!((count(&store, "tmp"), count(&store, "partial")), (0, 0));
    assert!(root.path().join("f").exists());
}

#[test]
fn a_damaged_store_says_so() {
    let (_dir, store) = store();
    let image = add(&store, "app", &image(b"1"));
    let blob = store.dir.join("blobs/sha256").join(image.id().hex());
    fs::write(&blob, "x").unwrap();
    let reference = "app".parse().unwrap();
    assert!(matches!(
        store.resolve(&reference),
        Err(StoreError::Size { .. })
    ));
    fs::remove_file(&blob).unwrap();
    assert!(matches!(
        store.resolve(&reference),
        Err(StoreError::Missing { .. })
    ));
    // It can be removed all the same.
    store.remove("app").unwrap();
    for text in ["{", "{\"version\":2,\"images\":[]}", "[]"] {
        fs::write(store.dir.join("names.json"), text).unwrap();
        assert!(
            matches!(store.list(), Err(StoreError::Names { .. })),
            "{text}"
        );
    }
}

#[test]
fn a_store_that_others_can_change_is_refused() {
    let dir = TempDir::new();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::Foreign { .. })
    ));
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.join("roots")).unwrap();
    fs::set_permissions(dir.join("roots"), Permissions::from_mode(0o755)).unwrap();
    Store::open(dir.path()).unwrap();
    // What it holds is for nobody else, set-user-ID programs above all.
    let mode = fs::metadata(dir.join("roots"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(1000), None).unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(StoreError::Foreign { owner: 1000, .. })
        ));
    }
}
