//! What is different from the base, for people.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use layer::entry::Kind;
use layer::plan::Was;
use registry::Store;

use crate::error::SaveError;
use crate::job::Job;
use crate::read::Phase;
use crate::request::{DiffKind, DiffLine, Request, Silent};
use crate::saving::Saving;

/// Tells what is different from the base, in path order.
///
/// # Errors
/// As [`crate::commit()`], and what `each` returns.
pub fn diff(
    store: &Store,
    request: &Request,
    each: &mut dyn FnMut(DiffLine) -> std::io::Result<()>,
    cancel: &AtomicBool,
) -> Result<(), SaveError> {
    let job = Job::new(store, request, &Silent, cancel)?;
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
            (_, Was::Present | Was::Replaced) => DiffKind::Changed,
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
