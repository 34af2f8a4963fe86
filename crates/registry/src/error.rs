//! What can go wrong with stored images, and which few kinds of it a caller acts on.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::archive::ArchiveError;
use crate::config::ChangeError;
use crate::digest::Digest;
use crate::reference::NameError;
use crate::store::Step;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller would do differently; see [`Error::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The named object does not exist.
    NotFound,
    /// The name is ambiguous, or the object is used by something else.
    Conflict,
    /// The caller's input cannot be used as it is.
    Invalid,
    /// Stored or received bytes are not what their digest promises.
    Corrupt,
    /// The disk (or its quota) is full.
    NoSpace,
    /// The store lies on a read-only file system.
    ReadOnly,
    /// The operating system refused access.
    Denied,
    /// Anything else; the source says what.
    Failed,
}

/// How a blob differs from what its digest or descriptor promises.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes hash to something else.
    #[error("its bytes have the digest {actual}")]
    Digest {
        /// What they really hash to.
        actual: Digest,
    },
    /// The length is wrong.
    #[error("it is {actual} bytes long instead of {expected}")]
    Size {
        /// What the descriptor says, in bytes.
        expected: u64,
        /// What is there, in bytes.
        actual: u64,
    },
}

/// Why an operation on images did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No image of this name, digest or id.
    #[error("image {name}: not in the store")]
    NoImage {
        /// As the caller wrote it.
        name: String,
    },
    /// A digest prefix that more than one image has.
    #[error("image {prefix}: {count} images have an id that begins so")]
    Ambiguous {
        /// As the caller wrote it.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// An image with several names was to be removed by its id.
    #[error("image {name}: {count} names point to it")]
    InUse {
        /// As the caller wrote it.
        name: String,
        /// How many names it has.
        count: usize,
    },
    /// A blob that an image needs is absent.
    #[error("blob {digest}: not in the store")]
    NoBlob {
        /// Which one.
        digest: Digest,
    },
    /// A blob's bytes are wrong.
    #[error("blob {digest} is damaged")]
    Damaged {
        /// Which one.
        digest: Digest,
        /// In what way.
        #[source]
        damage: Damage,
    },
    /// The text is no image name.
    #[error("{name:?} is not an image name")]
    Name {
        /// As the caller wrote it.
        name: String,
        /// Which rule it breaks.
        #[source]
        cause: NameError,
    },
    /// A JSON document cannot be understood.
    #[error("{document} is not valid")]
    Document {
        /// What it is and where, e.g. `manifest sha256:…`.
        document: String,
        /// Where in it.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON document is larger than any honest one.
    #[error("{document}: {size} bytes, more than the {limit} that are read of such a document")]
    DocumentSize {
        /// What it is and where.
        document: String,
        /// In bytes.
        size: u64,
        /// In bytes.
        limit: u64,
    },
    /// Manifest and configuration contradict each other.
    #[error("image {digest}: {layers} layers, but its configuration lists {diff_ids}")]
    LayerCount {
        /// The manifest.
        digest: Digest,
        /// Layers in the manifest.
        layers: usize,
        /// Digests in `rootfs.diff_ids`.
        diff_ids: usize,
    },
    /// A media type that is no part of an image we know.
    #[error("{digest}: media type {media_type:?} is not one of an image")]
    MediaType {
        /// The blob that has it.
        digest: Digest,
        /// What it says.
        media_type: String,
    },
    /// Docker's schema 2 has no media type for this compression.
    #[error("docker's image format cannot hold {0} layers")]
    DockerFormat(&'static str),
    /// An index without a manifest for this machine.
    #[error("image {digest}: no manifest for {platform}")]
    Platform {
        /// The index.
        digest: Digest,
        /// What was looked for.
        platform: String,
    },
    /// The directory is a layout that we do not know.
    #[error("{}: image layout version {version:?} is not supported", path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// What its `oci-layout` says.
        version: String,
    },
    /// A `--change` instruction cannot be applied.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// An archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A system call failed.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// What was attempted, e.g. `open`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A test stopped the operation here, as a crash would.
    #[error("stopped at step {0:?}")]
    Stopped(Step),
}

impl Error {
    /// What kind of failure this is: each kind asks for another reaction.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoImage { .. } | Self::NoBlob { .. } | Self::Platform { .. } => Kind::NotFound,
            Self::Ambiguous { .. } | Self::InUse { .. } => Kind::Conflict,
            Self::Damaged { .. } => Kind::Corrupt,
            Self::Name { .. }
            | Self::Document { .. }
            | Self::DocumentSize { .. }
            | Self::LayerCount { .. }
            | Self::MediaType { .. }
            | Self::DockerFormat(_)
            | Self::Layout { .. }
            | Self::Change(_) => Kind::Invalid,
            Self::Archive(error) => error.kind(),
            Self::Io { source, .. } => kind_of(source),
            Self::Stopped(_) => Kind::Failed,
        }
    }

    /// The next step for a person, as a sentence or a command; `None` when there is nothing to advise.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoImage { .. } => "headstart images lists what is there".into(),
            Self::Ambiguous { .. } => "write more of the id, or a name".into(),
            Self::InUse { .. } => "remove it by its names, or with --force".into(),
            Self::NoBlob { .. } | Self::Damaged { .. } => {
                "load or save the image again: the blob is then replaced by a whole one".into()
            }
            Self::DockerFormat(_) => "use --compression gzip, or --format oci".into(),
            _ => match self.kind() {
                Kind::NoSpace => "headstart system df shows what can be freed, system prune frees it".into(),
                Kind::ReadOnly | Kind::Denied => "choose another place with --root or HEADSTART_ROOT".into(),
                _ => return None,
            },
        })
    }

    /// Wraps a failed call on `path`; to be used with `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}

/// The kind of a failed system call.
pub(crate) fn kind_of(error: &io::Error) -> Kind {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Kind::NoSpace,
        Some(Errno::ROFS) => Kind::ReadOnly,
        Some(Errno::ACCESS | Errno::PERM) => Kind::Denied,
        _ => Kind::Failed,
    }
}
