use clap::{Args, ValueEnum};
use clap_complete::env::Shells;

use crate::environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;

/// Print a script that makes a shell complete commands, flags and names of images.
///
/// The script calls headstart for each completion, so that it never is out of date.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(headstart completions bash)
  headstart completions zsh > ~/.zfunc/_headstart
  headstart completions fish > ~/.config/fish/completions/headstart.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "bash|elvish|fish|powershell|zsh", hide_possible_values = true)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Elvish => "elvish",
            Self::Fish => "fish",
            Self::Powershell => "powershell",
            Self::Zsh => "zsh",
        }
    }
}

pub(crate) fn run(arguments: &CompletionsArgs) -> Result<Exit, Failure> {
    let name = arguments.shell.name();
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(name) else {
        return Err(Failure::new(Exit::NotPossible, format!("{name}: this shell is not supported")));
    };
    let mut script = Vec::new();
    shell
        .write_registration(environment::COMPLETE.name, "headstart", "headstart", "headstart", &mut script)
        .map_err(|error| Failure::io(name, &error))?;
    output::raw(&script)?;
    Ok(Exit::Done)
}
