use clap::Args;
use registry::Digest;
use serde::Serialize;

use super::images::familiar;
use crate::complete;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};

/// Remove names of images, and images with their last name.
///
/// An id removes the image and its name; several names only with `--force`. Layers that other images use
/// stay. An image that cannot be removed does not keep others from it; the exit status is that of the
/// first failure.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart rmi team/api:wip
  headstart rmi --force 6b1f0c9a12de
  headstart rmi -f $(headstart images -q 'team/*')")]
pub(crate) struct RmiArgs {
    /// Names, digests or ids of images
    #[arg(value_name = "IMAGE", required = true, add = complete::images())]
    images: Vec<String>,

    /// Remove all names of an id; an image that is not there is no failure
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    untagged: Vec<String>,
    deleted: Vec<Digest>,
    freed_bytes: u64,
}

pub(crate) fn run(arguments: &RmiArgs, context: &Context) -> Result<Exit, Failure> {
    let store = context.store()?;
    let mut answer = Answer::default();
    let mut exit = Exit::Done;
    for name in &arguments.images {
        match store.remove(name, arguments.force).map_err(Failure::from) {
            Ok(removed) => {
                answer.untagged.extend(removed.untagged.iter().map(|name| familiar(name)));
                answer.deleted.extend(removed.image);
                answer.freed_bytes += removed.collected.bytes;
            }
            Err(failure) => {
                failure.print(false);
                if exit == Exit::Done && !(arguments.force && failure.exit() == Exit::NotFound) {
                    exit = failure.exit();
                }
            }
        }
    }
    if arguments.output.is_json() {
        output::json(&answer)?;
    } else if !context.quiet {
        for name in &answer.untagged {
            output::answer(&format!("Untagged: {name}"))?;
        }
        for digest in &answer.deleted {
            output::answer(&format!("Deleted: {digest}"))?;
        }
    }
    Ok(exit)
}
