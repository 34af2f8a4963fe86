//! What a save of very many names holds in memory: a bound that does not grow with the upper.
//!
//! 100,000 names and a bound in proportion; `HEADSTART_FULL=1` takes a million, and the bound is the one of
//! the documentation.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Root, Tmpfs as TmpfsWorks},
    Headstart, Scratch, Tmpfs,
};

use crate::Case;

/// Anonymous memory that a save may have, whatever it saves.
const BOUND: u64 = 256 << 20;
/// What it may have for a tenth of that, with the buffers of packing, which are the same for all.
const TENTH: u64 = 96 << 20;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("memory::names_in_a_tree", &[Root, TmpfsWorks], || held(in_a_tree)),
        Case::new("memory::names_in_one_directory", &[Root, TmpfsWorks], || held(in_one_directory)),
        Case::new("memory::hard_links", &[Root, TmpfsWorks], || held(hard_links)),
    ]
}

fn in_a_tree(root: &Path, names: u64) -> Result<()> {
    for dir in 0..names / 100 {
        let dir = root.join(format!("dir{:04}/sub-directory-{dir:06}", dir / 100));
        fs::create_dir_all(&dir)?;
        for file in 0..100 {
            fs::write(dir.join(format!("source-file-{file:04}.rs")), "")?;
        }
    }
    Ok(())
}

fn in_one_directory(root: &Path, names: u64) -> Result<()> {
    for file in 0..names {
        fs::write(root.join(format!("source-file-{file:08}-with-a-longer-name.rs")), "")?;
    }
    Ok(())
}

/// Each file has its second name in another directory: all links are open at once.
fn hard_links(root: &Path, names: u64) -> Result<()> {
    let (first, second) = (root.join("first"), root.join("second"));
    fs::create_dir_all(&first)?;
    fs::create_dir_all(&second)?;
    for file in 0..names / 2 {
        let name = format!("source-file-{file:08}-with-a-longer-name.rs");
        fs::write(first.join(&name), "")?;
        fs::hard_link(first.join(&name), second.join(&name))?;
    }
    Ok(())
}

fn held(make: fn(&Path, u64) -> Result<()>) -> Result<()> {
    let (names, bound) = match std::env::var_os("HEADSTART_FULL") {
        Some(_) => (1_000_000, BOUND),
        None => (100_000, TENTH),
    };
    let scratch = Scratch::new("memory")?;
    let headstart = Headstart::new(&scratch)?;
    let tmpfs = Tmpfs::new(&scratch.dir("tmpfs")?, 4 << 30)?;
    let (upper, lower) = (tmpfs.target().join("upper"), scratch.dir("lower")?);
    fs::create_dir(&upper)?;
    make(&upper, names)?;
    for what in ["the first save", "the second save"] {
        let peak = peak(&headstart, &upper, &lower)?;
        ensure!(peak <= bound, "{what} of {names} names held {} MiB", peak >> 20);
    }
    Ok(())
}

/// The most anonymous memory that was seen while it ran.
fn peak(headstart: &Headstart, upper: &Path, lower: &Path) -> Result<u64> {
    let mut command = headstart.command();
    command.args(["commit", "--progress", "none", "--upper"]).arg(upper).arg("--lower").arg(lower);
    let mut child = command.arg("saved:1").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let pages = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        peak = peak.max(pages.unwrap_or(0) << 10);
        match child.try_wait().context("wait")? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    ensure!(ended.success(), "headstart ended with {ended}");
    ensure!(peak > 0, "its memory was never seen");
    Ok(peak)
}
