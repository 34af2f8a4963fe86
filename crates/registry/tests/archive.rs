//! Archives of every kind that tools write, and of kinds that only an enemy writes.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use common::{assert_consistent, layer, publish, publish_as};
use registry::archive::{ArchiveError, Limits, load, save};
use registry::config::ImageConfig;
use registry::media::{self, Format};
use registry::{Digest, Error, Kind, Reference, Store};
use serde_json::json;
use tempfile::TempDir;

fn store() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&dir.path().join("root")).unwrap();
    (dir, store)
}

/// A member of a hand-made archive.
struct Member<'a> {
    name: &'a str,
    kind: u8,
    link: &'a str,
    content: &'a [u8],
    /// What the header says, if not the truth.
    size: Option<u64>,
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Member<'a> {
    Member { name, kind: b'0', link: "", content, size: None }
}

fn link<'a>(name: &'a str, target: &'a str) -> Member<'a> {
    Member { name, kind: b'2', link: target, content: b"", size: None }
}

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members {
        let mut header = [0u8; 512];
        let size = member.size.unwrap_or(member.content.len() as u64);
        header[..member.name.len()].copy_from_slice(member.name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[156] = member.kind;
        header[157..157 + member.link.len()].copy_from_slice(member.link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(member.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids = layers.iter().map(|layer| Digest::of(layer)).collect();
    config.to_json()
}

fn saved(store: &Store, names: &[&str]) -> Vec<u8> {
    let images: Vec<_> = names
        .iter()
        .map(|name| {
            let image = store.resolve(name).unwrap();
            let names = image.names.iter().map(|name| name.parse().unwrap()).collect();
            (image, names)
        })
        .collect();
    let mut bytes = Vec::new();
    save(store, &images, &mut bytes).unwrap();
    bytes
}

/// The archive is refused, nothing is stored, and the store goes on working.
fn refused(archive: &[u8]) -> Error {
    let (_dir, store) = store();
    publish(&store, None, &layer("a", b"1"), &["x"]).unwrap();
    let error = load(&store, archive, Limits::default()).unwrap_err();
    assert_eq!(store.images().unwrap().len(), 1, "{error}");
    assert_eq!(store.prune(Duration::ZERO, SystemTime::now()).unwrap().blobs, 0, "{error}");
    assert_consistent(&store);
    error
}

fn archive_error(archive: &[u8]) -> ArchiveError {
    match refused(archive) {
        Error::Archive(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_saved_can_be_loaded() {
    let (_dir, from) = store();
    publish(&from, None, &layer("a", b"1"), &["base", "team/base:2"]).unwrap();
    publish(&from, Some("base"), &layer("big", &vec![7; 100_000]), &["quay.io/top"]).unwrap();
    publish_as(&from, Format::Docker, Some("base"), &layer("c", b"3"), &["docker:v2"]).unwrap();
    let archive = saved(&from, &["base", "quay.io/top", "docker:v2"]);
    assert_eq!(archive, saved(&from, &["base", "quay.io/top", "docker:v2"]));
    let (_dir, to) = store();
    // One byte at a time: a pipe may do that.
    let loaded = load(&to, Trickle(&archive), Limits::default()).unwrap();
    assert_eq!(loaded.len(), 3);
    assert_eq!(
        loaded[0].names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        ["base:latest", "team/base:2"]
    );
    for name in ["base", "team/base:2", "quay.io/top", "docker:v2"] {
        let (ours, theirs) = (to.resolve(name).unwrap(), from.resolve(name).unwrap());
        assert_eq!((ours.digest(), ours.config), (theirs.digest(), theirs.config), "{name}");
    }
    assert_eq!(to.resolve("docker:v2").unwrap().manifest.format(), Format::Docker);
    assert_consistent(&to);
    assert_eq!(archive, saved(&to, &["base", "quay.io/top", "docker:v2"]));
}

struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(1);
        self.0.read(&mut buffer[..n])
    }
}

#[test]
fn docker_archives_of_both_ages() {
    let (lower, upper) = (layer("a", b"1"), layer("b", b"2"));
    let config = config(&[&lower, &upper, &lower]);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let table = serde_json::to_vec(&json!([{"Config": config_name, "RepoTags": ["x:1", "BAD"],
        "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]}]))
    .unwrap();
    let archive = tar(&[
        file("./1/layer.tar", &lower),
        file("1/VERSION", b"1.0"),
        file("2/layer.tar", &upper),
        link("3/layer.tar", "../1/layer.tar"),
        file(&config_name, &config),
        file("manifest.json", &table),
        file("repositories", b"{}"),
    ]);
    let (_dir, store) = store();
    let loaded = load(&store, &archive[..], Limits::default()).unwrap();
    assert_eq!((loaded[0].unnamed.as_deref(), loaded[0].id), (Some("BAD"), Digest::of(&config)));
    let image = store.resolve("x:1").unwrap();
    assert_eq!(image.descriptor.media_type, media::DOCKER_MANIFEST);
    assert_eq!(image.manifest.layers[2].digest, Digest::of(&lower));
    assert_consistent(&store);
    // lower, upper, configuration, manifest; the rest is gone.
    let usage = store.usage().unwrap();
    assert_eq!((usage.ingests, usage.reclaimable), (0, 0));
}

#[test]
fn an_image_index_gives_this_machines_image() {
    let (_dir, from) = store();
    let image = publish(&from, None, &layer("a", b"1"), &["x"]).unwrap();
    let mut blobs = BTreeMap::new();
    let resolved = from.resolve("x").unwrap();
    for blob in std::iter::once(&resolved.descriptor).chain(resolved.manifest.blobs()) {
        let mut bytes = Vec::new();
        from.blob(&blob.digest).unwrap().read_to_end(&mut bytes).unwrap();
        blobs.insert(blob.digest, bytes);
    }
    let platform = registry::Platform::host();
    let list = |platforms: &[serde_json::Value]| {
        let manifests: Vec<_> = platforms
            .iter()
            .map(|platform| {
                json!({"mediaType": media::OCI_MANIFEST, "digest": image.manifest.digest,
                    "size": image.manifest.size, "platform": platform})
            })
            .collect();
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests})).unwrap()
    };
    let archive = |list: &[u8]| {
        let top = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [{
            "mediaType": media::OCI_INDEX, "digest": Digest::of(list), "size": list.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"}}]}))
        .unwrap();
        let mut names: Vec<(String, &[u8])> =
            blobs.iter().map(|(d, b)| (format!("blobs/sha256/{}", d.hex()), &b[..])).collect();
        names.push((format!("blobs/sha256/{}", Digest::of(list).hex()), list));
        let mut members =
            vec![file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", &top)];
        members.extend(names.iter().map(|(name, bytes)| file(name, bytes)));
        tar(&members)
    };
    let foreign = json!({"architecture": "s390x", "os": "plan9"});
    let good = list(&[foreign.clone(), serde_json::to_value(&platform).unwrap()]);
    let (_dir, to) = store();
    let loaded = load(&to, &archive(&good)[..], Limits::default()).unwrap();
    assert_eq!(loaded[0].manifest.digest, image.manifest.digest);
    assert_eq!((loaded[0].names.len(), loaded[0].unnamed.as_deref()), (0, Some("latest")));
    let error = archive_error(&archive(&list(&[foreign])));
    assert!(matches!(error, ArchiveError::Platform { .. }), "{error}");
}

#[test]
fn artifacts_beside_an_image_are_passed_over() {
    let (_dir, from) = store();
    publish(&from, None, &layer("a", b"1"), &["x"]).unwrap();
    let image = from.resolve("x").unwrap();
    let read = |digest: &Digest| {
        let mut bytes = Vec::new();
        from.blob(digest).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let artifact = serde_json::to_vec(&json!({"schemaVersion": 2, "layers": [],
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": Digest::of(b"{}"), "size": 2}}))
    .unwrap();
    let entry = |bytes: &[u8]| json!({"mediaType": media::OCI_MANIFEST, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = read(&image.digest());
    let blobs: Vec<(String, Vec<u8>)> = image
        .manifest
        .blobs()
        .map(|blob| read(&blob.digest))
        .chain([manifest.clone(), artifact.clone()])
        .map(|bytes| (format!("blobs/sha256/{}", Digest::of(&bytes).hex()), bytes))
        .collect();
    let archive = |entries: &[serde_json::Value]| {
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap();
        let mut members =
            vec![file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", &index)];
        members.extend(blobs.iter().map(|(name, bytes)| file(name, bytes)));
        tar(&members)
    };
    let (_dir, to) = store();
    let both = archive(&[entry(&artifact), entry(&manifest)]);
    assert_eq!(load(&to, &both[..], Limits::default()).unwrap().len(), 1);
    assert!(matches!(archive_error(&archive(&[entry(&artifact)])), ArchiveError::NoImages));
}

#[test]
fn every_truncation_is_refused() {
    let (_dir, from) = store();
    publish(&from, None, &layer("a", b"1"), &["x"]).unwrap();
    let archive = saved(&from, &["x"]);
    let (_dir, to) = store();
    // Without the two blocks of the end mark it is still all there.
    for end in (0..archive.len() - 1024).step_by(64).chain([1, archive.len() - 1025]) {
        assert!(load(&to, &archive[..end], Limits::default()).is_err(), "{end}");
        assert!(to.images().unwrap().is_empty());
    }
}

#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let (_dir, from) = store();
    publish(&from, None, &layer("a", b"1"), &["x"]).unwrap();
    let archive = saved(&from, &["x"]);
    let (_dir, to) = store();
    for at in (0..archive.len()).step_by(13) {
        let mut archive = archive.clone();
        archive[at] ^= 1 << (at % 8);
        // What loads in spite of it (a flip in a name, in padding) is whole all the same.
        if load(&to, &archive[..], Limits::default()).is_ok() {
            assert_consistent(&to);
        }
    }
}

#[test]
fn hostile_archives_are_refused() {
    let tar_layer = layer("a", b"1");
    let config = config(&[&tar_layer]);
    let table = |config: &str, layer: &str| {
        serde_json::to_vec(&json!([{"Config": config, "RepoTags": ["evil"], "Layers": [layer]}])).unwrap()
    };
    let good = table("c.json", "l");
    let with = |extra: Member<'_>| {
        let extra = Member { ..extra };
        tar(&[file("c.json", &config), file("l", &tar_layer), file("manifest.json", &good), extra])
    };
    for name in ["../x", "/etc/x", "a/../../x", "a/../x", ".."] {
        let error = archive_error(&with(file(name, b"")));
        assert!(matches!(error, ArchiveError::Traversal { .. }), "{name}: {error}");
    }
    for target in ["../../etc/passwd", "/etc/passwd"] {
        let error = archive_error(&with(link("z", target)));
        assert!(matches!(error, ArchiveError::Traversal { .. }), "{target}: {error}");
    }
    assert!(matches!(archive_error(&with(file("./l", b"other"))), ArchiveError::Duplicate { .. }));
    assert!(matches!(archive_error(&with(link("l", "c.json"))), ArchiveError::Duplicate { .. }));
    for kind in [b'3', b'4', b'6'] {
        let error = archive_error(&with(Member { kind, ..file("dev", b"") }));
        assert!(matches!(error, ArchiveError::FileType { .. }), "{error}");
    }
    let absurd = Member { size: Some(0o77_777_777_777), ..file("huge", b"") };
    let error = archive_error(&with(absurd));
    assert!(matches!(error, ArchiveError::Truncated { .. } | ArchiveError::Size { .. }), "{error}");

    let documents = |table: &[u8]| {
        archive_error(&tar(&[
            file("c.json", &config),
            file("l", &tar_layer),
            link("loop", "loop2"),
            link("loop2", "loop"),
            link("gone", "nothing"),
            file("manifest.json", table),
        ]))
    };
    assert!(matches!(documents(&table("c.json", "loop")), ArchiveError::Link { .. }));
    assert!(matches!(documents(&table("c.json", "gone")), ArchiveError::Link { .. }));
    assert!(matches!(documents(&table("c.json", "none")), ArchiveError::Missing { .. }));
    assert!(matches!(documents(&table("../c.json", "l")), ArchiveError::Traversal { .. }));
    assert!(matches!(documents(&table("c.json", "c.json")), ArchiveError::DiffId { .. }));
    assert!(matches!(documents(b"{"), ArchiveError::Json { .. }));
    assert!(matches!(documents(&[b'['; 100_000]), ArchiveError::Json { .. }));
    assert!(matches!(documents(b"[]"), ArchiveError::NoImages));
    assert!(matches!(documents(&vec![b' '; 9 << 20]), ArchiveError::Document { .. }));
    assert!(matches!(archive_error(&tar(&[file("x", b"")])), ArchiveError::NoImages));
    assert!(matches!(archive_error(b""), ArchiveError::Truncated { .. }));
    assert!(matches!(archive_error(&[0x1f; 4096]), ArchiveError::Header { .. }));

    let name = format!("{}.json", Digest::of(b"other").hex());
    let named = table(&name, "l");
    let lying = tar(&[file(&name, &config), file("l", &tar_layer), file("manifest.json", &named)]);
    assert!(matches!(archive_error(&lying), ArchiveError::Damaged { .. }));
    let few = serde_json::to_vec(&json!([{"Config": "c.json", "Layers": []}])).unwrap();
    let error = refused(&tar(&[file("c.json", &config), file("manifest.json", &few)]));
    assert!(matches!(error, Error::LayerCount { layers: 0, diff_ids: 1, .. }), "{error}");
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn a_wrong_blob_in_an_oci_archive_is_named() {
    let (_dir, from) = store();
    publish(&from, None, &layer("a", b"12345"), &["x"]).unwrap();
    let mut archive = saved(&from, &["x"]);
    let at = archive.windows(5).rposition(|w| w == b"12345").unwrap();
    archive[at] ^= 1;
    let name = format!("blobs/sha256/{}", Digest::of(&layer("a", b"12345")).hex());
    assert!(matches!(archive_error(&archive), ArchiveError::Damaged { name: n, .. } if n == name));
}

#[test]
fn limits_hold() {
    let (_dir, store) = store();
    let archive = tar(&[file("a", &[1; 1000]), file("b", &[1; 1000]), file("c", b"")]);
    let members = Limits { members: 2, ..Limits::default() };
    let bytes = Limits { bytes: 1500, ..Limits::default() };
    let error = |limits| load(&store, &archive[..], limits).unwrap_err().to_string();
    assert_eq!(error(members), "the archive has more than 2 members");
    assert_eq!(error(bytes), "member \"b\" is 1000 bytes long, and 500 fit");
}
