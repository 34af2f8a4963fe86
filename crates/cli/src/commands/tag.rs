use clap::Args;
use registry::Reference;

use crate::complete;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Give an image another name; who had the name loses it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart tag team/api:wip team/api:tested
  headstart tag 6b1f0c9a12de team/api:v2
  headstart tag team/api:v2 registry.example.com/team/api:v2")]
pub(crate) struct TagArgs {
    /// Name, digest or id of an image
    #[arg(value_name = "IMAGE", add = complete::images())]
    image: String,

    /// The new name; without a tag, `latest`
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(arguments: &TagArgs, context: &Context) -> Result<Exit, Failure> {
    let name = Reference::for_tagging(&arguments.name)?;
    context.store()?.tag(&arguments.image, &name)?;
    Ok(Exit::Done)
}
