//! Running a program to its end, with an error that shows what it said.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

/// What a finished program said and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Ran {
    /// Runs `command` with no standard input, whatever its status will be.
    pub fn capture(command: &mut Command) -> Result<Self> {
        let line = line_of(command);
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {line}"))?;
        Ok(Self { line, status: output.status, stdout: output.stdout, stderr: output.stderr })
    }

    /// Demands status 0; the error shows what the program said.
    pub fn success(self) -> Result<Self> {
        ensure!(
            self.status.success(),
            "`{}` ended with {}\n--- stdout\n{}--- stderr\n{}",
            self.line,
            self.status,
            String::from_utf8_lossy(&self.stdout),
            self.stderr_text(),
        );
        Ok(self)
    }

    /// The exit code, or -1 when a signal ended the program.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Standard output as text without the last newline; bytes that are no UTF-8 are replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }

    /// Standard error as text; bytes that are no UTF-8 are replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs `program` with `args` and demands status 0.
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<Ran> {
    Ran::capture(Command::new(program).args(args))?.success()
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
