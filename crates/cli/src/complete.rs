//! Completion in the shell: commands and flags, and the names of images in the store.
//!
//! The script that `headstart completions` prints calls the program back for each completion, with
//! HEADSTART_COMPLETE set. That is answered before anything else, and never with an error: a shell that
//! completes shows what it gets.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use registry::Reference;

use crate::arguments::{Arguments, GlobalArgs};
use crate::context::Context;
use crate::environment;

/// Answers a shell that asks for completions and ends the program; returns when none does.
pub(crate) fn answer_shell() {
    // building all commands twice would be a millisecond that every start pays
    if environment::COMPLETE.get().is_some() {
        CompleteEnv::with_factory(Arguments::command).var(environment::COMPLETE.name).complete();
    }
}

/// Completes the name of an image.
pub(crate) fn images() -> ArgValueCompleter {
    ArgValueCompleter::new(names)
}

fn names(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let Ok(context) = Context::new(&GlobalArgs { root: root_on_the_line(), ..GlobalArgs::default() }) else {
        return Vec::new();
    };
    let listed = context.store().and_then(|store| Ok(store.images()?)).unwrap_or_default();
    listed
        .iter()
        .flat_map(|image| &image.names)
        .filter_map(|name| name.parse::<Reference>().ok())
        .map(|name| name.familiar())
        .filter(|name| name.starts_with(current))
        .map(CompletionCandidate::new)
        .collect()
}

/// The `--root` of the line that is being completed.
fn root_on_the_line() -> Option<PathBuf> {
    let mut words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    while let Some(word) = words.next() {
        if word == "--root" {
            return words.next().map(PathBuf::from);
        }
        if let Some(root) = word.to_str().and_then(|word| word.strip_prefix("--root=")) {
            return Some(root.into());
        }
    }
    None
}
