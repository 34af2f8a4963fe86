//! Why a save ended.

use std::io;
use std::path::PathBuf;

use layer::judge::JudgeError;
use layer::node::NodeError;
use layer::pack::PackError;
use layer::record_file::RecordFileError;

use crate::capture::CaptureError;
use crate::pause::PauseError;
use crate::source::{self, SourceError};

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Report it.
    Failed,
    /// The request contradicts itself or names what cannot be.
    Usage,
    /// What was named is not there.
    NotFound,
    /// Something else holds it, or another has changed it meanwhile.
    Conflict,
    /// Not on this machine, with these rights, or with this runtime.
    NotPossible,
    /// Bytes that should be right are not.
    Corrupt,
    /// The user ended it; everything was undone.
    Interrupted,
}

/// Why a save ended. Nothing was saved, the container runs, and no name has moved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The source was not found, or not trusted.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A name of the upper or of a lower.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Deciding what changed.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// Packing the layer.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The store.
    #[error(transparent)]
    Store(#[from] registry::Error),
    /// Keeping a file as it was in the pause.
    #[error("capture {}", String::from_utf8_lossy(path))]
    Capture {
        /// The file.
        path: Vec<u8>,
        /// What went wrong.
        #[source]
        source: CaptureError,
    },
    /// The pause.
    #[error(transparent)]
    Pause(#[from] PauseError),
    /// Temporary records.
    #[error("temporary records in the state directory")]
    Scratch(#[source] io::Error),
    /// A cache of an earlier save that turned bad while it was used.
    #[error("records of earlier saves")]
    Records(#[from] RecordFileError),
    /// `--include-mount` names no mount.
    #[error("{} is not a mount over the root of this container", path.display())]
    NoSuchMount {
        /// As the user named it.
        path: PathBuf,
    },
    /// `--include-mount` names a mount of a single file.
    #[error("{} is a mount of a single file, which cannot be taken in", path.display())]
    FileMount {
        /// As the user named it.
        path: PathBuf,
    },
    /// A pattern of `--exclude` or `--only`.
    #[error("pattern {pattern:?}")]
    Pattern {
        /// As the user wrote it.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: globset::Error,
    },
    /// `--strict`, and something cannot be saved.
    #[error("{} cannot be saved whole: {}", String::from_utf8_lossy(path), why)]
    Strict {
        /// The first such path.
        path: Vec<u8>,
        /// Why.
        why: &'static str,
    },
    /// Environment or arguments of the process were asked for.
    #[error("environment of process {pid}")]
    Environment {
        /// The process.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// `--with-env` without a process.
    #[error("there is no process to take the environment from")]
    NoProcess,
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
}

impl From<io::Error> for SaveError {
    fn from(source: io::Error) -> SaveError {
        SaveError::Scratch(source)
    }
}

impl SaveError {
    /// Whether the bytes of an earlier own layer could not be taken over.
    pub(crate) fn is_of_earlier_layers(&self) -> bool {
        matches!(self, SaveError::Pack(PackError::Take { .. }))
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            SaveError::Source(error) => match error.kind() {
                source::ErrorKind::Usage => ErrorKind::Usage,
                source::ErrorKind::NotFound => ErrorKind::NotFound,
                source::ErrorKind::NotPossible => ErrorKind::NotPossible,
                _ => ErrorKind::Failed,
            },
            SaveError::Store(error) => match error.kind() {
                registry::Kind::NotFound => ErrorKind::NotFound,
                registry::Kind::Conflict => ErrorKind::Conflict,
                registry::Kind::Invalid => ErrorKind::Usage,
                registry::Kind::Corrupt => ErrorKind::Corrupt,
                _ => ErrorKind::Failed,
            },
            SaveError::Node(NodeError::Index { .. })
            | SaveError::Judge(JudgeError::Node(NodeError::Index { .. })) => ErrorKind::NotPossible,
            SaveError::NoSuchMount { .. } => ErrorKind::NotFound,
            SaveError::FileMount { .. } | SaveError::Pattern { .. } | SaveError::NoProcess => {
                ErrorKind::Usage
            }
            SaveError::Interrupted => ErrorKind::Interrupted,
            error if error.is_of_earlier_layers() => ErrorKind::Corrupt,
            _ => ErrorKind::Failed,
        }
    }

    /// A next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            SaveError::Source(error) => error.hint().map(str::to_owned),
            SaveError::Store(error) => error.hint(),
            SaveError::Node(NodeError::Index { .. })
            | SaveError::Judge(JudgeError::Node(NodeError::Index { .. })) => {
                Some("mount the overlay with index=off".to_owned())
            }
            SaveError::NoSuchMount { .. } => Some("headstart commit --dry-run lists the mounts".to_owned()),
            SaveError::FileMount { .. } => Some("copy the file into the container and save that".to_owned()),
            SaveError::Strict { .. } => Some("leave out --strict to save the rest".to_owned()),
            SaveError::NoProcess => Some("--with-env needs --pid".to_owned()),
            _ => None,
        }
    }
}
