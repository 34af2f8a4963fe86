//! The state of a save: what it walked, planned, packed and learned so far.
//!
//! [`crate::standing`] decides when the container stands still, [`crate::passes`] packs what a walk saw; both
//! work on a [`Saving`], and [`crate::image`] publishes what it has at the end.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use layer::frames::Sealed;
use layer::plan::{LeftOut, Plan, Totals};
use layer::table::{ContentHash, Table};

use crate::chain::{self, Chain, MAX_TIERS};
use crate::compare::compare;
use crate::error::SaveError;
use crate::held::Captures;
use crate::image::{self, NewLayer};
use crate::job::{Decided, Job};
use crate::knowledge::{Cursor, Knowledge, Learned};
use crate::read::{Findings, Phase, Reading};
use crate::request::{Moments, Report, Shape};
use crate::walk::{Elsewhere, Trust, Walked};

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
    pub(crate) elsewhere: Elsewhere,
    pub(crate) moved: HashSet<ContentHash>,
    /// Packed bytes that were taken over and had to be hashed again.
    pub(crate) rehashed: u64,
    /// What the layers of this save bury in own layers, by layer.
    pub(crate) buried: Vec<(u64, u64)>,
}

impl<'a> Saving<'a> {
    pub(crate) fn new(job: &'a Job<'a>, chain: &'a Chain, start: Instant) -> Saving<'a> {
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
            rehashed: 0,
            buried: Vec::new(),
        }
    }

    /// The layers that plans refer to: those of the chain unless all is packed anew.
    pub(crate) fn tables(&self) -> Vec<&'a Table> {
        match self.job.request.shape {
            Shape::Squash => Vec::new(),
            _ => self.chain.tiers.iter().map(|tier| &tier.table).collect(),
        }
    }

    pub(crate) fn sealed(&self) -> Vec<Sealed> {
        match self.job.request.shape {
            Shape::Squash => Vec::new(),
            _ => self.chain.tiers.iter().map(|tier| tier.sealed.clone()).collect(),
        }
    }

    /// What earlier saves know of files, where that may be believed: the bytes of a known file must be in a
    /// layer that this save builds on, so a save that packs from nothing, or verifies, knows nothing.
    fn earlier(&self) -> Option<&'a Knowledge> {
        let request = self.job.request;
        self.chain.knowledge.as_ref().filter(|_| !request.verify && request.shape != Shape::Squash)
    }

    /// The same, to follow a walk.
    pub(crate) fn known(&self) -> Result<Option<Cursor<'a>>, SaveError> {
        Ok(self.earlier().map(Knowledge::cursor).transpose()?)
    }

    /// The first walk, with what earlier saves know; decides which layers stay.
    pub(crate) fn walk(&mut self) -> Result<Walked, SaveError> {
        self.job.progress.stage("scan", None);
        let mut walked = self.job.walk(self.known()?, Trust::EarlierSave, None, None)?;
        if let Some(against) = self.job.against() {
            let knowledge = compare(self.job, &mut walked, against, self.threads())?;
            walked = walked.with_knowledge(&mut knowledge.cursor()?, &self.job.spill)?;
            self.knowledge.push(knowledge);
        }
        if let Some(knowledge) = self.earlier().filter(|_| walked.totals.unknown_files > 0) {
            self.elsewhere = walked.elsewhere(knowledge)?;
            self.moved = self.elsewhere.values().map(|known| known.hash).collect();
            walked = self.recognise(walked)?;
        }
        self.warnings.extend(self.chain.lost.map(|lost| lost.to_string()));
        if self.chain.has_siblings {
            let said = "this container was saved with other options before: everything is packed again";
            self.warnings.push(said.to_owned());
        }
        self.stay = match self.job.request.shape {
            Shape::Tiered if self.job.request.purge => self.chain.clean(),
            Shape::Tiered => self.chain.tiers.len(),
            Shape::Cumulative | Shape::Squash => 0,
        }
        .min(self.chain.representable(self.job.request.format));
        Ok(walked)
    }

    /// Plans the layer, and decides with its size which layers stay below it: the plan is made for all of
    /// them first, and again when some are small enough to be merged into it.
    pub(crate) fn plan<'r>(
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
            // nothing to put on top of them: merging would be work for a save of nothing
            Shape::Tiered if plan.is_empty() && !job.request.purge => self.stay,
            Shape::Tiered => {
                let buries = |buried: &(u64, u64)| *buried != (0, 0);
                let clean = decided.buried.iter().position(buries).filter(|_| job.request.purge);
                let most = self.stay.min(clean.unwrap_or(usize::MAX));
                most.min(self.chain.stay(plan.totals().to_read, MAX_TIERS - 2))
            }
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

    /// Recognises files that were renamed since an earlier save.
    pub(crate) fn recognise(&self, mut walked: Walked) -> Result<Walked, SaveError> {
        if self.elsewhere.is_empty() {
            return Ok(walked);
        }
        Ok(walked.with_moved(&self.elsewhere, &self.job.spill)?)
    }

    pub(crate) fn learn(&mut self, reading: &mut Reading<'_>) -> Result<(), SaveError> {
        let empty = Learned::new(&self.job.spill);
        let learned = std::mem::replace(&mut reading.learned, empty);
        self.knowledge.push(learned.write(self.job.spill.file()?)?);
        Ok(())
    }

    pub(crate) fn threads(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.job.request.threads.unwrap_or_else(processors)
    }

    /// The first time, the content is fixed.
    pub(crate) fn seal(&mut self) {
        if self.moments.sealed.is_none() {
            self.moments.sealed = Some(self.start.elapsed());
            self.job.progress.sealed(&self.moments);
        }
    }

    pub(crate) fn decided(&mut self, decided: Decided, findings: Findings, totals: Totals) {
        let mut left_out = decided.left_out.clone();
        left_out.extend(findings.unrepresentable.iter().map(|path| (path.clone(), LeftOut::Unrepresentable)));
        self.decided = Decided { left_out, ..decided };
        self.findings = findings;
        self.totals = totals;
    }

    pub(crate) fn report(&self) -> Report {
        let kept_buries = self.chain.tiers[..self.stay].iter().map(|tier| &tier.record.buries[..]);
        let buried = image::total(&chain::buried(kept_buries.chain([&self.buried[..]])));
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
            rehashed_bytes: self.rehashed,
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

/// A path that is removed unless it is renamed into place.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
