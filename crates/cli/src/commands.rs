//! The commands: one file each, an argument struct whose doc comment is the manual, and `run`.
//!
//! The first paragraph of a manual is what the help screen says; the whole is in `headstart help COMMAND`
//! and in the reference.

pub(crate) mod commit;
mod completions;
mod diff;
mod export;
mod help;
mod history;
mod images;
mod import;
mod inspect;
mod internal;
mod load;
mod rmi;
mod save;
mod source;
mod system;
mod tag;
mod unpack;
mod version;

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Commit(Box<commit::CommitArgs>),
    Diff(Box<diff::DiffArgs>),
    Images(images::ImagesArgs),
    History(history::HistoryArgs),
    Inspect(inspect::InspectArgs),
    Tag(tag::TagArgs),
    Rmi(rmi::RmiArgs),
    Save(save::SaveArgs),
    Load(load::LoadArgs),
    Import(import::ImportArgs),
    Export(export::ExportArgs),
    Unpack(unpack::UnpackArgs),
    System(system::SystemArgs),
    Completions(completions::CompletionsArgs),
    Help(help::HelpArgs),
    Version(version::VersionArgs),
    #[command(hide = true)]
    Internal(internal::InternalArgs),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Commit(arguments) => commit::run(*arguments, context),
            Self::Diff(arguments) => diff::run(*arguments, context),
            Self::Images(arguments) => images::run(&arguments, context),
            Self::History(arguments) => history::run(&arguments, context),
            Self::Inspect(arguments) => inspect::run(&arguments, context),
            Self::Tag(arguments) => tag::run(&arguments, context),
            Self::Rmi(arguments) => rmi::run(&arguments, context),
            Self::Save(arguments) => save::run(&arguments, context),
            Self::Load(arguments) => load::run(&arguments, context),
            Self::Import(arguments) => import::run(&arguments, context),
            Self::Export(arguments) => export::run(&arguments, context),
            Self::Unpack(arguments) => unpack::run(&arguments, context),
            Self::System(arguments) => system::run(&arguments, context),
            Self::Completions(arguments) => completions::run(&arguments),
            Self::Help(arguments) => help::run(&arguments),
            Self::Version(arguments) => version::run(arguments),
            Self::Internal(arguments) => internal::run(&arguments),
        }
    }
}
