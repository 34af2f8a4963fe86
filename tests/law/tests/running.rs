//! Containers that are saved while they run, with a pause.
//!
//! `LAW_SAVES` sets how often the busy one is saved.

#![expect(clippy::unwrap_used, reason = "a case that fails tells where")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Capability, Container, Tree, busybox_rootfs, require};
use law::{World, noise, tolerance};
use save::request::{Report, Request, Shape};
use save::source::Spec;

const NEEDED: &[Capability] = &[Capability::Overlay, Capability::Freezer, Capability::Busybox];
const PLAIN: &[(&str, &str)] = &[("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

fn world(name: &str) -> Option<World> {
    require(name, NEEDED).then(|| World::new(name, PLAIN, |root| busybox_rootfs(root).map(drop)).unwrap())
}

fn paused(world: &World, container: &Container, shape: Shape) -> Request {
    let pid = i32::try_from(container.pid()).unwrap();
    Request { source: Spec::Pid(pid), pause: true, shape, ..world.request() }
}

/// Writes, renames, truncates, links and removes without end; each file that is renamed into place says at
/// its start and its end which one it is.
const BUSY: &str = r#"
mkdir -p /busy/dir; cd /busy; n=0
while :; do
  n=$((n+1))
  { echo begin $n; head -c 20000 /dev/urandom | base64; echo end $n; } > tmp
  mv tmp whole$((n%7))
  echo line $n >> log
  : > cut; echo $n > cut
  rm -rf dir; mkdir dir; echo $n > dir/f; ln -f whole$((n%7)) linked
  [ $((n%50)) = 0 ] && : > log
done
"#;

/// No torn file among those that were renamed into place.
fn check_whole(out: &Path) -> Result<usize> {
    let mut seen = 0;
    for at in 0..7 {
        let Ok(text) = fs::read_to_string(out.join(format!("busy/whole{at}"))) else { continue };
        let number = |word: &str, line: Option<&str>| {
            line.and_then(|line| line.strip_prefix(word)).map(|number| number.trim().to_owned())
        };
        let (begin, end) = (number("begin", text.lines().next()), number("end", text.lines().last()));
        ensure!(begin.is_some() && begin == end, "whole{at} is torn: {begin:?} to {end:?}");
        seen += 1;
    }
    Ok(seen)
}

#[test]
fn a_busy_container_is_saved_again_and_again() {
    let Some(world) = world("busy") else { return };
    let container = Container::builder(world.root()).start(&world.scratch).unwrap();
    container.exec_detached(["/bin/sh", "-c", BUSY]).unwrap();
    let saves = std::env::var("LAW_SAVES").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let mut seen = 0;
    for at in 0..saves {
        let shape = [Shape::Tiered, Shape::Tiered, Shape::Cumulative, Shape::Squash][at % 4];
        let report = world.commit(&paused(&world, &container, shape)).unwrap();
        assert!(report.moments.pause.is_some(), "{report:#?}");
        assert!(report.torn.is_empty() && report.grew.is_empty(), "{report:#?}");
        let out = world.unpack("saved").unwrap();
        seen += check_whole(&out).unwrap();
        fs::remove_dir_all(out).unwrap();
    }
    assert!(seen > saves, "it was busy");
}

fn frozen_tree(world: &World, request: &Request) -> Result<Report> {
    let report = world.commit(request)?;
    let out = world.unpack("saved")?;
    let result = Tree::read(world.root())?.must_equal(&Tree::read(&out)?, &tolerance());
    fs::remove_dir_all(out)?;
    result.with_context(|| format!("{report:#?}"))?;
    Ok(report)
}

/// Saves while a script runs that ends in a known state, and compares once it stands still: what the last
/// save of it says must be what is there.
fn late(name: &str, many: usize, size: usize) {
    let Some(world) = world(name) else { return };
    let root = world.root();
    for at in 0..many {
        let dir = root.join(format!("data/{}", at % 50));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{at}")), noise(at as u64, size)).unwrap();
    }
    fs::hard_link(root.join("data/0/0"), root.join("data/zz-link")).unwrap();
    let container = Container::builder(root).start(&world.scratch).unwrap();
    // frozen by somebody else: it stays so, and all of it is compared
    container.pause().unwrap();
    let report = frozen_tree(&world, &paused(&world, &container, Shape::Tiered)).unwrap();
    assert!(report.torn.is_empty(), "{report:#?}");
    let state = fs::read_to_string(container.freezer().join("freezer.state"));
    assert!(state.map_or(true, |state| state.trim() == "FROZEN"), "who was paused stays paused");
    container.resume().unwrap();

    // activity while it is saved: what was written in the pause's order is there in that order
    const STEPS: &str = r#"cd /data; n=0; while :; do n=$((n+1)); d=$((n%50))
        echo $n > first; echo $n > $d/new; ln -f first later-link; rm -rf gone; mkdir gone; echo $n > gone/f
        echo $n >> zz-link; mv $d/new $d/renamed; rm -f $(((n+7)%50))/renamed; echo $n > last; done"#;
    container.exec_detached(["/bin/sh", "-c", STEPS]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !root.join("data/last").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut two_layers = 0;
    for at in 0..4 {
        let shape = if at == 3 { Shape::Cumulative } else { Shape::Tiered };
        fs::write(root.join(format!("data/big{at}")), noise(at, 9 << 20)).unwrap();
        let report = world.commit(&paused(&world, &container, shape)).unwrap();
        assert!(report.moments.pause.is_some() && report.torn.is_empty(), "{report:#?}");
        two_layers += usize::from(report.layers.iter().filter(|layer| layer.new).count() == 2);
        let out = world.unpack("saved").unwrap();
        let number = |name: &str| {
            let text = fs::read_to_string(out.join("data").join(name)).unwrap_or_default();
            text.lines().last().and_then(|line| line.parse::<i64>().ok())
        };
        let (first, last) = (number("first"), number("last"));
        if let (Some(first), Some(last)) = (first, last) {
            assert!((0..=1).contains(&(first - last)), "of one moment: {first} {last}");
        }
        // both names of one file have the same bytes, whichever was written to
        let linked = ["data/0/0", "data/zz-link"].map(|name| {
            fs::read(out.join(name)).unwrap_or_else(|error| panic!("save {at}: {name}: {error}: {report:#?}"))
        });
        assert!(linked[0] == linked[1], "a link lags behind");
        if shape == Shape::Cumulative {
            assert_eq!(report.layers.len(), 2, "{report:#?}");
            assert_eq!(report.buried, (0, 0), "{report:#?}");
        }
        fs::remove_dir_all(out).unwrap();
    }
    assert!(two_layers > 0, "something changed between the passes");
    // at rest the law holds to the byte
    container.pause().unwrap();
    for shape in [Shape::Tiered, Shape::Cumulative, Shape::Squash] {
        frozen_tree(&world, &paused(&world, &container, shape)).unwrap();
    }
}

#[test]
fn a_large_upper_is_paused_late() {
    late("late", 20, 1 << 20);
}

#[test]
fn an_upper_of_many_names_is_watched() {
    late("watched", 5000, 100);
}
