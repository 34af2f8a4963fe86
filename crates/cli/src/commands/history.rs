use clap::Args;
use jiff::Timestamp;
use registry::Digest;
use registry::config::History;
use registry::store::HistoryLine;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs, Table};
use crate::{complete, escape, human};

/// Show how an image came about, the newest step first.
///
/// Each step is shown with the layer it made, if it made one. A layer that no step speaks of has a dash:
/// nobody wrote down where it came from. With `-q` only the digests of the layers are printed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart history team/api:wip
  headstart history --no-trunc team/api:wip
  headstart history -o json team/api:wip")]
pub(crate) struct HistoryArgs {
    /// Name, digest or id of an image
    #[arg(value_name = "IMAGE", add = complete::images())]
    image: String,

    /// Print whole digests and commands
    #[arg(long)]
    no_trunc: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// One step as JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    layer: Option<Digest>,
    size: u64,
    created: Option<&'a str>,
    created_by: Option<&'a str>,
    author: Option<&'a str>,
    comment: Option<&'a str>,
}

/// What fits beside the other columns.
const SHORT_COMMAND: usize = 60;

pub(crate) fn run(arguments: &HistoryArgs, context: &Context) -> Result<Exit, Failure> {
    let image = context.store()?.resolve(&arguments.image)?;
    let history = image.history();
    let shown = |digest: &Digest| if arguments.no_trunc { digest.to_string() } else { digest.short() };
    if arguments.output.is_json() {
        output::json(&history.iter().map(json_line).collect::<Vec<_>>())?;
        return Ok(Exit::Done);
    }
    if context.quiet {
        for layer in history.iter().filter_map(|line| line.layer) {
            output::answer(&shown(&layer.digest))?;
        }
        return Ok(Exit::Done);
    }
    let (now, relative) = (Timestamp::now(), output::is_terminal());
    let mut table = Table::new(&["LAYER", "SIZE", "CREATED", "BY"]);
    for line in &history {
        let by = line.history.map_or_else(|| human::NONE.to_owned(), said);
        table.row(vec![
            line.layer.map_or_else(|| human::NONE.to_owned(), |layer| shown(&layer.digest)),
            human::size(line.layer.map_or(0, |layer| layer.size)),
            human::time(line.history.and_then(|history| history.created.as_deref()), now, relative),
            if arguments.no_trunc { by } else { shorten(&by, SHORT_COMMAND) },
        ]);
    }
    table.print()?;
    Ok(Exit::Done)
}

/// The command, and the message if there is one.
fn said(history: &History) -> String {
    let by = history.created_by.as_deref().map(escape::text).filter(|by| !by.is_empty());
    let comment = history.comment.as_deref().map(escape::text).filter(|comment| !comment.is_empty());
    match (by, comment) {
        (Some(by), Some(comment)) => format!("{by}: \"{comment}\""),
        (Some(by), None) => by,
        (None, Some(comment)) => format!("\"{comment}\""),
        (None, None) => human::NONE.to_owned(),
    }
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

fn json_line<'a>(line: &HistoryLine<'a>) -> Line<'a> {
    let history = line.history;
    Line {
        layer: line.layer.map(|layer| layer.digest),
        size: line.layer.map_or(0, |layer| layer.size),
        created: history.and_then(|history| history.created.as_deref()),
        created_by: history.and_then(|history| history.created_by.as_deref()),
        author: history.and_then(|history| history.author.as_deref()),
        comment: history.and_then(|history| history.comment.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn long_commands_are_cut_between_characters() {
        assert_eq!(shorten("äöüß", 4), "äöüß");
        assert_eq!(shorten("äöüßx", 4), "äöü…");
    }
}
