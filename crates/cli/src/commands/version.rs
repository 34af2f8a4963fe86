use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, OutputArgs};

/// Print the version.
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "\
Examples:
  headstart version
  headstart version -o json
  headstart --version")]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Version {
    version: &'static str,
    os: &'static str,
    arch: &'static str,
}

pub(crate) fn run(arguments: VersionArgs) -> Result<Exit, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
    };
    if arguments.output.is_json() {
        output::json(&version)?;
    } else {
        output::answer(&format!("headstart {} ({}/{})", version.version, version.os, version.arch))?;
    }
    Ok(Exit::Done)
}
