//! Saving the same container again (commit-semantics 4.6.2): each sentence of it.

#![expect(clippy::unwrap_used, reason = "a case that fails tells where")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use harness::{Capability, require};
use law::{World, noise};
use layer::judge::TimePolicy;
use layer::xattr::XattrPolicy;
use save::request::{Compression, Report, Request, Selection, Shape};

const PLAIN: &[(&str, &str)] = &[("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

fn base(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("d/sub"))?;
    fs::write(root.join("d/a"), "a of the base")?;
    fs::write(root.join("d/sub/b"), "b of the base")?;
    fs::write(root.join("f"), "f of the base")?;
    Ok(())
}

fn world(name: &str) -> Option<World> {
    require(name, &[Capability::Overlay]).then(|| World::new(name, PLAIN, base).unwrap())
}

/// A file large enough that its layer stays below the small ones that follow.
fn large(world: &World, name: &str, seed: u64) {
    let at = world.root().join(name);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, noise(seed, 1_500_000)).unwrap();
}

fn save(world: &World) -> Report {
    world.save(&world.request()).unwrap()
}

fn own_layers(report: &Report) -> usize {
    report.layers.len() - 1
}

#[test]
fn a_deletion_that_leaves_no_whiteout_is_one() {
    let Some(world) = world("deletion") else { return };
    large(&world, "new/large", 1);
    fs::write(world.root().join("new/small"), "small").unwrap();
    assert_eq!(own_layers(&save(&world)), 1);
    fs::remove_file(world.root().join("new/small")).unwrap();
    let second = save(&world);
    assert_eq!((own_layers(&second), second.removed), (2, 1));
    assert_eq!(second.buried, (1, 5));
}

#[test]
fn what_is_put_back_to_the_bases_state_shows_again() {
    let Some(world) = world("put-back") else { return };
    let root = world.root();
    large(&world, "large", 2);
    let kept = world.base().unwrap();
    fs::write(root.join("f"), "changed").unwrap();
    fs::remove_file(root.join("d/a")).unwrap();
    save(&world);
    for path in ["f", "d/a"] {
        law::ops::Op::Restore(PathBuf::from(path)).apply(root, &kept).unwrap();
    }
    let second = save(&world);
    assert_eq!((own_layers(&second), second.changed), (2, 2), "{second:#?}");
}

#[test]
fn a_directory_that_lives_in_the_upper_alone_is_renamed() {
    let Some(world) = world("renamed") else { return };
    large(&world, "one/large", 3);
    fs::write(world.root().join("one/small"), "small").unwrap();
    save(&world);
    fs::rename(world.root().join("one"), world.root().join("two")).unwrap();
    save(&world);
    let purged = world.save(&Request { purge: true, ..world.request() }).unwrap();
    assert_eq!((own_layers(&purged), purged.buried), (1, (0, 0)));
}

#[test]
fn a_merged_layer_hides_what_stands_below_it() {
    let Some(world) = world("merged-marker") else { return };
    let d = world.root().join("d");
    large(&world, "large", 4);
    save(&world);
    fs::remove_dir_all(&d).unwrap();
    save(&world);
    fs::create_dir(&d).unwrap();
    fs::write(d.join("new"), "new").unwrap();
    // the whiteout and the new directory are merged; the base's children stay hidden
    let third = save(&world);
    assert_eq!(own_layers(&third), 2, "{third:#?}");
    world.check_as_upper("saved").unwrap();
    // a file and then a directory again
    fs::remove_dir_all(&d).unwrap();
    fs::write(&d, "a file").unwrap();
    save(&world);
    fs::remove_file(&d).unwrap();
    fs::create_dir_all(d.join("sub")).unwrap();
    fs::write(d.join("sub/c"), "c").unwrap();
    save(&world);
    fs::set_permissions(&d, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    save(&world);
    world.check_as_upper("saved").unwrap();
}

#[test]
fn the_next_name_of_a_hard_link_becomes_the_file() {
    let Some(world) = world("promotion") else { return };
    let root = world.root();
    large(&world, "links/1", 5);
    for other in ["links/2", "links/3"] {
        fs::hard_link(root.join("links/1"), root.join(other)).unwrap();
    }
    save(&world);
    assert_eq!(save(&world).changed, 0, "links that did not change are not saved again");
    fs::remove_file(root.join("links/1")).unwrap();
    save(&world);
    fs::hard_link(root.join("links/3"), root.join("links/0")).unwrap();
    save(&world);
    fs::write(root.join("links/2"), "all of them").unwrap();
    save(&world);
    let last = world.save(&Request { shape: Shape::Cumulative, ..world.request() }).unwrap();
    assert_eq!((own_layers(&last), last.buried), (1, (0, 0)));
}

/// Layers are merged in every constellation of neighbours that sizes can bring about.
#[test]
fn merging_any_neighbours_changes_nothing() {
    let Some(world) = world("neighbours") else { return };
    let root = world.root();
    let mut depths = std::collections::BTreeSet::new();
    for (round, size) in
        [2_000_000, 700_000, 200_000, 90_000, 1000, 1000, 250_000, 1000, 800_000, 1000, 3_000_000, 10]
            .into_iter()
            .enumerate()
    {
        let round = round as u64;
        fs::write(root.join(format!("f{}", round % 5)), noise(round, size)).unwrap();
        let dir = root.join(format!("dir{}", round % 3));
        let _ = fs::remove_dir_all(&dir);
        if round.is_multiple_of(2) {
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(format!("{round}")), noise(round, 30)).unwrap();
        }
        if round % 4 == 3 {
            let _ = fs::remove_dir_all(root.join("d"));
        } else {
            fs::create_dir_all(root.join("d/sub")).unwrap();
        }
        let report = save(&world);
        depths.insert(own_layers(&report));
        assert!(own_layers(&report) <= 6);
    }
    assert!(depths.len() > 3, "tiers came and went: {depths:?}");
    world.check_as_upper("saved").unwrap();
}

#[test]
fn other_options_begin_a_new_chain_and_are_told() {
    let Some(world) = world("options") else { return };
    large(&world, "large", 6);
    fs::write(world.root().join("secret"), "kept out later").unwrap();
    save(&world);
    type Change = fn(&mut Request);
    let changed: [(&str, Change); 4] = [
        ("exclude", |request| {
            request.selection = Selection { exclude: vec!["secret".to_owned()], only: Vec::new() };
        }),
        ("only", |request| {
            request.selection = Selection { exclude: Vec::new(), only: vec!["large".to_owned()] };
        }),
        ("xattrs", |request| request.xattrs = XattrPolicy::Stock),
        ("mtime", |request| request.times = TimePolicy { whole_seconds: true, latest: None }),
    ];
    for (name, change) in changed {
        let mut request = world.request();
        change(&mut request);
        let report = world.commit(&request).unwrap();
        assert_eq!(own_layers(&report), 1, "{name}: {report:#?}");
        assert!(report.layers[1].new, "{name}: bytes of other options must not travel along");
        assert!(report.warnings.iter().any(|warning| warning.contains("options")), "{name}: {report:#?}");
        // and goes on from there, without a word
        let again = world.commit(&request).unwrap();
        assert!(!again.warnings.iter().any(|warning| warning.contains("options")), "{name}: {again:#?}");
    }
    let excluded = Selection { exclude: vec!["secret".to_owned()], only: Vec::new() };
    world.commit(&Request { selection: excluded, ..world.request() }).unwrap();
    let out = world.unpack("saved").unwrap();
    assert!(!out.join("secret").exists() && out.join("large").exists());
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// The layers of all images in the store that no base has, as blobs.
fn remove_own_blobs(world: &World, report: &Report) {
    for layer in &report.layers[1..] {
        let name = layer.digest.to_string();
        let hex = name.rsplit(':').next().unwrap();
        let found = walk(world.store.root()).into_iter().find(|path| path.ends_with(hex)).unwrap();
        fs::remove_file(found).unwrap();
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn lost_layers_cost_a_full_one_and_are_told() {
    let Some(world) = world("lost") else { return };
    large(&world, "large", 7);
    let state = world.store.root().join("state");
    type Lose<'a> = &'a dyn Fn(&Report);
    let losses: [(&str, Lose<'_>); 6] = [
        ("blob", &|report| remove_own_blobs(&world, report)),
        ("table", &|_| {
            files(&state.join("layers"), "table").iter().for_each(|f| fs::remove_file(f).unwrap())
        }),
        ("frames", &|_| {
            files(&state.join("layers"), "frames").iter().for_each(|f| fs::remove_file(f).unwrap())
        }),
        ("torn chain", &|_| {
            files(&state.join("chains"), "json").iter().for_each(|f| fs::write(f, "{").unwrap())
        }),
        ("torn table", &|_| {
            for file in files(&state.join("layers"), "table") {
                let len = file.metadata().unwrap().size();
                fs::File::options().write(true).open(file).unwrap().set_len(len / 2).unwrap();
            }
        }),
        ("other version", &|_| {
            for file in files(&state.join("chains"), "json") {
                let text = fs::read_to_string(&file).unwrap().replace("\"version\":1", "\"version\":999");
                fs::write(file, text).unwrap();
            }
        }),
    ];
    for (at, (name, lose)) in losses.into_iter().enumerate() {
        fs::write(world.root().join("small"), name).unwrap();
        let before = save(&world);
        lose(&before);
        fs::write(world.root().join("small"), format!("{at}")).unwrap();
        let report = save(&world);
        assert_eq!(own_layers(&report), 1, "{name}: {report:#?}");
        assert!(report.changed_bytes > 1_400_000, "{name}: {report:#?}");
        assert!(report.warnings.iter().any(|warning| warning.contains("gone")), "{name}: {report:#?}");
    }
    fs::remove_dir_all(&state).unwrap();
    let report = save(&world);
    assert_eq!(own_layers(&report), 1, "all of the state: {report:#?}");
}

#[test]
fn what_was_deleted_is_counted_and_purged_at_once() {
    let Some(world) = world("purge") else { return };
    large(&world, "large", 8);
    fs::write(world.root().join("secret"), "12345678").unwrap();
    save(&world);
    fs::remove_file(world.root().join("secret")).unwrap();
    let second = save(&world);
    assert_eq!((own_layers(&second), second.buried), (2, (1, 8)));
    // nothing else changed: the count stays, however often it is saved
    assert_eq!(save(&world).buried, (1, 8));
    let purged = world.save(&Request { purge: true, ..world.request() }).unwrap();
    assert_eq!((own_layers(&purged), purged.buried), (1, (0, 0)));
    // what is deleted since the last save is purged by the same save
    fs::write(world.root().join("secret"), "another").unwrap();
    save(&world);
    fs::remove_file(world.root().join("secret")).unwrap();
    let purged = world.save(&Request { purge: true, ..world.request() }).unwrap();
    assert_eq!(purged.buried, (0, 0));
}

/// What another boot knew is read again, and its packed bytes are reused.
#[test]
fn another_boot_reads_again_and_reuses() {
    let Some(world) = world("boot") else { return };
    large(&world, "large", 9);
    std::thread::sleep(std::time::Duration::from_millis(5200));
    save(&world);
    let chain = files(&world.store.root().join("state/chains"), "json").into_iter().next().unwrap();
    let other_boot = |file: &Path| {
        let mut chain: String = fs::read_to_string(file).unwrap();
        let at = chain.find("\"boot_id\":\"").unwrap() + 11;
        chain.replace_range(at..at + 8, "ffffffff");
        fs::write(file, chain).unwrap();
    };
    // bytes that a power cut took: the stat is the same, and the file is not
    let lost = world.upper().join("large");
    for chain in files(&world.store.root().join("state/chains"), "json") {
        other_boot(&chain);
    }
    let report = save(&world);
    assert!(report.reused_bytes > 1_400_000 && report.changed == 0, "{report:#?}");
    assert!(lost.exists() && chain.exists());
    // and knows it in this boot
    let again = save(&world);
    assert_eq!(again.layers, report.layers);
}

#[test]
fn formats_and_compressions_may_alternate() {
    let Some(world) = world("formats") else { return };
    // docker's format has no zstd: neither may the base
    let empty = world.scratch.join("empty");
    let spec = save::source::Spec::Trees { tree: world.base().unwrap(), against: empty };
    let base = Request { compression: Compression::Gzip(1), ..law::request(spec, "base") };
    world.commit(&base).unwrap();
    large(&world, "large", 10);
    fs::write(world.root().join("text"), "the same line\n".repeat(20_000)).unwrap();
    let all = [
        (registry::media::Format::Docker, Compression::Gzip(1)),
        (registry::media::Format::Oci, Compression::Zstd(1)),
        (registry::media::Format::Oci, Compression::None),
        (registry::media::Format::Oci, Compression::Auto(1)),
    ];
    for (at, (format, compression)) in all.into_iter().cycle().take(8).enumerate() {
        fs::write(world.root().join("small"), format!("{at}")).unwrap();
        for shape in [Shape::Tiered, Shape::Cumulative] {
            world.save(&Request { format, compression, shape, ..world.request() }).unwrap();
        }
    }
}

#[test]
fn two_saves_under_one_date_are_the_same_bytes() {
    let Some(world) = world("dates") else { return };
    large(&world, "large", 11);
    fs::remove_file(world.root().join("d/a")).unwrap();
    let dated = || {
        let mut request = Request { shape: Shape::Squash, ..world.request() };
        request.times.latest = Some(1_600_000_000);
        request.words.created = Some(1_600_000_000);
        world.commit(&request).unwrap()
    };
    let (one, two) = (dated(), dated());
    assert_eq!((one.digest, one.id), (two.digest, two.id));
    // an unchanged container has the layers that it had
    let (one, two) = (save(&world), save(&world));
    assert_eq!(
        one.layers.iter().map(|l| l.digest).collect::<Vec<_>>(),
        two.layers.iter().map(|l| l.digest).collect::<Vec<_>>()
    );
}

/// The cost of exactly one layer: what follows the first change is hashed again, and the report says how much.
#[test]
fn one_layer_tells_what_it_hashes_again() {
    if !require("one_layer_tells_what_it_hashes_again", &[Capability::Overlay]) {
        return;
    }
    let world = World::new("hashed", PLAIN, base).unwrap();
    let cumulative = || Request { shape: Shape::Cumulative, ..world.request() };
    for at in 0..6 {
        fs::write(world.root().join(format!("file{at}")), noise(at, 3 << 20)).unwrap();
    }
    assert_eq!(world.save(&cumulative()).unwrap().rehashed_bytes, 0);
    fs::write(world.root().join("new"), "at the end").unwrap();
    let added = world.save(&cumulative()).unwrap();
    assert!(added.rehashed_bytes < 9 << 20, "{added:#?}");
    fs::write(world.root().join("file0"), "at the beginning").unwrap();
    let changed = world.save(&cumulative()).unwrap();
    assert!(changed.rehashed_bytes > 14 << 20, "{changed:#?}");
}
