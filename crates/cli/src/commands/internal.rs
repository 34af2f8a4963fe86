use clap::{Args, CommandFactory as _, Subcommand};

use crate::arguments::Arguments;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::{output, reference};

/// For the build of this program itself.
#[derive(Debug, Args)]
pub(crate) struct InternalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print docs/cli.md.
    CliReference,
}

pub(crate) fn run(arguments: &InternalArgs) -> Result<Exit, Failure> {
    match arguments.what {
        What::CliReference => output::raw(reference::markdown(Arguments::command()).as_bytes())?,
    }
    Ok(Exit::Done)
}
