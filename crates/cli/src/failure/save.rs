//! Errors of saving.

use save::{ErrorKind, SaveError};

use super::Failure;
use crate::exit::Exit;

impl From<SaveError> for Failure {
    fn from(error: SaveError) -> Self {
        let exit = match error.kind() {
            ErrorKind::Failed => Exit::Failed,
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Conflict => Exit::Conflict,
            ErrorKind::NotPossible => Exit::NotPossible,
            ErrorKind::Corrupt => Exit::Corrupt,
            ErrorKind::Interrupted => {
                return Self::interrupted("the container runs and nothing was saved");
            }
        };
        let hint = error.hint();
        let failure = match error {
            // the store means the same here as everywhere
            SaveError::Store(error) => return error.into(),
            error => Self::of(exit, &error),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
