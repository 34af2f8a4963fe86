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

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use registry::Store;

use crate::chain::Lost;
use crate::error::SaveError;
use crate::image;
use crate::job::Job;
use crate::pause;
use crate::read::Phase;
use crate::request::{Progress, Report, Request};
use crate::saving::Saving;

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
    save(store, request, run_dir, progress, cancel).map_err(|error| error.located(store))
}

fn save(
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
    saving.buried = decided.buried.clone();
    saving.decided(decided, findings, plan.totals());
    Ok(saving.report())
}
