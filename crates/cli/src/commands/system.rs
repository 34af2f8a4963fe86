mod df;
mod prune;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// What the store takes on the disk, and freeing some of it.
#[derive(Debug, Args)]
#[command(
    subcommand_value_name = "COMMAND",
    after_help = "\
Examples:
  headstart system df
  headstart system prune
  headstart system prune --all --force"
)]
pub(crate) struct SystemArgs {
    #[command(subcommand)]
    command: System,
}

#[derive(Debug, Subcommand)]
enum System {
    Df(df::DfArgs),
    Prune(prune::PruneArgs),
}

pub(crate) fn run(arguments: &SystemArgs, context: &Context) -> Result<Exit, Failure> {
    match &arguments.command {
        System::Df(arguments) => df::run(*arguments, context),
        System::Prune(arguments) => prune::run(arguments, context),
    }
}
