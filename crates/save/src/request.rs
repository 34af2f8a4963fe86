//! What is asked of a save, and what it answers.

use std::path::PathBuf;
use std::time::Duration;

use layer::judge::TimePolicy;
use layer::plan::LeftOut;
use layer::xattr::XattrPolicy;
use registry::config::Change;
use registry::media::Format;
use registry::{Digest, Reference};

use crate::source;

/// A save.
#[derive(Debug)]
pub struct Request {
    /// Where the change is.
    pub source: source::Spec,
    /// What the user knows better than we do about it.
    pub find: source::FindOptions,
    /// The image that the lowers are, as the user named it; else the store is asked what it unpacked there.
    pub base: Option<String>,
    /// What the new image is called.
    pub names: Vec<Reference>,
    /// Whose media types it carries.
    pub format: Format,
    /// How new layers are compressed.
    pub compression: Compression,
    /// Compressing threads; `None`: as many as processors.
    pub threads: Option<usize>,
    /// Whether the container stands still for what cannot be read while it runs.
    pub pause: bool,
    /// How own layers lie over the base.
    pub shape: Shape,
    /// Rewrites own layers that still hold what was deleted or replaced since.
    pub purge: bool,
    /// Reads everything again, whatever is known to be unchanged.
    pub verify: bool,
    /// Which paths belong to it.
    pub selection: Selection,
    /// Mounts over the root that are taken in, by their path in the container.
    pub include_mounts: Vec<PathBuf>,
    /// Which extended attributes.
    pub xattrs: XattrPolicy,
    /// How times are written.
    pub times: TimePolicy,
    /// Fails where an image cannot hold a path, or a file is torn, instead of leaving it out.
    pub strict: bool,
    /// What the image says about itself.
    pub words: Words,
}

/// How new layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// One gzip member; levels 1 to 9.
    Gzip(u32),
    /// zstd; levels 1 to 19.
    Zstd(i32),
    /// A plain tar where compressing would not pay, else zstd of this level.
    Auto(i32),
}

/// How own layers lie over the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Shape {
    /// A few layers of growing size; a save writes a small one.
    #[default]
    Tiered,
    /// Exactly one layer, as docker has it, made of the packed frames of the one before.
    Cumulative,
    /// Exactly one layer, packed from nothing.
    Squash,
}

/// Which paths belong to a save. Patterns are globs from the root; `*` stays within a component, `**` does
/// not; a pattern that matches a directory covers what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These do not.
    pub exclude: Vec<String>,
    /// Only these do, when there are any.
    pub only: Vec<String>,
}

/// What the image says about itself.
#[derive(Debug, Default)]
pub struct Words {
    /// `--author`.
    pub author: Option<String>,
    /// `--message`.
    pub message: Option<String>,
    /// `--change`.
    pub changes: Vec<Change>,
    /// What to write as the command of the history entry; the save supplies one when there is none.
    pub created_by: Option<String>,
    /// Takes environment and arguments of the running process; they may hold secrets.
    pub with_env: Option<WithEnv>,
    /// Seconds since 1970 for `created`; `None`: now. SOURCE_DATE_EPOCH sets it.
    pub created: Option<i64>,
}

/// What is taken from the running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithEnv {
    /// Its arguments and all variables.
    All,
    /// These variables.
    Keys(Vec<String>),
}

/// What a save did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The names that point to it.
    pub names: Vec<String>,
    /// Digest of the manifest; `None` after a dry run.
    pub digest: Option<Digest>,
    /// Digest of the configuration: docker's image id.
    pub id: Option<Digest>,
    /// All layers, bottom first.
    pub layers: Vec<LayerReport>,
    /// Paths that are new or changed.
    pub changed: u64,
    /// Paths that are removed.
    pub removed: u64,
    /// Bytes of new or changed files.
    pub changed_bytes: u64,
    /// Packed bytes taken over from earlier own layers or left where they are.
    pub reused_bytes: u64,
    /// Of these, what was read and hashed again because something before it in its layer changed.
    pub rehashed_bytes: u64,
    /// When what was true.
    pub moments: Moments,
    /// Paths that the image lacks, and why, without sockets.
    pub left_out: Vec<(Vec<u8>, LeftOut)>,
    /// How many sockets were skipped.
    pub sockets: u64,
    /// Files that changed while they were read, every time that was tried.
    pub torn: Vec<Vec<u8>>,
    /// Files that grew meanwhile and were saved as they were at one moment.
    pub grew: Vec<Vec<u8>>,
    /// Mounts over the root that are not in the image.
    pub mounts: Vec<MountReport>,
    /// What own layers still hold although it was deleted or replaced: files, bytes.
    pub buried: (u64, u64),
    /// What else the user should know.
    pub warnings: Vec<String>,
}

/// One layer of the new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerReport {
    /// Of the blob.
    pub digest: Digest,
    /// Of the tar.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Whether this save wrote it.
    pub new: bool,
}

/// A mount that was not saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountReport {
    /// Path in the container, without a leading slash.
    pub path: Vec<u8>,
    /// Type of the file system.
    pub fs_type: String,
}

/// The moments of a save, from its start; `pause` is a length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moments {
    /// How long the machine stood still; `None` when it was not paused.
    pub pause: Option<Duration>,
    /// The last byte was captured.
    pub sealed: Option<Duration>,
    /// The image survives a power cut.
    pub durable: Option<Duration>,
    /// It is in a registry.
    pub published: Option<Duration>,
}

impl Report {
    /// Whether something named was left out or is torn: exit status 7.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.left_out.is_empty() || !self.torn.is_empty()
    }
}

/// One line of a difference, in docker's letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffLine {
    /// What happened to the path.
    pub what: DiffKind,
    /// Without a leading slash.
    pub path: Vec<u8>,
    /// Bytes of a new or changed file.
    pub size: Option<u64>,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiffKind {
    /// `A`.
    Added,
    /// `C`.
    Changed,
    /// `D`.
    Deleted,
}

/// Told while a save runs. Calls are cheap and many.
pub trait Progress: Sync {
    /// A stage began: `scan`, `pack`, `pause`, `store`; `total` bytes where that is known.
    fn stage(&self, name: &'static str, total: Option<u64>);
    /// Bytes done in the stage since it was last told.
    fn advance(&self, bytes: u64);
    /// The last byte was captured: nothing that happens from here on is in the image.
    fn sealed(&self, moments: &Moments) {
        let _ = moments;
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &'static str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
}
