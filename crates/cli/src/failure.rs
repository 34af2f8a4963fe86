//! Why a command did not do what was asked, for the person who asked.
//!
//! Three short lines at most: the object and the cause, a detail, and a command that can be pasted. The
//! chain of causes is printed with `-v`. What an error of a library means for the user, its exit status
//! included, is decided here and nowhere else.

mod registry;
mod save;
mod unpack;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};

use crate::environment;
use crate::escape;
use crate::exit::Exit;

/// See the module.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// `OBJECT: cause`, lower case, without a period.
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    /// Causes below the message, the nearest first.
    causes: Vec<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), detail: None, hint: None, causes: Vec::new() }
    }

    /// The command line asks for something that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A call on a file or directory failed.
    pub(crate) fn io(object: impl std::fmt::Display, error: &io::Error) -> Self {
        let message = format!("{object}: {}", said(&error.to_string()));
        Self::new(Exit::of_io(error), escape::text(&message)).causes_of(error.source())
    }

    /// Stdout could not be written. Nobody is to blame when its reader went away.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, String::new()),
            _ => Self::io("standard output", error),
        }
    }

    /// Ended by a signal; `undone` says what is as it was.
    pub(crate) fn interrupted(undone: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, "interrupted").detail(undone)
    }

    /// The message and causes of an error, with the exit status that the caller knows.
    pub(crate) fn of(exit: Exit, error: &dyn Error) -> Self {
        let mut failure = Self::new(exit, escape::text(&error.to_string())).causes_of(error.source());
        failure.detail = failure.causes.first().cloned();
        failure
    }

    /// Names the object in front of a message that does not.
    pub(crate) fn about(mut self, object: impl std::fmt::Display) -> Self {
        if !matches!(self.exit, Exit::Done | Exit::Interrupted) {
            self.message = format!("{}: {}", escape::text(&object.to_string()), self.message);
        }
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// What the user can type next.
    pub(crate) fn hint(mut self, command: impl Into<String>) -> Self {
        self.hint = Some(command.into());
        self
    }

    fn causes_of(mut self, mut source: Option<&(dyn Error + 'static)>) -> Self {
        while let Some(error) = source {
            self.causes.push(escape::text(said(&error.to_string())));
            source = error.source();
        }
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints it to stderr.
    #[expect(clippy::print_stderr, reason = "this is the place where failures are printed")]
    pub(crate) fn print(&self, verbose: bool) {
        let colour = io::stderr().is_terminal() && environment::NO_COLOR.get().is_none();
        eprint!("{}", self.render(verbose, colour));
    }

    fn render(&self, verbose: bool, colour: bool) -> String {
        let mut text = String::new();
        if self.exit == Exit::Done {
            return text;
        }
        let (red, plain) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(text, "{red}error:{plain} {}", self.message); // a string takes everything
        if let Some(detail) = &self.detail {
            let _ = writeln!(text, "  {detail}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "  try: {hint}");
        }
        if verbose {
            for cause in self.causes.iter().filter(|cause| Some(*cause) != self.detail.as_ref()) {
                let _ = writeln!(text, "  because: {cause}");
            }
        }
        text
    }
}

/// What the system said, without the number that only programs look at.
fn said(text: &str) -> &str {
    match text.split_once(" (os error ") {
        Some((said, _)) => said,
        None => text,
    }
}

impl Exit {
    /// The status for a failed system call.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied => Self::NotPossible,
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => Self::Conflict,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lines_and_the_chain_only_on_demand() {
        let io = io::Error::from_raw_os_error(13);
        let failure = Failure::of(Exit::Failed, &Outer(Inner(io)))
            .detail("nothing was written")
            .hint("headstart images");
        assert_eq!(
            failure.render(false, false),
            "error: image a\\x1b: outer\n  nothing was written\n  try: headstart images\n"
        );
        assert_eq!(
            failure.render(true, false),
            "error: image a\\x1b: outer\n  nothing was written\n  try: headstart images\n  because: inner\n  \
             because: Permission denied\n"
        );
        assert_eq!(Failure::stdout(&io::ErrorKind::BrokenPipe.into()).render(true, true), "");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("image a\x1b: outer")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner(#[source] io::Error);
}
