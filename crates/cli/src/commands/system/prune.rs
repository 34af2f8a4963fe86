use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::human;
use crate::output::{self, OutputArgs};

/// What another tool copies into the layout has no reference until all of it is there.
const GRACE: Duration = Duration::from_secs(3600);

/// Remove images without a name, and what no image needs.
///
/// What is younger than an hour stays: another tool may just be copying it into the store. `--all` removes
/// that, too. Images with a name always stay, and so does what a running command works with.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart system prune
  headstart system prune --force
  headstart system prune --all --force -o json")]
pub(crate) struct PruneArgs {
    /// Spare nothing for being young
    #[arg(short, long)]
    all: bool,

    /// Do not ask
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    images: u64,
    blobs: u64,
    freed_bytes: u64,
}

pub(crate) fn run(arguments: &PruneArgs, context: &Context) -> Result<Exit, Failure> {
    let store = context.store()?;
    if !arguments.force && !is_wanted(arguments.all)? {
        return Ok(Exit::Done);
    }
    let grace = if arguments.all { Duration::ZERO } else { GRACE };
    let freed = store.prune(grace, SystemTime::now())?;
    // caches of what is gone now; what cannot be swept only takes room
    let caches = save::sweep(&store).unwrap_or(0);
    let answer = Answer { images: freed.images, blobs: freed.blobs, freed_bytes: freed.bytes + caches };
    if arguments.output.is_json() {
        output::json(&answer)?;
    } else {
        output::answer(&format!("Total reclaimed space: {}", human::size(answer.freed_bytes)))?;
        context.tell(&format!(
            "Removed {} without a name and {}",
            human::count(answer.images, "image", "images"),
            human::count(answer.blobs, "blob", "blobs")
        ));
    }
    Ok(Exit::Done)
}

/// Asks on a terminal; elsewhere nobody can answer.
fn is_wanted(all: bool) -> Result<bool, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let all = if all { " --all" } else { "" };
        return Err(Failure::usage("system prune: nobody is there to be asked")
            .hint(format!("headstart system prune{all} --force")));
    }
    let mut stderr = io::stderr();
    let asked = write!(stderr, "Remove images without a name and what no image needs? [y/N] ")
        .and_then(|()| stderr.flush());
    let mut answer = String::new();
    asked
        .and_then(|()| stdin.lock().read_line(&mut answer))
        .map_err(|error| Failure::io("terminal", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
