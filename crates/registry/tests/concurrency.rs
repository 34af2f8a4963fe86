//! Many threads and processes at one store: commits to one name, removals and collections.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use common::{assert_consistent, layer, publish};
use registry::{Digest, Error, Kind, Store};
use tempfile::TempDir;

const CHILD: &str = "REGISTRY_CONCURRENCY_TEST";

#[test]
fn of_two_commits_to_one_name_the_last_wins_and_both_survive() {
    let dir = TempDir::new().unwrap();
    let both = Barrier::new(2);
    for round in 0..20u8 {
        let digests: Vec<Digest> = std::thread::scope(|scope| {
            let commits: Vec<_> = [0, 1u8]
                .map(|who| {
                    let (root, both) = (dir.path().join("root"), &both);
                    scope.spawn(move || {
                        let store = Store::open(&root).unwrap();
                        both.wait();
                        publish(&store, None, &layer("a", &[round, who]), &["x"]).unwrap().manifest.digest
                    })
                })
                .into_iter()
                .collect();
            commits.into_iter().map(|commit| commit.join().unwrap()).collect()
        });
        let store = Store::open(&dir.path().join("root")).unwrap();
        let winner = store.resolve("x").unwrap();
        assert!(digests.contains(&winner.digest()));
        assert_eq!(winner.names.len(), 1);
        for digest in digests {
            store.resolve(&digest.to_string()).unwrap();
        }
        assert_consistent(&store);
    }
}

/// What one process does for a while; every outcome it accepts is one that a person could explain.
fn hammer(store: &Store, seed: u64) {
    for round in 0..30u64 {
        let n = seed.wrapping_mul(6364136223846793005).wrapping_add(round.wrapping_mul(1442695040888963407))
            >> 33;
        let name = format!("shared:{}", n % 3);
        // Few different layers, so that one process places what another removes.
        let content = [u8::try_from(n / 3 % 4).unwrap()];
        let result = match n % 7 {
            0 | 1 => publish(store, None, &layer("a", &content), &[&name]).map(drop),
            2 => publish(store, Some(&name), &layer("b", &content), &["stacked"]).map(drop),
            3 => store.remove(&name, false).map(drop),
            4 => store.prune(Duration::ZERO, SystemTime::now()).map(drop),
            5 => store.tag(&name, &"tagged".parse().unwrap()),
            _ => store.resolve(&name).and_then(|image| {
                let pin = store.pin(&image.digest())?;
                for blob in image.manifest.blobs() {
                    store.verified_blob(blob).expect("a pinned image is whole");
                }
                drop(pin);
                Ok(())
            }),
        };
        match result {
            // It was removed before, or between two looks at it.
            Err(Error::NoImage { .. } | Error::NoBlob { .. }) => {}
            Err(error) => panic!("{:?}: {error:?}", error.kind()),
            Ok(()) => {}
        }
    }
}

#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (seed, root) = order.split_once(' ').unwrap();
    hammer(&Store::open(Path::new(root)).unwrap(), seed.parse().unwrap());
}

#[test]
fn processes_hammering_one_store_leave_it_whole() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    let start = |seed: u64| -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--test-threads=1"])
            .env(CHILD, format!("{seed} {}", root.display()))
            .spawn()
            .unwrap()
    };
    let mut children: Vec<Child> = (1..=4).map(start).collect();
    // Killed in the middle of whatever it does once the store exists.
    let mut victim = start(99);
    while !root.join("images/oci-layout").exists() {
        std::thread::yield_now();
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    std::thread::scope(|scope| {
        for seed in 10..12 {
            let root = &root;
            scope.spawn(move || hammer(&Store::open(root).unwrap(), seed));
        }
    });
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let store = Store::open(&root).unwrap();
    assert_consistent(&store);
    store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    assert_consistent(&store);
    let usage = store.usage().unwrap();
    assert_eq!((usage.reclaimable, usage.ingests), (0, 0));
    assert_eq!(store.resolve("never").unwrap_err().kind(), Kind::NotFound);
}
