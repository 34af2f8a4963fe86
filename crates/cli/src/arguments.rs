//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory as _, Parser};

use crate::commands::Command;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::progress;

/// Save running containers as images, in time proportional to what changed in them.
///
/// Images are kept in an OCI image layout below the state directory; there is no daemon.
#[derive(Debug, Parser)]
#[command(
    name = "headstart",
    version,
    disable_help_subcommand = true,
    disable_help_flag = true,
    max_term_width = 100,
    subcommand_value_name = "COMMAND",
    after_help = "\
Options of every command:
      --root DIR       Where images are kept [env: HEADSTART_ROOT]
      --progress HOW   auto, plain, json or none
  -q, --quiet          Print only the answer; in tables, only ids
  -v, --verbose        Print the causes of an error
  -h, --help           Print help

Examples:
  headstart commit --pid 4121 team/api:wip
  headstart images
  headstart help layers"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command. The screen of one command does not repeat them.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalArgs {
    /// Where images are kept [env: HEADSTART_ROOT]
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath, hide_short_help = true)]
    pub(crate) root: Option<PathBuf>,

    /// How progress is shown; nothing is in the first second
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "auto|plain|json|none")]
    #[arg(hide_possible_values = true, hide_default_value = true, hide_short_help = true)]
    pub(crate) progress: progress::Mode,

    /// Print only the answer; in tables, only ids
    #[arg(short, long, global = true, hide_short_help = true)]
    pub(crate) quiet: bool,

    /// Print the causes of an error
    #[arg(short, long, global = true, hide_short_help = true)]
    pub(crate) verbose: bool,

    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort, hide_short_help = true)]
    pub(crate) help: Option<bool>,
}

/// Reads the command line; prints what is wrong with it, or the help that it asks for.
pub(crate) fn parse() -> Result<Arguments, Exit> {
    let words: Vec<OsString> = std::env::args_os().collect();
    Arguments::try_parse_from(&words).map_err(|error| {
        let shown = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::raw(error.to_string().as_bytes()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                output::tell(error.to_string().trim_end());
                return Exit::Usage;
            }
            _ => Err(usage_failure(&error, &words)),
        };
        match shown {
            Ok(()) => Exit::Done,
            Err(failure) => {
                failure.print(false);
                failure.exit()
            }
        }
    })
}

/// clap's error in three lines: what is wrong, what is similar, and where the help is.
fn usage_failure(error: &clap::Error, words: &[OsString]) -> Failure {
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n");
    let words_of = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let first = words_of(paragraphs.next().unwrap_or_default());
    let message = first.strip_prefix("error: ").unwrap_or(&first);
    let failure = Failure::usage(crate::escape::text(message));
    let failure = match paragraphs.map(words_of).find_map(|p| p.strip_prefix("tip: ").map(str::to_owned)) {
        Some(tip) => failure.detail(crate::escape::text(&tip)),
        None => failure,
    };
    failure.hint(format!("{} --help", command_path(words)))
}

/// The command that the line begins with: `headstart system df`.
fn command_path(words: &[OsString]) -> String {
    let program = Arguments::command();
    let (mut command, mut path) = (&program, program.get_name().to_owned());
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(found) = command.find_subcommand(word) {
            path = format!("{path} {word}");
            command = found;
        }
    }
    path
}
