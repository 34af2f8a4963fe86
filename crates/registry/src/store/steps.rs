//! The points at which an operation of the store can be cut off; tests stop at each of them.

use std::fmt::Debug;

/// Something on the disk has just changed, or become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A directory or file of the layout exists.
    LayoutCreated,
    /// A document was written to its ingest.
    DocumentWritten,
    /// All new bytes are durable, under names in `ingest/`.
    BytesDurable,
    /// A blob has its final name.
    BlobPlaced,
    /// The new index is written beside the old one.
    IndexWritten,
    /// The blobs' names and the new index are durable.
    NamesDurable,
    /// The new index has replaced the old one.
    IndexReplaced,
    /// The new index is the one that a power cut leaves.
    IndexDurable,
    /// An unreferenced blob is gone.
    BlobRemoved,
    /// The ingest of a dead process is gone.
    IngestRemoved,
}

/// The operation is to end here, leaving all as it is.
#[derive(Clone, Copy, Debug)]
pub struct Stop;

/// Is told of every step.
pub trait Steps: Debug + Send + Sync {
    /// `step` has been reached.
    ///
    /// # Errors
    ///
    /// [`Stop`] makes the operation return [`crate::Error::Stopped`].
    fn reached(&self, step: Step) -> Result<(), Stop>;
}

/// What everybody but a test uses.
#[derive(Debug)]
pub(super) struct GoOn;

impl Steps for GoOn {
    fn reached(&self, _: Step) -> Result<(), Stop> {
        Ok(())
    }
}
