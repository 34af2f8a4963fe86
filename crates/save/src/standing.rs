//! When the container stands still, and what is done before and then.
//!
//! With little to read the pause holds all of it. With much, what reads cleanly is packed first; then names
//! that were touched meanwhile are looked at again, or all where nobody watched. Only the upper is touched
//! while the container stands still: what is mounted over its root may be served by somebody who stands
//! still too.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use linux::stamp::Stamp;

use crate::error::SaveError;
use crate::held::Captures;
use crate::pause::{self, DEADLINE, Pause, PauseError, PauseTarget};
use crate::read::Phase;
use crate::saving::Saving;
use crate::walk::{Directories, Trust, Walked};
use crate::watch::{Touched, Watch};

/// Up to this much is read in the pause itself: doing it before would cost more than it saves.
const READ_IN_PAUSE: u64 = 8 << 20;
/// The same, in files.
const FILES_IN_PAUSE: u64 = 1000;
/// More names of linked files than this are not looked at one by one in the pause.
const LINKED_NAMES: usize = 100_000;
/// Larger uppers are watched, so that the pause need not look at every name again.
const WATCHED_NAMES: u64 = 4000;

impl Saving<'_> {
    /// Walks, pauses, packs.
    pub(crate) fn save(&mut self, run_dir: &Path) -> Result<(), SaveError> {
        let walked = self.walk()?;
        let target = match (&self.job.source.process, self.job.request.pause) {
            (Some(process), true) => self.target(process.handle.pid())?,
            _ => None,
        };
        let Some(target) = target else {
            return self.finish(walked, None, None);
        };
        let is_small = walked.totals.unknown_bytes <= READ_IN_PAUSE
            && walked.totals.unknown_files <= FILES_IN_PAUSE
            && walked.totals.names <= WATCHED_NAMES;
        if is_small {
            self.pause_at_once(walked, &target, run_dir)
        } else {
            self.pause_late(walked, &target, run_dir)
        }
    }

    /// The container of the process, if it can be paused. The process is asked for afterwards: while it has
    /// been the same all the time, it is no other container that was looked at.
    fn target(&mut self, pid: i32) -> Result<Option<PauseTarget>, SaveError> {
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { return Ok(None) };
        let target = PauseTarget::of(pid);
        self.job.source.check()?;
        Ok(match target {
            Ok(target) => Some(target),
            Err(error) => {
                self.cannot_pause(&error);
                None
            }
        })
    }

    fn cannot_pause(&mut self, error: &PauseError) {
        self.warnings.push(format!("saved without a pause: {error}"));
    }

    /// Little to read: the pause holds all of it, and the image is of one moment.
    fn pause_at_once(
        &mut self,
        mut before: Walked,
        target: &PauseTarget,
        run_dir: &Path,
    ) -> Result<(), SaveError> {
        let mut captures = self.job.captures()?;
        let pause = match pause::freeze(target, DEADLINE, run_dir) {
            Ok(pause) => pause,
            Err(error) => {
                self.cannot_pause(&error);
                return self.finish(before, None, None);
            }
        };
        captures.begin();
        let mut walked = self.job.walk(self.known()?, Trust::EarlierSave, None, Some(&mut captures))?;
        let held = self.thaw(pause);
        walked = self.recognise(walked)?;
        self.with_grafts(&mut walked, &mut before)?;
        self.tell_missed(&captures);
        self.finish(walked, held.then_some(&captures), None)
    }

    /// Much to read: what reads cleanly is packed first.
    fn pause_late(
        &mut self,
        mut before: Walked,
        target: &PauseTarget,
        run_dir: &Path,
    ) -> Result<(), SaveError> {
        let mut directories = Directories::new();
        let mut watch = self.watch(&before);
        if let Some(watch) = &mut watch {
            let walked =
                self.job.walk(self.known()?, Trust::EarlierSave, Some((watch, &mut directories)), None)?;
            before = self.recognise(walked)?;
        }
        let job = self.job;
        let (mut plan, first, mut before, mut reading) = self.plan(before, Phase::Running, None)?;
        job.progress.stage("pack", Some(plan.totals().to_read));
        let sealed = self.sealed();
        let making = self.make(&mut plan, first.buried, &sealed, &mut reading)?;
        let deferred = std::mem::take(&mut reading.findings.deferred);
        self.learn(&mut reading)?;
        drop(reading);
        // with what earlier saves knew: it need not be read in the pause either
        if let Some(learned) = self.knowledge.last() {
            before = before.with_knowledge(&mut learned.cursor()?, &job.spill)?;
        }
        let knowledge = before.knowledge(&job.spill)?;

        let mut captures = job.captures()?;
        for path in &deferred {
            if let Ok(file) = layer::scan::open_file(job.upper(), path) {
                let size = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
                captures.prepare(std::os::fd::AsFd::as_fd(&file), size);
            }
        }
        let mut linked = None;
        if let Some(watch) = &mut watch {
            linked = before.linked_names(LINKED_NAMES)?;
            // what is read now need not be read in the pause
            let _ = watch.collect();
        }
        job.progress.stage("pause", None);
        let pause = match pause::freeze(target, DEADLINE, run_dir) {
            Ok(pause) => Some(pause),
            Err(error) => {
                self.cannot_pause(&error);
                None
            }
        };
        let touched = match &mut watch {
            Some(watch) if pause.is_some() && !directories.is_empty() && linked.is_some() => watch.drain(),
            _ => Touched::All,
        };
        let paused = pause.is_some();
        captures.begin();
        let seen_again = match touched {
            Touched::Names(names) => {
                let mut touched = touched_paths(&names, &directories, &deferred);
                // an event tells the name that was used, not the others of the same file
                touched.extend(linked.into_iter().flatten());
                let cursor = Some(knowledge.cursor()?);
                let again = job.look_again(&touched, &directories, &mut captures, cursor)?;
                again.map(|(walked, replaced)| (walked, Some((touched, replaced))))
            }
            Touched::All => None,
        };
        let (mut walked, merged) = match seen_again {
            Some(seen) => seen,
            None => {
                let capturing = paused.then_some(&mut captures);
                (job.walk(Some(knowledge.cursor()?), Trust::ThisSave, None, capturing)?, None)
            }
        };
        let held = pause.map(|pause| self.thaw(pause));
        if let Some((touched, replaced)) = merged {
            let is_replaced =
                |path: &[u8]| touched.contains(path) || ancestors(path).any(|above| replaced.contains(above));
            let mut merged = Walked::merge(&mut before, &mut walked, &job.spill, &is_replaced)?;
            walked = merged.with_links_of(&mut walked, &mut captures, &job.spill)?;
        }
        self.tell_missed(&captures);
        self.with_grafts(&mut walked, &mut before)?;
        self.finish(walked, (held == Some(true)).then_some(&captures), Some(making))
    }

    /// Watches the file system of a large upper. The trial whether events arrive must be made on that file
    /// system: in our own directory where that is there, else beside the upper.
    fn watch(&self, walked: &Walked) -> Option<Watch> {
        if walked.totals.names <= WATCHED_NAMES {
            return None;
        }
        let state = self.job.store.root().join("state");
        std::fs::create_dir_all(&state).ok()?;
        let ours = File::open(state).ok()?;
        let device = |dir: BorrowedFd<'_>| Stamp::of_file(dir).map(|stamp| stamp.dev).ok();
        if device(ours.as_fd()) == device(self.job.upper()) {
            return Watch::start(self.job.upper(), ours.as_fd()).ok();
        }
        let beside = self.job.beside_upper()?;
        Watch::start(self.job.upper(), beside.as_fd()).ok()
    }

    /// Files that the pause could not keep are read while the container runs, like those of a save without one.
    fn tell_missed(&mut self, captures: &Captures) {
        if let [(path, error), ..] = captures.missed() {
            let (path, count) = (String::from_utf8_lossy(path), captures.missed().len());
            self.warnings.push(format!(
                "{count} files could not be kept in the pause and were read after it: {path}: {error}"
            ));
        }
    }

    fn thaw(&mut self, pause: Pause) -> bool {
        match pause.thaw() {
            Ok(thawed) => {
                self.moments.pause = Some(thawed.paused_for);
                self.seal();
                true
            }
            Err(error) => {
                self.warnings.push(format!("{error}: saved as read while it ran"));
                false
            }
        }
    }

    /// Puts the mounts that are taken in where they belong; they were walked before the pause.
    fn with_grafts(&self, walked: &mut Walked, before: &mut Walked) -> Result<(), SaveError> {
        let grafts = &self.job.grafts;
        if grafts.is_empty() {
            return Ok(());
        }
        let spill = &self.job.spill;
        let in_graft = |path: &[u8]| {
            grafts.iter().any(|graft| path == graft.path || layer::entry::is_below(path, &graft.path))
        };
        let leads = |path: &[u8]| grafts.iter().any(|graft| layer::entry::is_below(&graft.path, path));
        let mut taken_in = before.only(spill, &|path| in_graft(path) || leads(path))?;
        *walked = Walked::merge(walked, &mut taken_in, spill, &in_graft)?;
        Ok(())
    }
}

/// The directories above a path.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

/// The paths behind what a watch reports, with their directories, whose times moved, and with what has to
/// be captured in any case.
fn touched_paths(
    names: &std::collections::HashSet<(u32, Box<[u8]>)>,
    directories: &Directories,
    deferred: &[Vec<u8>],
) -> BTreeSet<Vec<u8>> {
    let mut by_id: Vec<&[u8]> = vec![&[]; directories.len()];
    for (path, (id, _)) in directories {
        if let Some(slot) = by_id.get_mut(*id as usize) {
            *slot = path;
        }
    }
    let mut touched: BTreeSet<Vec<u8>> = deferred.iter().cloned().collect();
    for (id, name) in names {
        let Some(parent) = by_id.get(*id as usize) else { continue };
        if !parent.is_empty() {
            touched.insert(parent.to_vec());
        }
        if &**name != b"." {
            touched.insert(layer::entry::join(parent, name));
        }
    }
    touched
}
