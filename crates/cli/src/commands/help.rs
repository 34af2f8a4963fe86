use clap::{Args, CommandFactory as _};

use crate::arguments::Arguments;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// Explain a command or a topic.
///
/// Of a command it prints the whole manual with all flags; `headstart COMMAND --help` fits a screen.
#[derive(Debug, Args)]
#[command(after_help = "\
Topics:
  layers   what an image is made of, and how a save adds to it
  pause    when a container stands still during a save, and how long
  tiers    why the tenth save is as cheap as the first

Examples:
  headstart help commit
  headstart help system prune
  headstart help pause")]
pub(crate) struct HelpArgs {
    /// A command or a topic
    #[arg(value_name = "COMMAND|TOPIC")]
    subject: Vec<String>,
}

const TOPICS: [(&str, &str); 3] = [
    ("layers", include_str!("help/layers.txt")),
    ("pause", include_str!("help/pause.txt")),
    ("tiers", include_str!("help/tiers.txt")),
];

pub(crate) fn run(arguments: &HelpArgs) -> Result<Exit, Failure> {
    let mut program = Arguments::command();
    if arguments.subject.is_empty() {
        output::raw(program.render_help().to_string().as_bytes())?;
        return Ok(Exit::Done);
    }
    if let [topic] = &arguments.subject[..]
        && let Some((_, text)) = TOPICS.iter().find(|(name, _)| name == topic)
    {
        output::raw(text.as_bytes())?;
        return Ok(Exit::Done);
    }
    program.build();
    let mut command = &mut program;
    for word in &arguments.subject {
        let Some(found) = command.find_subcommand_mut(word) else {
            let subject = crate::escape::text(&arguments.subject.join(" "));
            let failure = Failure::new(Exit::NotFound, format!("{subject}: no such command or topic"));
            return Err(failure.hint("headstart help"));
        };
        command = found;
    }
    output::raw(command.render_long_help().to_string().as_bytes())?;
    Ok(Exit::Done)
}
