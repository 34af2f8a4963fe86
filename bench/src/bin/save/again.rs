//! Cases d and e: the save after the first.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::measure::{Contender, Sample, Series, interleave};
use bench::report::{Table, size};
use bench::seeded::{self, Random};
use harness::FileSystem;

use super::ours::{self, Ours};
use super::setting::{Place, Setting, fill, paced};

/// Older than this is what a file must be for a clean read to count (5 s).
const AGE: Duration = Duration::from_secs(6);

type Keep<'k> = &'k mut dyn FnMut(Table) -> Result<()>;

/// What is changed before each save.
#[derive(Clone, Copy)]
enum Change {
    New,
    Early,
    Deleted,
}

pub(crate) fn run(setting: &Setting<'_>, keep: Keep<'_>) -> Result<()> {
    let wants = |case| setting.options.cases.contains(&case);
    for kind in setting.options.file_systems()? {
        if wants('e') {
            for shape in ["tiered", "cumulative"] {
                keep(one(setting, kind, 'b', shape)?)?;
            }
        }
        if setting.options.full && (wants('d') || wants('e')) {
            for shape in ["tiered", "cumulative"] {
                keep(one(setting, kind, 'd', shape)?)?;
            }
        }
    }
    Ok(())
}

fn one(setting: &Setting<'_>, kind: FileSystem, case: char, shape: &str) -> Result<Table> {
    super::tell(&format!("second save of {case}, {shape}, on {}", kind.name()));
    let change_bytes = setting.scaled(if case == 'b' { 1_000_000_000 } else { 10_000_000_000 });
    // the change, two blobs of it while one replaces the other, and a copy to compare with
    let place = setting.place(kind, change_bytes * 5 / 2 + (3 << 30))?;
    let scratch = &place.scratch;
    let base = harness::busybox_rootfs(&scratch.dir("base")?)?;
    let mount = place.overlay(&base, "root")?;
    fill(case, mount.target(), setting)?;
    std::thread::sleep(AGE);
    let ours = Ours::new(scratch, &setting.stopwatch)?;
    let option = format!("--{shape}");
    let more: &[&str] = if shape == "tiered" { &[] } else { &[&option] };
    let words = ours::overlay(mount.target(), None, more);

    let firsts = if case == 'b' { setting.options.pairs.min(3) } else { 1 };
    let first = Contender::new("first commit", usize::from(case == 'b'), || ours.first(&words));
    let mut rows = interleave(&mut [first], firsts, &|| Ok(()), &super::tell)?;
    let data = mount.target().join("data");
    let mut turn = 0;
    for (change, name, most) in [
        (Change::New, "then a new file of 1 KB", usize::MAX),
        (Change::Early, "then 4 KB of an early file changed", 3),
        (Change::Deleted, "then an early file deleted", 3),
    ] {
        let run = || -> Result<Sample> {
            turn += 1;
            // as a copy's output is removed after each run: all find the same free memory
            ours.prune()?;
            alter(&data, change, turn)?;
            Ok(ours.save(&words)?.sample)
        };
        let warmups = if matches!(change, Change::New) { 3 } else { 0 };
        let contender = Contender::new(format!("{name}, {shape}"), warmups, run).at_most(most);
        rows.extend(interleave(&mut [contender], setting.options.pairs, &|| Ok(()), &super::tell)?);
    }
    let mut notes = vec![format!("the files were {} s old at the first commit", AGE.as_secs())];
    if shape == "cumulative" {
        rows.push(copy(setting, &place, &ours, kind)?);
    }
    let first = rows[0].median_ms();
    notes.push(format!(
        "a new file is saved {:.0}× faster than the first commit",
        first / rows[1].median_ms()
    ));
    Ok(Table {
        case: format!(
            "{}: the save after the first of {}, {shape}",
            if case == 'b' { "e" } else { "d, e" },
            size(change_bytes)
        ),
        file_system: place.describe(kind),
        base: seeded::count(&base)?,
        rows,
        notes,
    })
}

fn alter(data: &Path, change: Change, turn: u64) -> Result<()> {
    let early = |number: u64| data.join(format!("random{number:03}"));
    match change {
        Change::New => {
            seeded::random_file(&data.join(format!("zz-new{turn:03}")), 1000, &mut Random::new(turn))
        }
        Change::Early => {
            let path = early(1);
            let file = fs::File::options().write(true).open(&path).context("open the early file")?;
            let mut block = vec![0; 4096];
            Random::new(turn).fill(&mut block);
            file.write_all_at(&block, 0).with_context(|| format!("write {}", path.display()))
        }
        Change::Deleted => {
            let path = (2..9).map(early).find(|path| path.exists()).context("all are deleted")?;
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
        }
    }
}

/// Copying the blob elsewhere: what cumulative saves are compared with.
fn copy(setting: &Setting<'_>, place: &Place, ours: &Ours<'_>, kind: FileSystem) -> Result<Series> {
    let blobs = ours.headstart.root().join("images/blobs/sha256");
    let sized = |entry: fs::DirEntry| Some((entry.metadata().ok()?.len(), entry.path()));
    let blob = fs::read_dir(&blobs).context("list the blobs")?.flatten().filter_map(sized).max();
    let (_, blob) = blob.context("the store is empty")?;
    let output = place.scratch.join("copied");
    let script = "set -e; cp --reflink=never \"$1\" \"$2\"; sync \"$2\"";
    let contender = paced(Contender::new(format!("cp of the blob, synced, on {}", kind.name()), 1, || {
        let _ = fs::remove_file(&output);
        rustix::fs::sync();
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script, "bash"]).arg(&blob).arg(&output);
        let mut sample = setting.stopwatch.time(&mut command)?;
        sample.output = Some(super::setting::length(&output)?);
        fs::remove_file(&output).context("remove the copy")?;
        Ok(sample)
    }))?;
    let series = interleave(&mut [contender], setting.options.pairs.min(3), &|| Ok(()), &super::tell)?;
    series.into_iter().next().context("no series")
}
