//! A save from its first system call to the durable image.
//!
//! # Shape
//! ```text
//!  find source ─► walk ─┬─ little to read, or a pause of its own ──────────┐
//!                       │                                                   ▼
//!                       └─► plan ─► pack what reads cleanly ─► freeze ─► look again, capture ─► thaw
//!                                                                           │
//!                             publish ◄─ pack what was captured ◄─ plan ◄───┘
//! ```
//! A container stands still only while names are looked at again and bytes are captured that could not be
//! read cleanly before. Comparing, hashing, compressing and writing happen while it runs.
//!
//! What was packed before the pause is a layer like any other: when something in it was changed by the
//! time of the pause, the second plan is a layer over it (or, where exactly one layer is wanted, takes its
//! members over). When it only lacks something, that is added to it.
//!
//! # Crash safety
//! Nothing has a name before [`registry::Store::publish`], which is atomic. Dying at any earlier point
//! leaves ingests that the next collection removes, and a container that its guard thaws.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use layer::compose::{Addition, Composer};
use layer::frames::Sealed;
use layer::pack::PackOptions;
use layer::plan::{LeftOut, Plan, Totals};
use layer::table::{ContentHash, Table};
use registry::{Ingest, Store};

use crate::chain::{Chain, Lost, MAX_TIERS};
use crate::compare::compare;
use crate::error::SaveError;
use crate::held::Captures;
use crate::image::{self, NewLayer};
use crate::job::{Decided, Job};
use crate::knowledge::Knowledge;
use crate::pause::{self, DEADLINE, Pause, PauseError, PauseTarget};
use crate::read::{Findings, Phase, Reading};
use crate::request::{DiffKind, DiffLine, Moments, Progress, Report, Request, Shape};
use crate::walk::{Directories, Elsewhere, Trust, Walked};
use crate::watch::{Touched, Watch};

/// Up to this much is read in the pause itself: doing it before would cost more than it saves.
const READ_IN_PAUSE: u64 = 8 << 20;
/// The same, in files.
const FILES_IN_PAUSE: u64 = 1000;
/// Larger uppers are watched, so that the pause need not look at every name again.
const WATCHED_NAMES: u64 = 4000;

/// Saves a container as an image.
///
/// # Errors
/// [`SaveError`]: nothing was saved and no name has moved.
pub fn commit(
    store: &Store,
    request: &Request,
    run_dir: &Path,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Report, SaveError> {
    let start = Instant::now();
    pause::recover(run_dir)?;
    let job = Job::new(store, request, progress, cancel)?;
    let mut chain = job.chain()?;
    // what the chain builds on must not be collected while it is used
    let pin = chain.manifest.and_then(|manifest| store.pin(&manifest).ok());
    if chain.manifest.is_some() && pin.is_none() {
        chain.lose(Lost::Gone);
    }
    if request.verify
        && let Some(digest) = chain.damaged(store)
    {
        chain.lose(Lost::Damaged(digest));
    }
    let mut saving = Saving::new(&job, &chain, start);
    let saved = saving.save(run_dir);
    let whole;
    match saved {
        Ok(()) => {}
        // what lies in the upper is right whatever became of an earlier layer
        Err(error) if error.is_of_earlier_layers() => {
            drop(saving);
            let Some(digest) = chain.damaged(store) else { return Err(error) };
            chain.lose(Lost::Damaged(digest));
            whole = chain;
            saving = Saving::new(&job, &whole, start);
            saving.save(run_dir)?;
        }
        Err(error) => return Err(error),
    }
    let report = image::publish(saving)?;
    drop(pin);
    Ok(report)
}

/// Says what a save would do, without a pause and without writing anything.
///
/// # Errors
/// As [`commit`].
pub fn dry_run(
    store: &Store,
    request: &Request,
    _run_dir: &Path,
    progress: &dyn Progress,
    cancel: &AtomicBool,
) -> Result<Report, SaveError> {
    let start = Instant::now();
    let job = Job::new(store, request, progress, cancel)?;
    let chain = job.chain()?;
    let mut saving = Saving::new(&job, &chain, start);
    let walked = saving.walk()?;
    let (plan, decided, _, mut reading) = saving.plan(walked, Phase::Final, None)?;
    let findings = std::mem::take(&mut reading.findings);
    drop(reading);
    saving.decided(decided, findings, plan.totals());
    Ok(saving.report())
}

/// Tells what is different from the base, in path order.
///
/// # Errors
/// As [`commit`], and what `each` returns.
pub fn diff(
    store: &Store,
    request: &Request,
    each: &mut dyn FnMut(DiffLine) -> std::io::Result<()>,
    cancel: &AtomicBool,
) -> Result<(), SaveError> {
    use layer::entry::Kind;
    use layer::plan::Was;
    let job = Job::new(store, request, &crate::request::Silent, cancel)?;
    let chain = job.chain()?;
    let mut walked = Saving::new(&job, &chain, Instant::now()).walk()?;
    let mut reading = job.reading(Phase::Final, None);
    let (mut plan, _) = job.plan(&mut walked, &[], 0, &HashSet::new(), &mut reading)?;
    let mut lines = Vec::new();
    plan.each(|step| {
        let what = match (&step.entry.kind, step.was) {
            (Kind::Opaque, _) | (_, Was::Parent) => return Ok(()),
            (Kind::Whiteout, _) => DiffKind::Deleted,
            (_, Was::Absent) => DiffKind::Added,
            (_, Was::Present) => DiffKind::Changed,
        };
        let size = match step.entry.kind {
            Kind::File { size } => Some(size),
            _ => None,
        };
        lines.push(DiffLine { what, path: step.entry.path, size });
        Ok::<(), std::io::Error>(())
    })?;
    lines.sort_by(|a, b| layer::entry::path_order(&a.path, &b.path));
    for line in lines {
        each(line)?;
    }
    Ok(())
}

/// What a save has so far.
pub(crate) struct Saving<'a> {
    pub(crate) job: &'a Job<'a>,
    pub(crate) chain: &'a Chain,
    pub(crate) start: Instant,
    /// So many layers of the chain stay below what is made.
    pub(crate) stay: usize,
    /// Layers that this save made, bottom first.
    pub(crate) layers: Vec<NewLayer>,
    pub(crate) moments: Moments,
    pub(crate) totals: Totals,
    pub(crate) decided: Decided,
    pub(crate) findings: Findings,
    pub(crate) warnings: Vec<String>,
    /// What clean reads found, by pass.
    pub(crate) knowledge: Vec<Knowledge>,
    pub(crate) walked: Option<Walked>,
    /// Known files that are no longer under the path they had, and what they hash to.
    elsewhere: Elsewhere,
    moved: HashSet<ContentHash>,
}

/// A layer that is being made.
struct Making {
    composer: Composer,
    ingest: Ingest,
}

impl<'a> Saving<'a> {
    fn new(job: &'a Job<'a>, chain: &'a Chain, start: Instant) -> Saving<'a> {
        Saving {
            job,
            chain,
            start,
            stay: 0,
            layers: Vec::new(),
            moments: Moments::default(),
            totals: Totals::default(),
            decided: Decided::default(),
            findings: Findings::default(),
            warnings: job.warnings.clone(),
            knowledge: Vec::new(),
            walked: None,
            elsewhere: Elsewhere::new(),
            moved: HashSet::new(),
        }
    }

    /// The layers that plans refer to: those of the chain unless all is packed anew.
    pub(crate) fn tables(&self) -> Vec<&'a Table> {
        match self.job.request.shape {
            Shape::Squash => Vec::new(),
            _ => self.chain.tiers.iter().map(|tier| &tier.table).collect(),
        }
    }

    fn sealed(&self) -> Vec<Sealed> {
        match self.job.request.shape {
            Shape::Squash => Vec::new(),
            _ => self.chain.tiers.iter().map(|tier| tier.sealed.clone()).collect(),
        }
    }

    /// The first walk, with what earlier saves know; decides which layers stay.
    fn walk(&mut self) -> Result<Walked, SaveError> {
        self.job.progress.stage("scan", None);
        let known = match &self.chain.knowledge {
            Some(knowledge) if !self.job.request.verify => Some(knowledge.cursor()?),
            _ => None,
        };
        let mut walked = self.job.walk(known, Trust::EarlierSave, None, None)?;
        if let Some(against) = self.job.against() {
            let knowledge = compare(self.job, &mut walked, against, self.threads())?;
            walked = walked.with_knowledge(&mut knowledge.cursor()?, &self.job.spill)?;
            self.knowledge.push(knowledge);
        }
        if let Some(knowledge) = self.chain.knowledge.as_ref().filter(|_| walked.totals.unknown_files > 0) {
            self.elsewhere = walked.elsewhere(knowledge)?;
            self.moved = self.elsewhere.values().map(|known| known.hash).collect();
            walked = self.recognise(walked)?;
        }
        self.warnings.extend(self.chain.lost.map(|lost| lost.to_string()));
        self.stay = match self.job.request.shape {
            Shape::Tiered if self.job.request.purge => self.chain.clean(),
            Shape::Tiered => self.chain.tiers.len(),
            Shape::Cumulative | Shape::Squash => 0,
        };
        Ok(walked)
    }

    /// Plans the layer, and decides with its size which layers stay below it: the plan is made for all of
    /// them first, and again when some are small enough to be merged into it.
    fn plan<'r>(
        &mut self,
        mut walked: Walked,
        phase: Phase,
        captures: Option<&'r Captures>,
    ) -> Result<(Plan, Decided, Walked, Reading<'r>), SaveError>
    where
        'a: 'r,
    {
        let job = self.job;
        let mut reading = job.reading(phase, captures);
        let (plan, decided) = job.plan(&mut walked, &self.tables(), self.stay, &self.moved, &mut reading)?;
        let stay = match job.request.shape {
            Shape::Tiered => self.stay.min(self.chain.stay(plan.totals().to_read, MAX_TIERS - 2)),
            Shape::Cumulative | Shape::Squash => 0,
        };
        if stay == self.stay {
            return Ok((plan, decided, walked, reading));
        }
        self.stay = stay;
        self.learn(&mut reading)?;
        drop(reading);
        if let Some(knowledge) = self.knowledge.last() {
            walked = walked.with_knowledge(&mut knowledge.cursor()?, &job.spill)?;
        }
        let mut reading = job.reading(phase, captures);
        let (plan, decided) = job.plan(&mut walked, &self.tables(), self.stay, &self.moved, &mut reading)?;
        Ok((plan, decided, walked, reading))
    }

    /// Recognises files that were renamed since an earlier save. A save that verifies believes nothing.
    fn recognise(&self, mut walked: Walked) -> Result<Walked, SaveError> {
        if self.elsewhere.is_empty() || self.job.request.verify {
            return Ok(walked);
        }
        Ok(walked.with_moved(&self.elsewhere, &self.job.spill)?)
    }

    fn save(&mut self, run_dir: &Path) -> Result<(), SaveError> {
        let walked = self.walk()?;
        let target = match (&self.job.source.process, self.job.request.pause) {
            (Some(process), true) => self.target(process.handle.pid()),
            _ => None,
        };
        let Some(target) = target else {
            return self.finish_with(walked, None);
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

    fn target(&mut self, pid: i32) -> Option<PauseTarget> {
        let pid = rustix::process::Pid::from_raw(pid)?;
        match PauseTarget::of(pid) {
            Ok(target) => Some(target),
            Err(error) => {
                self.cannot_pause(&error);
                None
            }
        }
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
                return self.finish_with(before, None);
            }
        };
        let known = match &self.chain.knowledge {
            Some(knowledge) if !self.job.request.verify => Some(knowledge.cursor()?),
            _ => None,
        };
        let mut walked = self.job.walk(known, Trust::EarlierSave, None, Some(&mut captures))?;
        let held = self.thaw(pause);
        walked = self.recognise(walked)?;
        self.with_grafts(&mut walked, &mut before)?;
        self.finish_with(walked, held.then_some(&captures))
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
            let known = match &self.chain.knowledge {
                Some(knowledge) if !self.job.request.verify => Some(knowledge.cursor()?),
                _ => None,
            };
            let walked = self.job.walk(known, Trust::EarlierSave, Some((watch, &mut directories)), None)?;
            before = self.recognise(walked)?;
        }
        let job = self.job;
        let (mut plan, first, mut before, mut reading) = self.plan(before, Phase::Running, None)?;
        job.progress.stage("pack", Some(plan.totals().to_read));
        let sealed = self.sealed();
        let mut making = self.begin(&mut plan, &sealed)?;
        making.composer.run(&mut plan, &sealed, &mut reading, &mut |_| Ok(false))?;
        let deferred = std::mem::take(&mut reading.findings.deferred);
        let learned = std::mem::replace(&mut reading.learned, crate::knowledge::Learned::new(&job.spill));
        drop(reading);
        let mut learned = learned;
        before.teach(&mut learned)?;
        let knowledge = learned.write(job.spill.file()?)?;

        let mut captures = job.captures()?;
        for path in &deferred {
            if let Ok(file) = layer::scan::open_file(job.upper(), path) {
                let size = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
                captures.prepare(std::os::fd::AsFd::as_fd(&file), size);
            }
        }
        if let Some(watch) = &mut watch {
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
            Some(watch) if pause.is_some() && !directories.is_empty() => watch.drain(),
            _ => Touched::All,
        };
        let paused = pause.is_some();
        let (mut walked, merged) = match touched {
            Touched::Names(names) => {
                let mut touched = touched_paths(&names, &directories, &deferred);
                // an event names the path that was used; the other names of the inode tell nothing
                touched.extend(before.linked_paths()?);
                let (walked, replaced) =
                    job.look_again(&touched, &directories, &mut captures, Some(knowledge.cursor()?))?;
                (walked, Some((touched, replaced)))
            }
            Touched::All => {
                let capturing = paused.then_some(&mut captures);
                (job.walk(Some(knowledge.cursor()?), Trust::ThisSave, None, capturing)?, None)
            }
        };
        let held = pause.map(|pause| self.thaw(pause));
        let mut informed = before.with_knowledge(&mut knowledge.cursor()?, &job.spill)?;
        if let Some((touched, replaced)) = merged {
            let is_replaced = |path: &[u8]| {
                touched.contains(path)
                    || replaced.iter().any(|root| path == root || layer::entry::is_below(path, root))
            };
            walked = Walked::merge(&mut informed, &mut walked, &job.spill, &is_replaced)?;
        }
        self.with_grafts(&mut walked, &mut informed)?;
        self.knowledge.push(knowledge);
        self.decided = first;
        self.finish_over(walked, (held == Some(true)).then_some(&captures), making, &plan, &sealed)
    }

    fn watch(&self, walked: &Walked) -> Option<Watch> {
        if walked.totals.names <= WATCHED_NAMES {
            return None;
        }
        let scratch = std::fs::create_dir_all(self.job.store.root().join("state")).and_then(|()| {
            let dir = std::fs::File::open(self.job.store.root().join("state"))?;
            Ok(dir)
        });
        Watch::start(self.job.upper(), std::os::fd::AsFd::as_fd(&scratch.ok()?)).ok()
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

    /// The first time, the content is fixed.
    fn seal(&mut self) {
        if self.moments.sealed.is_none() {
            self.moments.sealed = Some(self.start.elapsed());
            self.job.progress.sealed(&self.moments);
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

    /// Plans and packs in one pass.
    fn finish_with(&mut self, walked: Walked, captures: Option<&Captures>) -> Result<(), SaveError> {
        let job = self.job;
        let (mut plan, decided, walked, mut reading) = self.plan(walked, Phase::Final, captures)?;
        if !plan.is_empty() {
            job.progress.stage("pack", Some(plan.totals().to_read));
            let sealed = self.sealed();
            let mut making = self.begin(&mut plan, &sealed)?;
            making.composer.run(&mut plan, &sealed, &mut reading, &mut |_| Ok(false))?;
            self.end(making)?;
        }
        self.learn(&mut reading)?;
        let findings = std::mem::take(&mut reading.findings);
        drop(reading);
        self.decided(decided, findings, plan.totals());
        self.walked = Some(walked);
        self.seal();
        Ok(())
    }

    /// Plans and packs what a layer in the making still lacks.
    fn finish_over(
        &mut self,
        mut walked: Walked,
        captures: Option<&Captures>,
        mut making: Making,
        first: &Plan,
        sealed: &[Sealed],
    ) -> Result<(), SaveError> {
        let job = self.job;
        let (path, file) = self.chain.scratch("first")?;
        let table = making.composer.table(file, &job.spill)?;
        std::fs::remove_file(path)?;
        let mut tables = self.tables();
        tables.truncate(self.stay);
        tables.push(&table);
        let mut reading = job.reading(Phase::Final, captures);
        let (mut plan, decided) = job.plan(&mut walked, &tables, tables.len(), &self.moved, &mut reading)?;
        let mut totals = first.totals();
        if Addition::allows(&table, &mut plan)? {
            let mut present = Addition::to(&table);
            making.composer.run(&mut plan, sealed, &mut reading, &mut |step| Ok(present.has(step)?))?;
            totals = sum(totals, plan.totals());
            self.end(making)?;
        } else if self.job.request.shape == Shape::Tiered {
            // what changed meanwhile lies in a small layer over what was packed
            self.end(making)?;
            let mut sealed = sealed[..self.stay].to_vec();
            sealed.extend(self.layers.last().map(|layer| layer.sealed.clone()));
            let mut over = self.begin(&mut plan, &sealed)?;
            over.composer.run(&mut plan, &sealed, &mut reading, &mut |_| Ok(false))?;
            totals = sum(totals, plan.totals());
            self.end(over)?;
        } else {
            // one layer is wanted: what was packed is taken over
            self.end(making)?;
            let first = self.layers.pop();
            let sealed: Vec<Sealed> = first.iter().map(|layer| layer.sealed.clone()).collect();
            let tables: Vec<&Table> = vec![&table];
            (plan, _) = job.plan(&mut walked, &tables, 0, &self.moved, &mut reading)?;
            let mut whole = self.begin(&mut plan, &sealed)?;
            whole.composer.run(&mut plan, &sealed, &mut reading, &mut |_| Ok(false))?;
            totals = plan.totals();
            self.end(whole)?;
        }
        self.learn(&mut reading)?;
        let findings = std::mem::take(&mut reading.findings);
        drop(reading);
        self.decided(decided, findings, totals);
        self.walked = Some(walked);
        self.seal();
        Ok(())
    }

    fn learn(&mut self, reading: &mut Reading<'_>) -> Result<(), SaveError> {
        let empty = crate::knowledge::Learned::new(&self.job.spill);
        let learned = std::mem::replace(&mut reading.learned, empty);
        self.knowledge.push(learned.write(self.job.spill.file()?)?);
        Ok(())
    }

    fn threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.job.request.threads.unwrap_or_else(processors)
    }

    fn begin(&self, plan: &mut Plan, sealed: &[Sealed]) -> Result<Making, SaveError> {
        let ingest = self.job.store.ingest()?;
        let compression = image::compression(self.job, plan, sealed)?;
        let options = PackOptions { compression, threads: self.threads() };
        let blob = ingest.file().try_clone()?;
        let composer = Composer::begin::<SaveError>(blob, &options, sealed, plan, &self.job.spill)?;
        Ok(Making { composer, ingest })
    }

    /// Finishes a layer; one without members is none.
    fn end(&mut self, making: Making) -> Result<(), SaveError> {
        let Making { mut composer, ingest } = making;
        if composer.is_empty() {
            return Ok(());
        }
        let name = format!("table{}", self.layers.len());
        let (path, file) = self.chain.scratch(&name)?;
        composer.table(file, &self.job.spill)?;
        let packed = composer.finish()?;
        self.layers.push(NewLayer::new(packed, ingest, path)?);
        Ok(())
    }

    pub(crate) fn decided(&mut self, decided: Decided, findings: Findings, totals: Totals) {
        let mut left_out = decided.left_out.clone();
        left_out.extend(findings.unrepresentable.iter().map(|path| (path.clone(), LeftOut::Unrepresentable)));
        // a pass before the pause has buried what it replaced; what it left out is left out again
        let mut buried = std::mem::take(&mut self.decided.buried);
        buried.resize(buried.len().max(decided.buried.len()), (0, 0));
        for (sum, (files, bytes)) in buried.iter_mut().zip(&decided.buried) {
            *sum = (sum.0 + files, sum.1 + bytes);
        }
        self.decided = Decided { left_out, buried, ..decided };
        self.findings = findings;
        self.totals = totals;
    }

    pub(crate) fn report(&self) -> Report {
        let buried = self.chain.tiers[..self.stay].iter().map(|tier| tier.record.buried);
        let newly = self.decided.buried.iter().copied();
        let buried = buried.chain(newly).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let kept: u64 = self.chain.tiers[..self.stay].iter().map(|tier| tier.record.size).sum();
        let taken: u64 = self.layers.iter().map(|layer| layer.taken_bytes).sum();
        Report {
            names: Vec::new(),
            digest: None,
            id: None,
            layers: Vec::new(),
            changed: self.totals.changed,
            removed: self.totals.removed,
            changed_bytes: self.totals.bytes,
            reused_bytes: kept + taken,
            moments: self.moments,
            left_out: self.decided.left_out.clone(),
            sockets: self.decided.sockets,
            torn: self.findings.torn.clone(),
            grew: self.findings.grew.clone(),
            mounts: self.job.mounts.clone(),
            buried,
            warnings: self.warnings.clone(),
        }
    }
}

fn sum(a: Totals, b: Totals) -> Totals {
    Totals {
        changed: a.changed + b.changed,
        removed: a.removed + b.removed,
        bytes: a.bytes + b.bytes,
        to_read: a.to_read + b.to_read,
        held: a.held + b.held,
        members: a.members + b.members,
    }
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

/// A path that is removed unless it is renamed into place.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
