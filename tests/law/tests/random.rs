//! Random operations through real overlay mounts, saved again and again: the law holds after each save.
//!
//! Cases are the same in every run. `PROPTEST_CASES` sets how many are tried for each kind of mount,
//! `LAW_SEED` another sequence of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use harness::{Capability, require};
use law::ops::{self, Op};
use law::{World, noise};
use proptest::prelude::{Just, Strategy, any};
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use proptest::{collection::vec, prop_oneof};
use save::request::{Compression, Request, Shape};

/// What happens between two operations of the container.
#[derive(Debug, Clone)]
enum Act {
    Do(Op),
    Save {
        shape: Shape,
        compression: Compression,
        purge: bool,
        verify: bool,
    },
    /// The layers as an upper, and a save without the base.
    Thorough,
    PushLower,
    /// Long enough that clean reads count in later saves.
    Settle,
}

const NAMES: [&str; 6] = ["x", "y", "dir", "sub", "x-", "z"];

fn path() -> impl Strategy<Value = PathBuf> {
    vec(select(&NAMES[..]), 1..=3).prop_map(|names| names.iter().collect())
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..2000usize, 3 => 60_000..200_000usize, 1 => 500_000..700_000usize]
}

fn name_of_xattr() -> impl Strategy<Value = &'static str> {
    select(&["user.a", "user.b", "security.capability", "system.posix_acl_access", "user.overlay.opaque"][..])
}

fn xattr() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    name_of_xattr().prop_flat_map(|name| {
        let value = match name {
            "security.capability" => Just(ops::CAPABILITY.to_vec()).boxed(),
            "system.posix_acl_access" => (1u32..70_000).prop_map(ops::acl).boxed(),
            "user.overlay.opaque" => Just(b"y".to_vec()).boxed(),
            _ => vec(any::<u8>(), 0..40).boxed(),
        };
        (Just(name), value)
    })
}

fn op(has_links: bool) -> impl Strategy<Value = Op> {
    let seed = || 0u64..1000;
    let links = u32::from(has_links) * 3;
    let id = || prop_oneof![Just(0u32), 1u32..70_000, Just(4_000_000_000)];
    prop_oneof![
        10 => (path(), seed(), size()).prop_map(|(path, seed, size)| Op::Write(path, seed, size)),
        3 => (path(), seed(), 1..3000usize).prop_map(|(path, seed, size)| Op::Append(path, seed, size)),
        2 => (path(), 0..300_000u64).prop_map(|(path, len)| Op::Truncate(path, len)),
        1 => (path(), 0..3_000_000u64).prop_map(|(path, at)| Op::Sparse(path, at)),
        3 => path().prop_map(Op::Touch),
        6 => path().prop_map(Op::Remove),
        2 => path().prop_map(Op::Mkdir),
        4 => path().prop_map(Op::Recreate),
        6 => (path(), path()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 + links => (path(), path()).prop_map(move |(from, to)| {
            if has_links { Op::Link(from, to) } else { Op::Rename(from, to) }
        }),
        3 => (path(), select(&["x", "dir", "/nowhere", "../dir/x"][..]))
            .prop_map(|(path, target)| Op::Symlink(path, target)),
        3 => (path(), select(&[0o644u32, 0o600, 0o755, 0o4711, 0o1777, 0][..]))
            .prop_map(|(path, mode)| Op::Chmod(path, mode)),
        3 => (path(), id(), id()).prop_map(|(path, uid, gid)| Op::Chown(path, uid, gid)),
        3 => (path(), xattr()).prop_map(|(path, (name, value))| Op::SetXattr(path, name, value)),
        1 => (path(), name_of_xattr()).prop_map(|(path, name)| Op::RemoveXattr(path, name)),
        1 => path().prop_map(Op::Fifo),
        1 => (path(), any::<bool>(), 0..9u32).prop_map(|(path, is_block, minor)| Op::Device(path, is_block, minor)),
        1 => path().prop_map(Op::Socket),
        2 => (path(), select(&[-1_234_567_890i64, 0, 1, 1_600_000_000, 9_000_000_000][..]), 0..1_000_000_000u32)
            .prop_map(|(path, secs, nanos)| Op::Mtime(path, secs, nanos)),
        5 => path().prop_map(Op::Restore),
    ]
}

fn save() -> impl Strategy<Value = Act> {
    let shape = prop_oneof![6 => Just(Shape::Tiered), 2 => Just(Shape::Cumulative), 1 => Just(Shape::Squash)];
    let compression =
        select(&[Compression::Zstd(1), Compression::None, Compression::Gzip(1), Compression::Auto(1)][..]);
    let rarely = || prop_oneof![6 => Just(false), 1 => Just(true)];
    (shape, prop_oneof![3 => Just(Compression::Zstd(1)), 2 => compression], rarely(), rarely())
        .prop_map(|(shape, compression, purge, verify)| Act::Save { shape, compression, purge, verify })
}

#[derive(Debug, Clone)]
struct Case {
    base: Vec<Op>,
    acts: Vec<Act>,
}

fn case(has_links: bool, has_lowers: bool) -> impl Strategy<Value = Case> {
    let act = prop_oneof![
        24 => op(has_links).prop_map(Act::Do),
        6 => save(),
        1 => Just(Act::Thorough),
        1 => Just(if has_lowers { Act::PushLower } else { Act::Thorough }),
    ];
    let act = prop_oneof![200 => act, 1 => Just(Act::Settle)];
    (vec(op(has_links), 10..30), vec(act, 10..70)).prop_map(|(base, acts)| Case { base, acts })
}

fn in_base(op: &Op) -> bool {
    // in a lower these attributes would be the overlay's own
    !matches!(op, Op::SetXattr(_, name, _) if name.starts_with("user.overlay."))
}

fn try_case(case: &Case, options: &[(&str, &str)]) -> Result<()> {
    let world = World::new("random", options, |root| {
        for op in case.base.iter().filter(|op| in_base(op)) {
            let _ = op.apply(root, Path::new("/nonexistent"));
        }
        Ok(())
    })?;
    run(world, &case.acts)
}

fn run(mut world: World, acts: &[Act]) -> Result<()> {
    for act in acts {
        match act {
            Act::Do(op) => {
                let _ = op.apply(world.root(), &world.base()?);
            }
            Act::Save { shape, compression, purge, verify } => {
                let request = Request {
                    shape: *shape,
                    compression: *compression,
                    purge: *purge,
                    verify: *verify,
                    ..world.request()
                };
                let report = world.save(&request)?;
                if *purge || *shape != Shape::Tiered {
                    anyhow::ensure!(report.buried == (0, 0), "something is buried: {report:#?}");
                }
            }
            Act::Thorough => {
                world.save(&world.request())?;
                world.check_as_upper("saved")?;
                world.save_without_base()?;
            }
            Act::PushLower => world.push_lower()?,
            Act::Settle => std::thread::sleep(std::time::Duration::from_millis(5100)),
        }
    }
    world.save(&world.request())?;
    let again = world.save(&world.request())?;
    anyhow::ensure!(again.changed + again.removed == 0, "nothing changed: {again:#?}");
    Ok(())
}

fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn law_holds(name: &str, options: &[(&str, &str)], has_links: bool, has_lowers: bool) {
    if !require(name, &[Capability::Overlay]) {
        return;
    }
    let config = Config {
        cases: number("PROPTEST_CASES", 8),
        failure_persistence: None,
        max_shrink_iters: number("PROPTEST_MAX_SHRINK_ITERS", 200),
        max_shrink_time: 60_000,
        rng_seed: RngSeed::Fixed(u64::from(number("LAW_SEED", 1))),
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&case(has_links, has_lowers), |case| {
        try_case(&case, options).map_err(|error| {
            let mut text = format!("{error:#}\nbase:\n");
            for op in &case.base {
                let _ = writeln!(text, "  {op:?}");
            }
            for act in &case.acts {
                let _ = writeln!(text, "  {act:?}");
            }
            TestCaseError::fail(text)
        })
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
}

#[test]
fn plain() {
    let options = [("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];
    law_holds("plain", &options, true, true);
}

#[test]
fn xino() {
    law_holds("xino", &[("index", "off"), ("xino", "on"), ("redirect_dir", "nofollow")], true, true);
}

#[test]
fn redirected_links() {
    law_holds("redirected_links", &[("redirect_dir", "on"), ("index", "off")], true, false);
}

#[test]
fn redirected_lowers() {
    law_holds("redirected_lowers", &[("redirect_dir", "on"), ("index", "off")], false, true);
}

#[test]
fn metacopy() {
    let options = [("metacopy", "on"), ("redirect_dir", "on"), ("index", "off"), ("xino", "on")];
    law_holds("metacopy", &options, false, true);
}

#[test]
fn userxattr() {
    law_holds("userxattr", &[("userxattr", ""), ("index", "off")], true, true);
}

#[test]
fn noise_is_the_same_for_the_same_seed() {
    assert_eq!(noise(3, 100), noise(3, 1000)[..100]);
}
