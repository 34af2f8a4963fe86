//! Case p: how long a container stands still.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bench::measure::{Sample, Series};
use bench::report::{Table, size};
use bench::seeded::{self, Random};
use harness::{Container, FileSystem};

use super::ours::Ours;
use super::setting::{Place, Setting, beside, fill};

type Keep<'k> = &'k mut dyn FnMut(Table) -> Result<()>;

pub(crate) fn run(setting: &Setting<'_>, keep: Keep<'_>) -> Result<()> {
    for kind in setting.options.file_systems()? {
        for case in ['a', 'b', 'c', 'e'] {
            keep(still(setting, kind, case)?)?;
        }
        let held: &[u64] = match kind {
            FileSystem::Ext4 => &[64_000_000, 256_000_000, 1_000_000_000],
            FileSystem::Xfs | FileSystem::Btrfs => &[2_000_000_000],
        };
        for bytes in held {
            keep(held_open(setting, kind, setting.scaled(*bytes))?)?;
        }
    }
    Ok(())
}

/// Nothing writes while it is saved.
fn still(setting: &Setting<'_>, kind: FileSystem, case: char) -> Result<Table> {
    super::tell(&format!("pause of {case} on {}", kind.name()));
    let place = setting.place(kind, 8 << 30)?;
    let (base, mount) = rooted(&place)?;
    fill(if case == 'e' { 'b' } else { case }, mount.target(), setting)?;
    let container = Container::builder(mount.target()).start(&place.scratch)?;
    std::thread::sleep(std::time::Duration::from_secs(6));
    let ours = Ours::new(&place.scratch, &setting.stopwatch)?;
    let words = of_process(container.pid());
    if case == 'e' {
        ours.first(&words)?;
    }
    let mut turn = 0;
    // a first save of c takes many times as long as one of the others
    let saves = if case == 'c' { setting.options.pauses.div_ceil(3) } else { setting.options.pauses };
    let rows = measured(setting, saves, &ours, &words, &mut || {
        turn += 1;
        match case {
            'a' | 'e' => {
                let path = mount.target().join(format!("new{turn}"));
                seeded::random_file(&path, 1000, &mut Random::new(turn))
            }
            _ => ours.forget(),
        }
    })?;
    drop(container);
    table(format!("p: pause of {case} while nothing writes"), &place, kind, &base, rows)
}

/// A writer at 100 MB/s holds a file open all the time.
fn held_open(setting: &Setting<'_>, kind: FileSystem, bytes: u64) -> Result<Table> {
    super::tell(&format!("pause with {} held open on {}", size(bytes), kind.name()));
    let place = setting.place(kind, 12 << 30)?;
    let (base, mount) = rooted(&place)?;
    let container = Container::builder(mount.target()).start(&place.scratch)?;
    let (count, rate) = (bytes.to_string(), "100000000");
    container.exec_detached(["/bin/busy", "/held", &count, rate])?;
    // until it is filled and rewritten
    let held = mount.target().join("held");
    for _ in 0..600 {
        setting.stopwatch.check()?;
        if fs::metadata(&held).is_ok_and(|held| held.len() + (1 << 20) > bytes) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let ours = Ours::new(&place.scratch, &setting.stopwatch)?;
    let words = of_process(container.pid());
    let most = if kind == FileSystem::Ext4 { 5 } else { setting.options.pauses };
    let rows = measured(setting, most, &ours, &words, &mut || ours.forget())?;
    table(format!("p: pause, {} held open by a writer at 100 MB/s", size(bytes)), &place, kind, &base, rows)
}

fn rooted(place: &Place) -> Result<(std::path::PathBuf, harness::OverlayMount)> {
    let base = harness::busybox_rootfs(&place.scratch.dir("base")?)?;
    fs::copy(beside("busy")?, base.join("bin/busy")).context("copy the writer")?;
    let mount = place.overlay(&base, "root")?;
    Ok((base, mount))
}

fn of_process(pid: u32) -> Vec<OsString> {
    vec!["--pid".into(), pid.to_string().into()]
}

fn measured(
    setting: &Setting<'_>,
    saves: usize,
    ours: &Ours<'_>,
    words: &[OsString],
    before: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Series>> {
    let (mut pauses, mut wholes) = (Vec::new(), Vec::new());
    for number in 0..saves + 1 {
        setting.stopwatch.check()?;
        before()?;
        let saved = ours.save(words)?;
        let pause = saved.pause_ms;
        ensure!(pause.is_some(), "saved without a pause: {}", saved.warnings.join("; "));
        let sealed = saved.sealed_ms.unwrap_or(f64::NAN);
        super::tell(&format!(
            "pause {:.1} ms, sealed {sealed:.1} ms, whole {:.1} ms",
            pause.unwrap_or(f64::NAN),
            saved.sample.wall_ms
        ));
        if number > 0 {
            pauses.push(Sample { wall_ms: pause.unwrap_or(f64::NAN), ..Sample::default() });
            wholes.push(saved.sample);
        }
    }
    let pauses = Series { name: "pause".to_owned(), samples: pauses };
    Ok(vec![pauses, Series { name: "whole command".to_owned(), samples: wholes }])
}

fn table(case: String, place: &Place, kind: FileSystem, base: &Path, rows: Vec<Series>) -> Result<Table> {
    let pause = &rows[0];
    let notes = vec![format!(
        "pause: median {:.1} ms, p99 {:.1} ms of {} saves",
        pause.median_ms(),
        pause.quantile_ms(0.99),
        pause.samples.len()
    )];
    Ok(Table { case, file_system: place.describe(kind), base: seeded::count(base)?, rows, notes })
}
