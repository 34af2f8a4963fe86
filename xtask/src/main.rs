//! Checks and generators for people who work on the tree: `cargo xtask lint`, `cargo xtask docs`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people talks to them")]

mod docs;
mod rooms;
mod rust_text;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

const USAGE: &str = "\
usage: cargo xtask lint          check the walls between the rooms and the rules of CONTRIBUTING.md
       cargo xtask docs          write the generated pages of docs/
       cargo xtask docs --check  fail when a generated page is not current
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["lint"] => lint(),
        ["docs"] => docs::write(&root()).map(|()| Vec::new()),
        ["docs", "--check"] => docs::check(&root()),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(complaints) if complaints.is_empty() => ExitCode::SUCCESS,
        Ok(complaints) => {
            complaints.iter().for_each(|complaint| println!("{complaint}"));
            eprintln!("{} to mend", complaints.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every check; one line per finding.
fn lint() -> Result<Vec<String>> {
    let root = root();
    let page = root.join("docs/architecture.md");
    let page = std::fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let mut complaints = rooms::check(&rooms::Table::parse(&page)?, &rooms::packages(&root)?);
    complaints.extend(tree::check(&root)?);
    complaints.extend(docs::check(&root)?);
    Ok(complaints)
}

/// The top of the checkout; this crate lies one level below it.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}
