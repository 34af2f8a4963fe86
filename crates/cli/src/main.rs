//! The `headstart` command.
//!
//! docker's words and flags for images and containers, without a daemon: each command opens the store,
//! does its work through the rooms `save`, `registry` and `layer`, and ends.
//!
//! # Shape
//! ```text
//! main ──► arguments ──► Context (where, how loud, cancelled?) ──► commands::NAME::run ──► Exit | Failure
//!                                                                     │ answer: stdout (text or JSON)
//!                                                                     └ told on the way: stderr
//! ```
//! * A command is one file in [`commands`]: an argument struct whose doc comment is the manual, and `run`.
//! * Stdout carries the answer and nothing else; everything else goes to stderr ([`output`]).
//! * A command ends in an [`exit::Exit`] or a [`failure::Failure`], which names the object, the cause and
//!   the next step. What a failure of a library means for the user is decided in [`failure`] alone.
//!
//! # Start-up
//! A save of a small change takes a few milliseconds, so nothing happens before it that it does not
//! need: no threads, no files read, no registration that is not a system call or two.

#![forbid(unsafe_code)]

mod arguments;
mod cancel;
mod commands;
mod complete;
mod context;
mod environment;
mod escape;
mod exit;
mod failure;
mod file;
mod human;
mod output;
mod progress;
mod reference;
mod saving;

use std::process::ExitCode;

use crate::exit::Exit;

fn main() -> ExitCode {
    complete::answer_shell();
    raise_open_files();
    let arguments = match arguments::parse() {
        Ok(arguments) => arguments,
        Err(exit) => return exit.into(),
    };
    let verbose = arguments.global.verbose;
    let ended = context::Context::new(&arguments.global).and_then(|context| {
        context.thaw_what_a_dead_save_left();
        arguments.command.run(&context)
    });
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(verbose);
            failure.exit().into()
        }
    }
}

/// A save holds a descriptor for each file it watches; the soft limit is often 1024 for the sake of
/// programs that use select(2).
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // without it there is only less room
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
