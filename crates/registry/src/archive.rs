//! Images in a single file: written as an OCI archive and a docker archive at once, read as either.
//!
//! # Shape
//!
//! ```text
//! oci-layout, index.json      what skopeo's oci-archive, containerd, umoci and new docker read
//! manifest.json               what skopeo's docker-archive, podman and old docker read
//! blobs/sha256/<hex>          each once, for both
//! ```
//!
//! Readers of docker archives expect plain or gzip layers; those of podman and skopeo take zstd too.
//! The other way round, skopeo finds images in docker's format only through `docker-archive:`, because
//! its `oci-archive:` looks for OCI media types; containerd takes both.
//!
//! # Errors
//!
//! An archive is anybody's bytes. What is wrong with it is said with the name of the member
//! ([`ArchiveError`]), and then no image of it has been stored and no name changed.

mod docker;
mod load;
mod members;
mod save;
mod tar;

pub use load::{Limits, Loaded, load};
pub use save::save;

use crate::digest::Digest;
use crate::error::{self, Kind};

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Reading the stream failed.
    #[error("cannot read the archive")]
    Read(#[source] std::io::Error),
    /// Writing the stream failed.
    #[error("cannot write the archive")]
    Write(#[source] std::io::Error),
    /// It ends in the middle of a member, or before any.
    #[error("the archive is cut short at byte {offset}")]
    Truncated {
        /// How many bytes there are.
        offset: u64,
    },
    /// A header that is none.
    #[error("the archive has no valid tar header at byte {offset}")]
    Header {
        /// Where.
        offset: u64,
    },
    /// A header of some kind longer than any name.
    #[error("the archive has an extended header of {size} bytes at byte {offset}")]
    Extended {
        /// Where.
        offset: u64,
        /// How long it says it is, in bytes.
        size: u64,
    },
    /// A name that leads out of the archive.
    #[error("member {name:?} leaves the archive")]
    Traversal {
        /// As it stands there.
        name: String,
    },
    /// Two members of one name.
    #[error("member {name:?} occurs twice")]
    Duplicate {
        /// Which.
        name: String,
    },
    /// A device, a pipe and so on.
    #[error("member {name:?} is neither file, link nor directory")]
    FileType {
        /// Which.
        name: String,
    },
    /// More members than an archive of images has.
    #[error("the archive has more than {limit} members")]
    Members {
        /// How many are read.
        limit: u64,
    },
    /// More bytes than there is room or permission for.
    #[error("member {name:?} is {size} bytes long, and {room} fit")]
    Size {
        /// Which.
        name: String,
        /// What its header says.
        size: u64,
        /// What is left.
        room: u64,
    },
    /// A document larger than any honest one.
    #[error("member {name:?} is {size} bytes long, more than the {limit} that are read of a document")]
    Document {
        /// Which.
        name: String,
        /// What its header says.
        size: u64,
        /// How many are read.
        limit: u64,
    },
    /// A document that is no JSON of the expected shape.
    #[error("member {name:?} is not valid")]
    Json {
        /// Which.
        name: String,
        /// Where in it.
        #[source]
        source: serde_json::Error,
    },
    /// A blob whose bytes are not what its name says.
    #[error("member {name:?} is damaged: its bytes have the digest {actual}")]
    Damaged {
        /// Which.
        name: String,
        /// What they hash to.
        actual: Digest,
    },
    /// Something that a document names is not there.
    #[error("member {name:?} is missing")]
    Missing {
        /// Which.
        name: String,
    },
    /// Links that lead to each other or to nothing.
    #[error("member {name:?} is a link to nothing in the archive")]
    Link {
        /// Which.
        name: String,
    },
    /// A layer that is not the one its image was made of.
    #[error("layer {name:?} unpacks to {actual}, and its image was made of {expected}")]
    DiffId {
        /// Which.
        name: String,
        /// What the configuration says.
        expected: Digest,
        /// What was found.
        actual: Digest,
    },
    /// Neither an OCI nor a docker archive.
    #[error("the archive holds no images: neither index.json nor manifest.json is in it")]
    NoImages,
    /// Its images are for other machines.
    #[error("the archive holds no image for {platform}")]
    Platform {
        /// What was looked for.
        platform: String,
    },
}

impl ArchiveError {
    /// See [`crate::Error::kind`].
    pub fn kind(&self) -> Kind {
        match self {
            Self::Read(source) | Self::Write(source) => error::kind_of(source),
            Self::Damaged { .. } | Self::Truncated { .. } | Self::DiffId { .. } | Self::Header { .. } => {
                Kind::Corrupt
            }
            Self::Size { .. } => Kind::NoSpace,
            Self::Platform { .. } => Kind::NotFound,
            _ => Kind::Invalid,
        }
    }
}
