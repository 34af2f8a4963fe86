//! Packs what a walk saw, in as many passes as it takes.
//!
//! A pass plans against the layers below and what is packed already, and packs the difference. The first one
//! of a save without a pause is usually the only one. Another follows after a pause, and whenever a file
//! vanished or was replaced between the walk and its reading: then it is looked for again, because what
//! took its place (nothing, a further name of the same file, a directory) must be in the image.
//!
//! What a pass adds goes into the layer in the making as long as nothing in it has to change. Else that
//! layer is finished, and the change lies in a small layer over it; or, where exactly one layer is wanted, a
//! new one is made of its members.

use std::collections::HashSet;

use layer::compose::{Addition, Composer};
use layer::entry::PathBytes;
use layer::frames::Sealed;
use layer::pack::PackOptions;
use layer::plan::{Plan, Totals};
use layer::table::Table;
use registry::Ingest;

use crate::chain;
use crate::error::SaveError;
use crate::held::Captures;
use crate::image::{self, NewLayer};
use crate::job::Decided;
use crate::read::{Phase, Reading};
use crate::request::Shape;
use crate::saving::{Saving, Scratch};
use crate::walk::{Trust, Walked};

/// How often what vanished is looked for again.
const PASSES: usize = 4;

/// A layer in the making, with what was decided for it.
pub(crate) struct Making {
    composer: Composer,
    ingest: Ingest,
    totals: Totals,
    buries: Vec<(u64, u64)>,
}

impl<'a> Saving<'a> {
    /// Packs what the walk saw, into `making` if there is one, and ends the save's last layer.
    pub(crate) fn finish(
        &mut self,
        mut walked: Walked,
        captures: Option<&Captures>,
        mut making: Option<Making>,
    ) -> Result<(), SaveError> {
        let mut totals = Totals::default();
        for pass in 1..=PASSES {
            let (made, mut decided, seen, mut reading) = match making.take() {
                None => self.first_pass(walked, captures)?,
                Some(making) => self.next_pass(walked, captures, making)?,
            };
            (making, walked) = (made, seen);
            totals = making.as_ref().map_or(totals, |making| making.totals);
            self.learn(&mut reading)?;
            let mut findings = std::mem::take(&mut reading.findings);
            drop(reading);
            let deferred = std::mem::take(&mut findings.deferred);
            let is_last = deferred.is_empty() || pass == PASSES;
            if is_last {
                // never there when it was looked for, and there again afterwards
                findings.torn.extend_from_slice(&deferred);
            }
            findings.join(std::mem::take(&mut self.findings));
            decided.left_out.sort();
            decided.left_out.dedup();
            self.decided(decided, findings, totals);
            if is_last {
                break;
            }
            walked = self.look_for(walked, captures, deferred)?;
        }
        if let Some(making) = making {
            self.end(making)?;
        }
        self.walked = Some(walked);
        self.seal();
        Ok(())
    }

    /// The walk without what vanished. While the container runs everything is looked at again; of a pause
    /// only what was captured counts, and what vanished since was not in it.
    fn look_for(
        &self,
        mut walked: Walked,
        captures: Option<&Captures>,
        vanished: Vec<PathBytes>,
    ) -> Result<Walked, SaveError> {
        if captures.is_some() {
            let vanished: HashSet<PathBytes> = vanished.into_iter().collect();
            return Ok(walked.only(&self.job.spill, &|path| !vanished.contains(path))?);
        }
        let knowledge = walked.knowledge(&self.job.spill)?;
        let mut again = self.job.walk(Some(knowledge.cursor()?), Trust::ThisSave, None, None)?;
        if let Some(learned) = self.knowledge.last() {
            again = again.with_knowledge(&mut learned.cursor()?, &self.job.spill)?;
        }
        Ok(again)
    }

    fn first_pass<'r>(
        &mut self,
        walked: Walked,
        captures: Option<&'r Captures>,
    ) -> Result<Pass<'r>, SaveError>
    where
        'a: 'r,
    {
        let (mut plan, decided, walked, mut reading) = self.plan(walked, Phase::Final, captures)?;
        let mut making = None;
        if !plan.is_empty() {
            self.job.progress.stage("pack", Some(plan.totals().to_read));
            let sealed = self.sealed();
            making = Some(self.make(&mut plan, decided.buried.clone(), &sealed, &mut reading)?);
        }
        Ok((making, decided, walked, reading))
    }

    fn next_pass<'r>(
        &mut self,
        mut walked: Walked,
        captures: Option<&'r Captures>,
        mut making: Making,
    ) -> Result<Pass<'r>, SaveError>
    where
        'a: 'r,
    {
        let job = self.job;
        let (path, file) = self.chain.scratch("making")?;
        let made = making.composer.table(file, &job.spill)?;
        std::fs::remove_file(path)?;
        let earlier = self.layers.iter().map(NewLayer::open_table).collect::<Result<Vec<Table>, _>>()?;
        let mut tables = self.tables();
        tables.truncate(self.stay);
        tables.extend(&earlier);
        let below = tables.len();
        tables.push(&made);
        let mut sealed = self.sealed();
        sealed.truncate(self.stay);
        sealed.extend(self.layers.iter().map(|layer| layer.sealed.clone()));

        let mut reading = job.reading(Phase::Final, captures);
        let (mut plan, decided) = job.plan(&mut walked, &tables, tables.len(), &self.moved, &mut reading)?;
        if Addition::allows(&made, &mut plan)? {
            let mut present = Addition::to(&made);
            making.composer.run(&mut plan, &sealed, &mut reading, &mut |step| Ok(present.has(step)?))?;
            making.totals = sum(making.totals, plan.totals());
            making.buries = chain::buried([&making.buries[..], &decided.buried]);
            return Ok((Some(making), decided, walked, reading));
        }
        if job.request.shape == Shape::Tiered && !job.request.purge {
            // what changed meanwhile lies in a small layer over what was packed
            let totals = making.totals;
            self.end(making)?;
            sealed.extend(self.layers.last().map(|layer| layer.sealed.clone()));
            let mut over = self.make(&mut plan, decided.buried.clone(), &sealed, &mut reading)?;
            over.totals = sum(totals, over.totals);
            return Ok((Some(over), decided, walked, reading));
        }
        // one new layer is wanted, without what is gone: what was packed is taken over
        let before = (self.buried.clone(), self.rehashed);
        self.end(making)?;
        (self.buried, self.rehashed) = before;
        let first = self.layers.pop();
        sealed.extend(first.iter().map(|layer| layer.sealed.clone()));
        let (mut plan, decided) = job.plan(&mut walked, &tables, below, &self.moved, &mut reading)?;
        let whole = self.make(&mut plan, decided.buried.clone(), &sealed, &mut reading)?;
        Ok((Some(whole), decided, walked, reading))
    }

    /// Begins a layer and packs a plan into it.
    pub(crate) fn make(
        &self,
        plan: &mut Plan,
        buries: Vec<(u64, u64)>,
        sealed: &[Sealed],
        reading: &mut Reading<'_>,
    ) -> Result<Making, SaveError> {
        let ingest = self.job.store.ingest()?;
        let compression = image::compression(self.job, plan, sealed)?;
        let options = PackOptions { compression, threads: self.threads() };
        let blob = ingest.file().try_clone()?;
        let mut composer = Composer::begin::<SaveError>(blob, &options, sealed, plan, &self.job.spill)?;
        composer.run(plan, sealed, reading, &mut |_| Ok(false))?;
        Ok(Making { composer, ingest, totals: plan.totals(), buries })
    }

    /// Finishes a layer; one without members is none.
    fn end(&mut self, making: Making) -> Result<(), SaveError> {
        let Making { mut composer, ingest, buries, .. } = making;
        if composer.is_empty() {
            return Ok(());
        }
        let name = format!("table{}", self.layers.len());
        let (path, file) = self.chain.scratch(&name)?;
        let path = Scratch(path);
        composer.table(file, &self.job.spill)?;
        let resumed = composer.resumed_bytes();
        let packed = composer.finish()?;
        self.rehashed += packed.taken_bytes.saturating_sub(resumed);
        self.buried = chain::buried([&self.buried[..], &buries]);
        self.layers.push(NewLayer::new(packed, ingest, path, buries)?);
        Ok(())
    }
}

/// The layer in the making, what was decided beside it, what was looked at, and what the reading found.
type Pass<'r> = (Option<Making>, Decided, Walked, Reading<'r>);

fn sum(a: Totals, b: Totals) -> Totals {
    Totals {
        changed: a.changed.saturating_add(b.changed),
        removed: a.removed.saturating_add(b.removed),
        bytes: a.bytes.saturating_add(b.bytes),
        to_read: a.to_read.saturating_add(b.to_read),
        held: a.held.saturating_add(b.held),
        members: a.members.saturating_add(b.members),
    }
}
