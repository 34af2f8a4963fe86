//! What can go wrong, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::attributes::AttributeError;
use crate::codec::read::LayerDigests;
use crate::tar::read::{Member, Problem, Shown};
use crate::{codec, tar};

/// Why nothing was unpacked. The target is as it was before, whatever the error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target is there and has something in it, or is no directory.
    #[error("{}: the target is not an empty directory", path.display())]
    TargetInUse {
        /// The target.
        path: PathBuf,
    },
    /// The target, or the directory that shall hold it, does not allow the unpack.
    #[error("{}: {step}", path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// What was tried.
        step: Step,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The archive is damaged, or not what an image layer may be.
    #[error(transparent)]
    Archive(tar::read::Error),
    /// The blob cannot be read or decompressed, or grows beyond the limit.
    #[error(transparent)]
    Blob(#[from] codec::read::Error),
    /// The kernel refused an entry.
    #[error("entry {number}, \"{}\", {step}", Shown(path))]
    Entry {
        /// Position in the archive, from 1.
        number: u64,
        /// The path.
        path: Vec<u8>,
        /// What was tried.
        step: Step,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The caller does not allow device nodes.
    #[error("entry {number}, \"{}\", is a device node, which is not allowed here", Shown(path))]
    Device {
        /// Position in the archive, from 1.
        number: u64,
        /// The path.
        path: Vec<u8>,
    },
    /// The upper of an overlay cannot hide everything below the root.
    #[error("entry {number} hides the whole root, which the upper of an overlay cannot express")]
    OpaqueRoot {
        /// Position in the archive, from 1.
        number: u64,
    },
    /// A directory could not be given its attributes at the end.
    #[error("directory \"{}\" {step}", Shown(path))]
    Directory {
        /// The path.
        path: Vec<u8>,
        /// What was tried.
        step: Step,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// More entries than the caller allows.
    #[error("the layers have more than the limit of {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// Attributes of directories wait in memory until the end, so there must not be too much of them.
    #[error("entry {number} brings the extended attributes of directories over {limit} bytes")]
    TooManyXattrs {
        /// Position in the archive, from 1.
        number: u64,
        /// The limit.
        limit: usize,
    },
    /// The layer is not the one that was asked for.
    #[error("the layer has the {}", mismatch(expected, found))]
    Digest {
        /// What it should be.
        expected: LayerDigests,
        /// What was read.
        found: LayerDigests,
    },
    /// The caller's flag was set.
    #[error("cancelled")]
    Cancelled,
    /// [`Unpacker`](super::Unpacker) was used after it had returned an error.
    #[error("an earlier layer was not applied")]
    AfterFailure,
    /// An error of one layer of several.
    #[error("layer {}", index + 1)]
    Layer {
        /// Position from the lowest, from 0.
        index: usize,
        /// What was wrong with it.
        #[source]
        source: Box<Error>,
    },
}

/// What was tried when the kernel said no; each message continues the name of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Step {
    #[error("cannot be created")]
    Create,
    #[error("has a parent that cannot be opened or created")]
    Parent,
    #[error("cannot replace what is there")]
    Remove,
    #[error("cannot hide what is there")]
    Hide,
    #[error("cannot be linked to \"{}\"", Shown(target))]
    Link { target: Vec<u8> },
    #[error("cannot be written")]
    Write,
    #[error("cannot be given to {uid}:{gid} (only root can; the option to keep the caller's owner helps)")]
    Owner { uid: u32, gid: u32 },
    #[error("cannot be given the mode {mode:04o}")]
    Mode { mode: u32 },
    #[error("cannot be given the extended attribute \"{}\"", Shown(name))]
    Xattr { name: Vec<u8> },
    #[error("cannot be given its time")]
    Time,
    #[error("cannot be visited")]
    Visit,
    #[error("cannot be synced")]
    Sync,
    #[error("cannot be put in place")]
    Rename,
}

fn mismatch(expected: &LayerDigests, found: &LayerDigests) -> String {
    if expected.digest == found.digest {
        format!("diff_id {} instead of {}", Hex(&found.diff_id), Hex(&expected.diff_id))
    } else {
        format!("digest {} instead of {}", Hex(&found.digest), Hex(&expected.digest))
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<tar::read::Error> for Error {
    /// Puts the decoder's error in front of the archive's, which only saw that reading failed.
    fn from(error: tar::read::Error) -> Self {
        let tar::read::Error { number, path, problem } = error;
        let problem = match problem {
            Problem::Read(source) => match codec::read::Error::from_io(source) {
                Ok(blob) => return Self::Blob(blob),
                Err(source) => Problem::Read(source),
            },
            problem => problem,
        };
        Self::Archive(tar::read::Error { number, path, problem })
    }
}

/// The entry that is being applied, for errors.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub(super) number: u64,
    pub(super) path: Vec<u8>,
}

impl At {
    pub(super) fn of(member: &Member) -> Self {
        Self { number: member.number, path: member.entry.path.clone() }
    }

    /// Names the entry in an error of the kernel.
    pub(super) fn step(&self, step: Step) -> impl FnOnce(rustix::io::Errno) -> Error + use<> {
        let at = self.clone();
        move |errno| at.io(step, errno.into())
    }

    pub(super) fn io(self, step: Step, source: io::Error) -> Error {
        Error::Entry { number: self.number, path: self.path, step, source }
    }

    pub(super) fn attribute(&self, error: AttributeError) -> Error {
        self.clone().io(error.step, error.source.into())
    }
}
