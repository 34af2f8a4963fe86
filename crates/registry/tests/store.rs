//! The store as its callers see it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use common::{assert_consistent, layer, publish};
use registry::{Error, Kind, Store};
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    (dir, store)
}

fn blob_count(store: &Store) -> usize {
    fs::read_dir(store.layout().join("blobs/sha256")).unwrap().count()
}

#[test]
fn reading_an_absent_store_creates_nothing() {
    let (dir, store) = store();
    assert!(store.images().unwrap().is_empty());
    assert_eq!(store.resolve("x").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.usage().unwrap().blobs, 0);
    assert_eq!(store.prune(Duration::ZERO, SystemTime::now()).unwrap().blobs, 0);
    assert!(!dir.path().join("root").exists());
}

#[test]
fn an_image_is_found_by_name_digest_and_id() {
    let (_dir, store) = store();
    let one = publish(&store, None, &layer("a", b"1"), &["team/api:wip", "debian"]).unwrap();
    let two = publish(&store, Some("debian"), &layer("b", b"2"), &["other"]).unwrap();
    for name in ["team/api:wip", "docker.io/team/api:wip", "debian", "docker.io/library/debian:latest"] {
        assert_eq!(store.resolve(name).unwrap().digest(), one.manifest.digest, "{name}");
    }
    for id in [two.id, two.manifest.digest] {
        for text in [id.to_string(), id.hex(), id.hex()[..20].to_owned()] {
            assert_eq!(store.resolve(&text).unwrap().digest(), two.manifest.digest, "{text}");
        }
    }
    let pinned = format!("other@{}", two.manifest.digest);
    assert_eq!(store.resolve(&pinned).unwrap().digest(), two.manifest.digest);
    assert_eq!(store.resolve("team/api").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.resolve("A").unwrap_err().kind(), Kind::Invalid);
    let image = store.resolve("other").unwrap();
    assert_eq!(image.names, ["docker.io/library/other:latest"]);
    assert_eq!(image.manifest.layers.len(), 2);
    let history = image.history();
    assert_eq!(history[0].layer.unwrap().digest, image.manifest.layers[1].digest);
    assert_eq!(two.reused, image.manifest.layers[0].size);
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(store.root()), mode(store.layout())), (0o700, 0o700));
}

#[test]
fn an_ambiguous_prefix_is_a_conflict() {
    let (_dir, store) = store();
    let mut ids: Vec<String> = Vec::new();
    // 2 × 17 digests over 16 first digits: two begin alike, and soon in the second digit too.
    let prefix = (0..).find_map(|n: u32| {
        let published = publish(&store, None, &layer("a", &n.to_be_bytes()), &[]).unwrap();
        let hex = published.id.hex();
        let found = ids.iter().find(|id| id[..2] == hex[..2]).map(|id| id[..2].to_owned());
        ids.push(hex);
        found
    });
    assert_eq!(store.resolve(&prefix.unwrap()).unwrap_err().kind(), Kind::Conflict);
}

#[test]
fn a_name_moves_and_the_old_image_stays_until_it_is_pruned() {
    let (_dir, store) = store();
    let old = publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    let new = publish(&store, None, &layer("a", b"2"), &["x"]).unwrap();
    assert_eq!(store.resolve("x").unwrap().digest(), new.manifest.digest);
    assert!(store.resolve(&old.id.to_string()).unwrap().names.is_empty());
    let usage = store.usage().unwrap();
    let pruned = store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    assert_eq!((pruned.images, pruned.blobs, pruned.bytes), (1, 3, usage.reclaimable));
    assert_eq!(store.resolve(&old.id.to_string()).unwrap_err().kind(), Kind::NotFound);
    assert_consistent(&store);
}

#[test]
fn the_last_name_takes_the_image_with_it() {
    let (_dir, store) = store();
    publish(&store, None, &layer("a", b"1"), &["base"]).unwrap();
    let top = publish(&store, Some("base"), &layer("a", b"2"), &["top", "top:2"]).unwrap();
    assert_eq!(store.remove("top", false).unwrap().image, None);
    assert_eq!(store.resolve("top").unwrap_err().kind(), Kind::NotFound);
    let removed = store.remove("top:2", false).unwrap();
    assert_eq!((removed.image, removed.collected.blobs), (Some(top.manifest.digest), 3));
    assert_eq!(blob_count(&store), 3);
    store.tag("base", &"base:2".parse().unwrap()).unwrap();
    let id = store.resolve("base").unwrap().id().to_string();
    assert_eq!(store.remove(&id, false).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(store.remove(&id, true).unwrap().untagged.len(), 2);
    assert_eq!(blob_count(&store), 0);
}

#[test]
fn a_pinned_image_outlives_its_names() {
    let (_dir, store) = store();
    let image = publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    let pin = store.pin(&image.manifest.digest).unwrap();
    store.remove("x", false).unwrap();
    store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    assert_eq!(blob_count(&store), 3);
    drop(pin);
    store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    assert_eq!(blob_count(&store), 0);
    assert!(matches!(store.pin(&image.manifest.digest), Err(Error::NoBlob { .. })));
}

#[test]
fn young_blobs_of_foreign_tools_are_left_alone() {
    let (_dir, store) = store();
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    let foreign = store.layout().join("blobs/sha256").join(registry::Digest::of(b"f").hex());
    fs::write(&foreign, b"f").unwrap();
    assert_eq!(store.prune(Duration::from_secs(3600), SystemTime::now()).unwrap().blobs, 0);
    assert_eq!(store.remove("x", false).unwrap().collected.blobs, 3);
    assert!(foreign.exists());
    assert_eq!(store.prune(Duration::ZERO, SystemTime::now()).unwrap().blobs, 1);
}

#[test]
fn an_ingest_lives_as_long_as_its_maker() {
    let (_dir, store) = store();
    let ingest = store.ingest().unwrap();
    fs::write(store.layout().join("ingest/1-0"), b"of a dead process").unwrap();
    assert_eq!(store.prune(Duration::ZERO, SystemTime::now()).unwrap().blobs, 1);
    assert!(ingest.path().exists());
    let path = ingest.path().to_owned();
    drop(ingest);
    assert!(!path.exists());
    // The next process that writes takes away what a dead one left.
    fs::write(store.layout().join("ingest/1-0"), b"of a dead process").unwrap();
    let _alive = store.ingest().unwrap();
    let next = Store::open(store.root()).unwrap().ingest().unwrap();
    assert_eq!(fs::read_dir(store.layout().join("ingest")).unwrap().count(), 2);
    drop(next);
}

#[test]
fn a_name_to_give_has_no_digest() {
    let (_dir, store) = store();
    let name = format!("x@{}", registry::Digest::of(b""));
    assert_eq!(publish(&store, None, &layer("a", b"1"), &[&name]).unwrap_err().kind(), Kind::Invalid);
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    assert_eq!(store.tag("x", &name.parse().unwrap()).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn damage_is_named_and_never_served_as_verified() {
    let (_dir, store) = store();
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    let image = store.resolve("x").unwrap();
    let damage = |digest: &registry::Digest| {
        let path = store.layout().join("blobs/sha256").join(digest.hex());
        let mut bytes = fs::read(&path).unwrap();
        bytes[9] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    let layer_digest = image.manifest.layers[0].digest;
    damage(&layer_digest);
    for error in [
        store.verify(&layer_digest).unwrap_err(),
        store.verified_blob(&image.manifest.layers[0]).unwrap_err(),
        registry::archive::save(&store, &[(image.clone(), vec![])], &mut Vec::new()).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Damaged { digest, .. } if digest == layer_digest), "{error}");
        assert_eq!(error.kind(), Kind::Corrupt);
    }
    // Publishing the same layer again mends it, whatever its length.
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    store.verify(&layer_digest).unwrap();
    let path = store.layout().join("blobs/sha256").join(layer_digest.hex());
    fs::write(&path, b"short").unwrap();
    assert_eq!(store.verified_blob(&image.manifest.layers[0]).unwrap_err().kind(), Kind::Corrupt);
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    store.verify(&layer_digest).unwrap();
    // A damaged document makes its image unreadable, the others not; and nothing is collected then.
    publish(&store, None, &layer("b", b"2"), &["y"]).unwrap();
    damage(&image.digest());
    assert_eq!(store.resolve("x").unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(store.images().unwrap().iter().filter(|i| i.image.is_ok()).count(), 1);
    assert_eq!(store.prune(Duration::ZERO, SystemTime::now()).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(store.remove("y", false).unwrap_err().kind(), Kind::Corrupt);
    store.remove("x", false).unwrap();
    store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    assert_eq!(blob_count(&store), 0);
}

#[test]
fn a_manifest_cannot_name_what_is_not_there() {
    let (_dir, store) = store();
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    let base = store.resolve("x").unwrap();
    fs::remove_file(store.layout().join("blobs/sha256").join(base.manifest.layers[0].digest.hex())).unwrap();
    let before = blob_count(&store);
    let error = publish(&store, Some("x"), &layer("b", b"2"), &["y"]).unwrap_err();
    // Nothing of the attempt is left.
    assert_eq!(blob_count(&store), before);
    assert!(matches!(error, Error::NoBlob { digest } if digest == base.manifest.layers[0].digest));
    assert_eq!(store.resolve("y").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn unpacked_directories_are_known_by_identity() {
    let (dir, store) = store();
    let image = publish(&store, None, &layer("a", b"1"), &["x"]).unwrap().manifest.digest;
    let (one, two) = (dir.path().join("1"), dir.path().join("2"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    assert_eq!(store.find_unpacked(&[&one]).unwrap(), None);
    store.record_unpacked(&[&one], &image).unwrap();
    assert_eq!(store.find_unpacked(&[&one]).unwrap(), Some(image));
    assert_eq!(store.find_unpacked(&[&two, &one]).unwrap(), None);
    let moved = dir.path().join("3");
    fs::rename(&one, &moved).unwrap();
    assert_eq!(store.find_unpacked(&[&moved]).unwrap(), Some(image));
    fs::create_dir(&one).unwrap();
    assert_eq!(store.find_unpacked(&[&one]).unwrap(), None);
    for record in fs::read_dir(store.root().join("state/unpacked")).unwrap() {
        fs::write(record.unwrap().path(), b"torn").unwrap();
    }
    assert_eq!(store.find_unpacked(&[&moved]).unwrap(), None);
    fs::remove_dir_all(store.root().join("state")).unwrap();
    assert_eq!(store.find_unpacked(&[&moved]).unwrap(), None);
}

#[test]
fn another_layout_version_is_refused() {
    let (_dir, store) = store();
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    fs::write(store.layout().join("oci-layout"), br#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(matches!(Store::open(store.root()), Err(Error::Layout { version, .. }) if version == "2.0.0"));
}
