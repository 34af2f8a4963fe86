//! Pages that are generated, and therefore checked: docs/cli.md from the command itself.
//!
//! `headstart internal cli-reference` prints the page; clap's definitions are the only source. A test in
//! the cli crate compares it with the page too; here is the writer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const PAGE: &str = "docs/cli.md";

/// Writes every generated page.
pub(crate) fn write(root: &Path) -> Result<()> {
    let page = root.join(PAGE);
    std::fs::write(&page, cli_reference(root)?).with_context(|| format!("write {}", page.display()))
}

/// One line for each page that is not what its source says now. A page that was never generated is not
/// missed: it appears with the first `cargo xtask docs`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let page = root.join(PAGE);
    if !page.exists() {
        return Ok(Vec::new());
    }
    let found = std::fs::read(&page).with_context(|| format!("read {}", page.display()))?;
    let current = found == cli_reference(root)?;
    Ok(if current { Vec::new() } else { vec![format!("{PAGE}: not current: run `cargo xtask docs`")] })
}

fn cli_reference(root: &Path) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--package", "cli", "--bin", "headstart", "--", "internal", "cli-reference"])
        .current_dir(root)
        .output()
        .context("start cargo run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "headstart internal cli-reference: {said}");
    ensure!(!output.stdout.is_empty(), "headstart internal cli-reference printed nothing");
    Ok(output.stdout)
}
