use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::human;
use crate::output::{self, OutputArgs, Table};

/// Show what the store takes on the disk, and what could be freed.
///
/// RECLAIMABLE is what `headstart system prune --all` frees: blobs that no image with a name needs. Writes in
/// progress are counted apart; those whose process died are reclaimable, too.
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "\
Examples:
  headstart system df
  headstart system df -o json
  headstart --root /srv/images system df")]
pub(crate) struct DfArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    images: usize,
    unnamed_images: usize,
    image_bytes: u64,
    reclaimable_bytes: u64,
    writing_bytes: u64,
}

pub(crate) fn run(arguments: DfArgs, context: &Context) -> Result<Exit, Failure> {
    let usage = context.store()?.usage()?;
    let answer = Answer {
        images: usage.images.len(),
        unnamed_images: usage.images.iter().filter(|image| image.names.is_empty()).count(),
        image_bytes: usage.blobs,
        reclaimable_bytes: usage.reclaimable,
        writing_bytes: usage.ingests,
    };
    if arguments.output.is_json() {
        output::json(&answer)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["TYPE", "TOTAL", "UNNAMED", "SIZE", "RECLAIMABLE"]);
    table.row(vec![
        "Images".to_owned(),
        answer.images.to_string(),
        answer.unnamed_images.to_string(),
        human::size(answer.image_bytes),
        human::size(answer.reclaimable_bytes),
    ]);
    let none = || human::NONE.to_owned();
    table.row(vec!["Writing".to_owned(), none(), none(), human::size(answer.writing_bytes), none()]);
    table.print()?;
    Ok(Exit::Done)
}
