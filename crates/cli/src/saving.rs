//! The room `save`, as the commands use it.

use std::io;

use registry::Store;

pub(crate) use layer::judge::TimePolicy;
pub(crate) use layer::plan::LeftOut;
pub(crate) use layer::xattr::XattrPolicy;
pub(crate) use save::request::{
    Compression, DiffKind, DiffLine, Report, Request, Selection, Shape, WithEnv, Words,
};
pub(crate) use save::source::{FindOptions, Spec};

use crate::context::Context;
use crate::failure::Failure;
use crate::progress::Progress;

impl save::request::Progress for Progress {
    fn stage(&self, name: &'static str, total: Option<u64>) {
        Self::stage(self, name, total);
    }

    fn advance(&self, bytes: u64) {
        Self::advance(self, bytes);
    }

    fn sealed(&self, moments: &save::request::Moments) {
        crate::commands::commit::detached::tell(moments);
    }
}

/// Saves; `write` is false for a dry run.
pub(crate) fn commit(
    store: &Store,
    request: &Request,
    write: bool,
    context: &Context,
    progress: &Progress,
) -> Result<Report, Failure> {
    let save = if write { save::commit } else { save::dry_run };
    Ok(save(store, request, context.run_dir(), progress, context.cancel.flag())?)
}

/// Gives each difference to `each`.
pub(crate) fn diff(
    store: &Store,
    request: &Request,
    each: &mut dyn FnMut(DiffLine) -> io::Result<()>,
    context: &Context,
) -> Result<(), Failure> {
    Ok(save::diff(store, request, each, context.cancel.flag())?)
}
