//! Errors of layers that are unpacked or read.

use std::io;

use layer::codec::read::Error as BlobError;
use layer::tar::read::{Error as TarError, Problem};
use layer::unpack::Error;

use super::Failure;
use crate::exit::Exit;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = exit(&error);
        if exit == Exit::Interrupted {
            return Self::interrupted("nothing was written");
        }
        let failure = Self::of(exit, &error);
        match innermost(&error) {
            Error::TargetInUse { .. } | Error::Target { .. } => failure,
            _ if failure.detail.is_some() => failure,
            _ => failure.detail("nothing was written"),
        }
    }
}

impl From<TarError> for Failure {
    fn from(error: TarError) -> Self {
        Self::from(Error::from(error))
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        Self::from(Error::from(error))
    }
}

fn innermost(error: &Error) -> &Error {
    match error {
        Error::Layer { source, .. } => innermost(source),
        error => error,
    }
}

fn exit(error: &Error) -> Exit {
    match innermost(error) {
        Error::TargetInUse { .. } => Exit::Conflict,
        Error::Target { source, .. } | Error::Entry { source, .. } | Error::Directory { source, .. } => {
            // of an entry the kernel's "not found" says nothing about what the user named
            match Exit::of_io(source) {
                Exit::NotFound if !matches!(innermost(error), Error::Target { .. }) => Exit::Failed,
                exit => exit,
            }
        }
        Error::Device { .. } | Error::OpaqueRoot { .. } => Exit::NotPossible,
        Error::Archive(TarError { problem: Problem::Read(source), .. }) => failed_read(source),
        Error::Blob(BlobError::Read { source, .. }) => failed_read(source),
        Error::Blob(BlobError::Stopped) | Error::AfterFailure => Exit::Failed,
        Error::Cancelled => Exit::Interrupted,
        _ => Exit::Corrupt,
    }
}

fn failed_read(source: &io::Error) -> Exit {
    match Exit::of_io(source) {
        Exit::NotFound => Exit::Failed,
        exit => exit,
    }
}
