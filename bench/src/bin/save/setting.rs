//! What all cases share: the scratch directory, the clock, the programs that are measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use bench::measure::{Contender, Sample, Stopwatch};
use bench::seeded::{self, Random, Shape};
use harness::{FileSystem, LoopFs, OverlayMount, OverlayOptions, Scratch};

use super::Options;

/// Runs of what takes longer than this are few.
const SLOW_MS: f64 = 8_000.0;

/// See the module.
pub(crate) struct Setting<'a> {
    pub(crate) options: &'a Options,
    pub(crate) stopwatch: Stopwatch<'a>,
    pub(crate) scratch: Scratch,
}

impl<'a> Setting<'a> {
    pub(crate) fn new(options: &'a Options, cancel: &'a AtomicBool) -> Result<Self> {
        let scratch = Scratch::new("bench")?;
        Ok(Self { options, stopwatch: Stopwatch::new(&scratch, cancel), scratch })
    }

    /// `bytes` or a count, less when the benchmark itself is tried.
    pub(crate) fn scaled(&self, number: u64) -> u64 {
        (number / self.options.shrink).max(1)
    }

    /// Lets everybody find as much free memory that the machine really has: what was free for a while, a host
    /// may have taken back, and whoever touches it first then pays for getting it again.
    pub(crate) fn prime(&self, case: char) -> Result<()> {
        if case != 'a' {
            let path = self.scratch.join("prime");
            seeded::random_file(&path, self.scaled(1_100_000_000), &mut Random::new(0))?;
            std::fs::remove_file(&path).context("remove what was written")?;
        }
        Ok(())
    }

    /// The name of the file system that the scratch directory lies on.
    pub(crate) fn file_system(&self) -> String {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let holding = text.lines().filter_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let target = mount.split(' ').nth(4)?;
            self.scratch.path().starts_with(target).then(|| (target.len(), source.split(' ').next()))
        });
        let nearest = holding.max_by_key(|(len, _)| *len).and_then(|(_, name)| name);
        nearest.unwrap_or("unknown").to_owned()
    }

    /// The floor for the bytes below `dir`.
    pub(crate) fn floor<'s>(&'s self, dir: &Path, digests: u32, warmups: usize) -> Result<Contender<'s>> {
        let program = beside("floor")?;
        let (dir, output) = (dir.to_owned(), self.scratch.join("floor-output"));
        let name = format!("floor: read, {digests} × SHA-256, write, sync");
        Ok(Contender::new(name, warmups, move || {
            fresh(&output)?;
            let mut command = Command::new(&program);
            command.arg(&dir).arg(&output).arg(digests.to_string());
            let mut sample = self.stopwatch.time(&mut command)?;
            sample.output = Some(length(&output)?);
            fresh(&output)?;
            Ok(sample)
        }))
    }

    /// A shell pipeline over the files below `dir`: `$1` is the directory, `$2` the output.
    pub(crate) fn pipeline<'s>(
        &'s self,
        name: &str,
        script: &str,
        dir: &Path,
        warmups: usize,
    ) -> Contender<'s> {
        let (dir, output) = (dir.to_owned(), self.scratch.join("pipeline-output"));
        let script = format!("set -euo pipefail; {script}; sync \"$2\"");
        Contender::new(name, warmups, move || {
            fresh(&output)?;
            let mut command = Command::new("bash");
            command.args(["-c", &script, "bash"]).arg(&dir).arg(&output);
            let mut sample = self.stopwatch.time(&mut command)?;
            sample.output = Some(length(&output)?);
            fresh(&output)?;
            Ok(sample)
        })
    }

    /// A place on a file system: the scratch directory itself when it is of that kind, else a loop image.
    pub(crate) fn place(&self, kind: FileSystem, bytes: u64) -> Result<Place> {
        if self.file_system() == kind.name() {
            return Ok(Place { scratch: Scratch::new_in(self.scratch.path(), kind.name())?, _mount: None });
        }
        let mount = LoopFs::new(kind, &self.scratch.join(format!("on-{}", kind.name())), bytes)?;
        Ok(Place { scratch: Scratch::new_in(mount.target(), kind.name())?, _mount: Some(mount) })
    }
}

/// A directory on a file system of a kind. Fields are dropped in their order.
pub(crate) struct Place {
    pub(crate) scratch: Scratch,
    _mount: Option<LoopFs>,
}

impl Place {
    /// What a reader must know about it.
    pub(crate) fn describe(&self, kind: FileSystem) -> String {
        match &self._mount {
            None => kind.name().to_owned(),
            Some(_) => format!("{} in a loop image", kind.name()),
        }
    }

    /// An overlay over `base` with a fresh upper, named `name` inside the place.
    pub(crate) fn overlay(&self, base: &Path, name: &str) -> Result<OverlayMount> {
        overlay(&self.scratch, base, name)
    }
}

/// An overlay over `base` with a fresh upper inside `scratch`.
pub(crate) fn overlay(scratch: &Scratch, base: &Path, name: &str) -> Result<OverlayMount> {
    OverlayOptions::new()
        .lower(base)
        .upper(scratch.dir(format!("{name}-upper"))?, scratch.dir(format!("{name}-work"))?)
        .mount(&scratch.dir(name)?)
}

/// Removes an output of the run before, and leaves nothing to be written behind our back.
fn fresh(output: &Path) -> Result<()> {
    match std::fs::remove_file(output) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", output.display()))
        }
        _ => {
            rustix::fs::sync();
            Ok(())
        }
    }
}

pub(crate) fn length(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("stat {}", path.display()))?.len())
}

/// Another program of this package.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?.with_file_name(name);
    ensure!(path.is_file(), "no {}: build the whole package `bench`", path.display());
    Ok(path)
}

/// Sets how often a contender runs by how long its first run takes. What takes long has no cold start to
/// speak of: its first run counts, and two more.
pub(crate) fn paced(contender: Contender<'_>) -> Result<Contender<'_>> {
    let Contender { name, mut run, .. } = contender;
    let first: Sample = run().with_context(|| name.clone())?;
    super::tell(&format!("{name}: {:.1} ms (first)", first.wall_ms));
    if first.wall_ms < SLOW_MS {
        let warmups = if first.wall_ms < 1_000.0 { 2 } else { 1 };
        return Ok(Contender::new(name, warmups, run));
    }
    let mut kept = Some(first);
    Ok(Contender::new(name, 0, move || kept.take().map_or_else(&mut run, Ok)).at_most(3))
}

/// What a case changes, below the root of a container.
pub(crate) fn fill(case: char, root: &Path, setting: &Setting<'_>) -> Result<()> {
    let mut random = Random::new(u64::from(u32::from(case)));
    match case {
        'a' => seeded::random_file(&root.join("changed.txt"), 1000, &mut random)?,
        'b' => large_files(root, 10, setting)?,
        'd' => large_files(root, 100, setting)?,
        _ => {
            let (files, bytes) = (setting.scaled(50_000), setting.scaled(1_000_000_000));
            let shape = Shape { files, dirs: (files / 12).max(1), bytes, is_source: true, settled: false };
            let dir = root.join("sources");
            std::fs::create_dir_all(&dir).context("create the sources")?;
            seeded::tree(&dir, shape, 3)?;
        }
    }
    rustix::fs::sync();
    Ok(())
}

fn large_files(root: &Path, count: u64, setting: &Setting<'_>) -> Result<()> {
    let mut random = Random::new(2);
    let dir = root.join("data");
    std::fs::create_dir_all(&dir).context("create the directory")?;
    for number in 0..count {
        let path = dir.join(format!("random{number:03}"));
        seeded::random_file(&path, setting.scaled(100_000_000), &mut random)?;
    }
    Ok(())
}
