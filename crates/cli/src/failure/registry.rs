//! Errors of the store and of archives.

use std::error::Error as _;

use registry::{Error, Kind, NameError, archive::ArchiveError};

use super::Failure;
use crate::exit::Exit;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::of(exit(&error), &error);
        match hint(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn exit(error: &Error) -> Exit {
    match error {
        Error::Name { .. } | Error::Change(_) | Error::DockerFormat(_) => return Exit::Usage,
        Error::Layout { .. } => return Exit::NotPossible,
        Error::Archive(ArchiveError::Read(_)) if is_damage(error) => return Exit::Corrupt,
        _ => {}
    }
    match error.kind() {
        Kind::NotFound => Exit::NotFound,
        Kind::Conflict => Exit::Conflict,
        Kind::Denied => Exit::NotPossible,
        // what is left of `Invalid` are stored or received documents that make no sense
        Kind::Corrupt | Kind::Invalid => Exit::Corrupt,
        _ => Exit::Failed,
    }
}

/// Whether the stream could be read, but not decompressed.
fn is_damage(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(decode) = cause.downcast_ref::<layer::codec::read::Error>() {
            return !matches!(decode, layer::codec::read::Error::Read { .. });
        }
        // an I/O error that carries another hides it from `source`
        source = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => cause.source(),
        };
    }
    false
}

/// A command that can be pasted where there is one; else what the store advises.
fn hint(error: &Error) -> Option<String> {
    Some(match error {
        Error::NoImage { .. } => "headstart images".to_owned(),
        Error::Ambiguous { .. } => "headstart images --no-trunc".to_owned(),
        Error::InUse { name, .. } => format!("headstart rmi --force {name}"),
        Error::Name { name, cause: NameError::Case } => name.to_lowercase(),
        Error::DockerFormat(_) => "--compression gzip".to_owned(),
        _ => match error.kind() {
            Kind::NoSpace => "headstart system prune".to_owned(),
            _ => return error.hint(),
        },
    })
}
