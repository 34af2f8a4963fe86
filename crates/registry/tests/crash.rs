//! Every step at which a publish, a removal or a collection can be cut off.
//!
//! The steps are counted, not timed. At each, a process of its own is aborted, which is what `kill -9`
//! leaves; the store must then open, hold the old image or the new one but nothing between, and be able
//! to go on. (What a power cut leaves is tested in `disk.rs`.)

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use common::{assert_consistent, layer, publish};
use registry::Store;
use registry::store::{Step, Steps, Stop};
use tempfile::TempDir;

/// Which operation the child is to do, where, and at which step to die.
const CHILD: &str = "REGISTRY_CRASH_TEST";

#[derive(Debug)]
struct AbortAt(AtomicUsize);

impl Steps for AbortAt {
    fn reached(&self, _: Step) -> Result<(), Stop> {
        if self.0.fetch_sub(1, Ordering::SeqCst) == 0 {
            std::process::abort();
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct StopAt {
    countdown: AtomicUsize,
    seen: Mutex<Vec<Step>>,
}

impl Steps for StopAt {
    fn reached(&self, step: Step) -> Result<(), Stop> {
        self.seen.lock().unwrap().push(step);
        if self.countdown.fetch_sub(1, Ordering::SeqCst) == 0 { Err(Stop) } else { Ok(()) }
    }
}

fn operate(store: &Store, operation: &str) -> registry::Result<()> {
    match operation {
        "publish" => publish(store, None, &layer("a", b"new"), &["x"]).map(drop),
        "remove" => store.remove("x", false).map(drop),
        "prune" => store.prune(Duration::ZERO, SystemTime::now()).map(drop),
        other => panic!("{other}"),
    }
}

/// A store with something to replace, to remove and to collect.
fn prepare(root: &Path, operation: &str) {
    if operation == "publish" && root.ends_with("empty") {
        return;
    }
    let store = Store::open(root).unwrap();
    publish(&store, None, &layer("a", b"other"), &["keep"]).unwrap();
    if operation == "prune" {
        publish(&store, None, &layer("a", b"dangling"), &["x"]).unwrap();
        std::fs::write(store.layout().join("ingest/1-1"), b"dead").unwrap();
    }
    publish(&store, None, &layer("a", b"old"), &["x"]).unwrap();
}

fn check(root: &Path, operation: &str, done: bool) {
    let store = Store::open(root).unwrap();
    assert_consistent(&store);
    let was_empty = root.ends_with("empty");
    assert!(was_empty || store.resolve("keep").is_ok());
    let (old, new) = (registry::Digest::of(&layer("a", b"old")), registry::Digest::of(&layer("a", b"new")));
    match (operation, store.resolve("x").map(|image| image.manifest.layers[0].digest)) {
        ("publish", Ok(digest)) => assert!(digest == new || (digest == old && !done && !was_empty)),
        ("publish", Err(_)) => assert!(was_empty && !done),
        ("remove", found) => assert!(found.map_or(true, |digest| digest == old && !done)),
        (_, found) => assert_eq!(found.unwrap(), old),
    }
    // Life goes on: the same again, and then nothing is left but what has a name.
    let again = operate(&store, operation);
    assert!(again.is_ok() || operation == "remove", "{again:?}");
    store.prune(Duration::ZERO, SystemTime::now()).unwrap();
    assert_consistent(&store);
    let named: usize = store.images().unwrap().iter().filter(|i| !i.names.is_empty()).count();
    let blobs = std::fs::read_dir(store.layout().join("blobs/sha256")).unwrap().count();
    let ingests = std::fs::read_dir(store.layout().join("ingest")).unwrap().count();
    assert_eq!((blobs, ingests), (3 * named, 0), "{operation}");
}

#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [operation, at, root] = order.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let steps = AbortAt(AtomicUsize::new(at.parse().unwrap()));
    operate(&Store::with_steps(Path::new(root), Box::new(steps)).unwrap(), operation).unwrap();
}

#[test]
fn killed_at_each_step() {
    for (operation, name, least) in
        [("publish", "empty", 16), ("publish", "root", 10), ("remove", "root", 7), ("prune", "root", 8)]
    {
        for at in 0.. {
            let dir = TempDir::new().unwrap();
            let root = dir.path().join(name);
            prepare(&root, operation);
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["child", "--exact"])
                .env(CHILD, format!("{operation} {at} {}", root.display()))
                .output()
                .unwrap()
                .status;
            check(&root, operation, status.success());
            if status.success() {
                assert!(at >= least, "{operation} has only {at} steps");
                break;
            }
        }
    }
}

#[test]
fn failed_at_each_step() {
    for (operation, name) in
        [("publish", "empty"), ("publish", "root"), ("remove", "root"), ("prune", "root")]
    {
        for at in 0.. {
            let dir = TempDir::new().unwrap();
            let root = dir.path().join(name);
            prepare(&root, operation);
            let steps = StopAt { countdown: AtomicUsize::new(at), ..StopAt::default() };
            let result = operate(&Store::with_steps(&root, Box::new(steps)).unwrap(), operation);
            check(&root, operation, result.is_ok());
            if result.is_ok() {
                break;
            }
        }
    }
}
