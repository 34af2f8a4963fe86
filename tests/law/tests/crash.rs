//! A save that dies at each durable step, and layers that were damaged in the store.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use harness::{Capability, require};
use law::{World, noise, request};
use registry::store::{Step, Steps, Stop};
use registry::{Digest, Store};
use save::request::{Request, Shape, Silent};
use save::source::Spec;

const CHILD: &str = "HEADSTART_TEST_DIES_AT";
const PLAIN: &[(&str, &str)] = &[("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

fn base(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("etc"))?;
    fs::write(root.join("etc/hosts"), "base")?;
    fs::write(root.join("gone"), "base")?;
    Ok(())
}

/// Dies as by `kill -9`: nothing is unwound, nothing is flushed.
#[derive(Debug)]
struct DieAt(AtomicUsize);

impl Steps for DieAt {
    fn reached(&self, _: Step) -> Result<(), Stop> {
        if self.0.fetch_sub(1, Ordering::SeqCst) == 0 {
            std::process::abort();
        }
        Ok(())
    }
}

/// Not a test: the process that dies.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (at, scratch) = order.split_once(' ').unwrap();
    let scratch = Path::new(scratch);
    let steps = DieAt(AtomicUsize::new(at.parse().unwrap()));
    let store = Store::with_steps(&scratch.join("root"), Box::new(steps)).unwrap();
    let spec = Spec::Overlay(scratch.join("merged1"));
    let request = Request { base: Some("base".to_owned()), ..request(spec, "saved") };
    save::commit(&store, &request, &scratch.join("run"), &Silent, &AtomicBool::new(false)).unwrap();
}

/// Every image that has a name is whole.
fn all_verify(store: &Store) -> Result<()> {
    for listed in store.images()? {
        for name in &listed.names {
            let image = store.resolve(&name.to_string())?;
            for blob in image.manifest.blobs() {
                store.verify(&blob.digest).with_context(|| name.to_string())?;
            }
        }
    }
    Ok(())
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Nothing is there but what named images need, and the caches of layers that are there.
fn nothing_is_left_over(store: &Store) -> Result<()> {
    store.prune(Duration::ZERO, SystemTime::now())?;
    save::sweep(store)?;
    let mut needed = std::collections::BTreeSet::new();
    for listed in store.images()? {
        let image = store.resolve(&listed.names.first().context("an image without a name")?.to_string())?;
        needed.insert(image.digest().hex());
        needed.extend(image.manifest.blobs().map(|blob| blob.digest.hex()));
    }
    let blobs = files(&store.layout().join("blobs/sha256"));
    ensure!(blobs.iter().all(|blob| needed.contains(blob)) && blobs.len() == needed.len(), "{blobs:?}");
    ensure!(files(&store.layout().join("ingest")).is_empty(), "an ingest is left");
    for cache in files(&store.root().join("state/layers")) {
        let layer = cache.split('.').next().unwrap_or_default();
        ensure!(needed.contains(layer), "{cache} is left");
    }
    Ok(())
}

#[test]
fn a_save_that_dies_at_any_durable_step_leaves_the_old_image_or_the_new_one() {
    if !require("law::crash", &[Capability::Overlay]) {
        return;
    }
    for at in 0.. {
        let world = World::new("dies", PLAIN, base).unwrap();
        let write = |name: &str, seed| fs::write(world.root().join(name), noise(seed, 200_000)).unwrap();
        write("first", 1);
        let old = world.save(&world.request()).unwrap().digest.unwrap();
        write("second", 2);
        fs::remove_file(world.root().join("gone")).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact"])
            .env(CHILD, format!("{at} {}", world.scratch.path().display()))
            .output()
            .unwrap()
            .status;

        let store = Store::open(&world.scratch.join("root")).unwrap();
        all_verify(&store).unwrap();
        store.resolve("base").unwrap();
        let found = store.resolve("saved").unwrap().digest();
        if status.success() {
            assert_ne!(found, old);
        }
        if found != old {
            world.check("saved").unwrap();
        }
        write("third", 3);
        fs::remove_file(world.root().join("first")).unwrap();
        world.save(&world.request()).unwrap_or_else(|error| panic!("after step {at}: {error:#}"));
        nothing_is_left_over(&store).unwrap_or_else(|error| panic!("after step {at}: {error:#}"));
        world.save(&world.request()).unwrap();
        if status.success() {
            assert!(at >= 10, "a save has only {at} steps");
            break;
        }
    }
}

fn flip(store: &Store, digest: &Digest, at: u64) -> Result<()> {
    let path = store.layout().join("blobs/sha256").join(digest.hex());
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

/// A save over a damaged own layer, in each way that it can be used.
fn damaged(
    name: &str,
    at: f64,
    later: impl FnOnce(&World) -> Request,
) -> Result<(World, Digest, Vec<String>)> {
    let world = World::new(name, PLAIN, base)?;
    for file in 0..24u64 {
        fs::write(world.root().join(format!("file{file:02}")), noise(file + 1, 1 << 20))?;
    }
    let first = world.save(&world.request())?;
    let layer = first.layers.last().context("a layer")?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in the middle"
    )]
    let place = (layer.size as f64 * at) as u64;
    flip(&world.store, &layer.digest, place)?;
    let request = later(&world);
    let report = world.commit(&request)?;
    Ok((world, layer.digest, report.warnings))
}

#[test]
fn damage_in_a_layer_that_is_taken_over_is_named_and_the_layer_packed_again() {
    if !require("law::damage_taken", &[Capability::Overlay]) {
        return;
    }
    // one layer is wanted, and the first file is gone: everything behind it is taken over, nothing resumed
    let cumulative = |world: &World| {
        fs::remove_file(world.root().join("file00")).unwrap();
        Request { shape: Shape::Cumulative, ..world.request() }
    };
    // the change is large beside the layer, which is merged into it
    let merged = |world: &World| {
        fs::remove_file(world.root().join("file00")).unwrap();
        fs::write(world.root().join("new"), noise(99, 20 << 20)).unwrap();
        world.request()
    };
    for (name, later) in [("cumulative", &cumulative as &dyn Fn(&World) -> Request), ("merged", &merged)] {
        let (world, digest, warnings) = damaged(name, 0.5, later).unwrap();
        assert!(warnings.iter().any(|one| one.contains(&digest.to_string())), "{name}: {warnings:?}");
        world.check("saved").unwrap();
        // and all is well from then on
        fs::write(world.root().join("more"), "1").unwrap();
        let report = world.save(&world.request()).unwrap();
        assert!(!report.warnings.iter().any(|one| one.contains("damaged")), "{report:?}");
    }
}

#[test]
fn damage_in_a_layer_that_stays_is_found_by_verify_and_by_whoever_reads_it() {
    if !require("law::damage_kept", &[Capability::Overlay]) {
        return;
    }
    let small = |world: &World| {
        fs::write(world.root().join("more"), "1").unwrap();
        world.request()
    };
    let (world, digest, warnings) = damaged("kept", 0.5, small).unwrap();
    assert!(warnings.is_empty(), "a layer that stays is not read: {warnings:?}");
    let error = world.check("saved").unwrap_err();
    assert!(format!("{error:#}").contains("layer 2"), "{error:#}");
    let report = world.commit(&Request { verify: true, ..world.request() }).unwrap();
    assert!(report.warnings.iter().any(|one| one.contains(&digest.to_string())), "{report:?}");
    world.check("saved").unwrap();
}

#[test]
fn damage_in_a_prefix_that_is_resumed_never_becomes_a_layer_that_is_whole() {
    if !require("law::damage_resumed", &[Capability::Overlay]) {
        return;
    }
    let more = |world: &World| {
        fs::write(world.root().join("zz"), noise(98, 1 << 20)).unwrap();
        Request { shape: Shape::Cumulative, ..world.request() }
    };
    let (world, _, _) = damaged("resumed", 0.1, more).unwrap();
    let error = world.check("saved").unwrap_err();
    assert!(format!("{error:#}").contains("layer 2"), "{error:#}");
    world.commit(&Request { verify: true, shape: Shape::Cumulative, ..world.request() }).unwrap();
    world.check("saved").unwrap();
}

/// Caches may be deleted, torn or of another version at any time.
#[test]
fn damaged_caches_cost_time_and_nothing_else() {
    if !require("law::damage_caches", &[Capability::Overlay]) {
        return;
    }
    let world = World::new("caches", PLAIN, base).unwrap();
    for round in 0..12u64 {
        fs::write(world.root().join(format!("file{round}")), noise(round + 1, 100_000)).unwrap();
        world.save(&world.request()).unwrap();
        let state = world.store.root().join("state");
        for dir in ["layers", "chains"] {
            for (number, name) in files(&state.join(dir)).iter().enumerate() {
                let path = state.join(dir).join(name);
                let len = fs::metadata(&path).unwrap().len();
                let file = fs::File::options().read(true).write(true).open(&path).unwrap();
                match (round + number as u64) % 4 {
                    0 => file.set_len(len / 2).unwrap(),
                    1 => file.write_all_at(&[0xff; 8], len / 3).unwrap(),
                    2 => fs::remove_file(&path).unwrap(),
                    _ => {}
                }
            }
        }
        let report = world.save(&world.request()).unwrap();
        assert!(report.layers.len() >= 2, "{report:?}");
    }
}
