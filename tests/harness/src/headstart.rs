//! Runs the built `headstart` with a store and a run directory of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{Ran, Scratch};

/// A `headstart` that sees nothing of the machine's own stores and settings.
#[derive(Debug)]
pub struct Headstart {
    program: PathBuf,
    root: PathBuf,
    run: PathBuf,
    home: PathBuf,
}

impl Headstart {
    /// With an empty store inside `scratch`.
    pub fn new(scratch: &Scratch) -> Result<Self> {
        Self::with_root(scratch, &scratch.join("headstart"))
    }

    /// With a store at `root`, which need not exist.
    pub fn with_root(scratch: &Scratch, root: &Path) -> Result<Self> {
        Ok(Self {
            program: Self::program()?,
            root: root.to_owned(),
            run: scratch.join("headstart-run"),
            home: scratch.dir("home")?,
        })
    }

    /// The built binary: `$HEADSTART_BIN`, else the one in the target directory of the running program.
    pub fn program() -> Result<PathBuf> {
        if let Some(path) = std::env::var_os("HEADSTART_BIN") {
            return Ok(path.into());
        }
        let test = std::env::current_exe().context("find the running program")?;
        // a test is target/TRIPLE/PROFILE/deps/test-HASH, a benchmark lies beside the binary itself
        let beside = test.ancestors().skip(1).take(2).map(|dir| dir.join("headstart"));
        match beside.into_iter().find(|path| path.is_file()) {
            Some(path) => Ok(path),
            None => bail!("no headstart beside {}: run `cargo build -p cli` first", test.display()),
        }
    }

    /// The directory that holds the state, as `$HEADSTART_ROOT` gives it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The command, ready for more arguments and variables.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C")
            .env("HOME", &self.home)
            .env("HEADSTART_ROOT", &self.root)
            .env("HEADSTART_RUN", &self.run);
        command
    }

    /// Runs it, whatever its status will be.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        Ran::capture(self.command().args(args))
    }

    /// Runs it and demands status 0.
    pub fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        self.run(args)?.success()
    }
}
