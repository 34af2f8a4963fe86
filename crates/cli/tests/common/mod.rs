//! The program, run against a store of its own.

// each test program uses its part of this
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "shared by several test programs")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use layer::entry::{Entry, Kind, Meta, Time};
use layer::tar::{padding, write};

/// A store in a directory of its own, which is also where the commands run.
pub struct Headstart {
    dir: tempfile::TempDir,
}

/// How a command ended.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Headstart {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
        command
            .args(words)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HEADSTART_ROOT", self.path("root"))
            .env("HEADSTART_RUN", self.path("run"))
            .env("SOURCE_DATE_EPOCH", "1000000000")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        run(&mut self.command(words))
    }

    /// Runs it; it must end well and say nothing on stderr that is not asked for.
    pub fn answer(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.stderr);
        ran.stdout
    }

    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.answer(words)).unwrap()
    }

    /// Imports a small root file system under this name.
    pub fn import(&self, name: &str) -> String {
        let tar = self.path("root.tar");
        std::fs::write(&tar, root_tar(name)).unwrap();
        self.answer(&["import", "root.tar", name]).trim().to_owned()
    }
}

pub fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `etc/`, `etc/hosts` with `content`, another name of it, and a link.
pub fn root_tar(content: &str) -> Vec<u8> {
    let size = content.len() as u64;
    let hosts = || b"etc/hosts".to_vec();
    let mut tar = Vec::new();
    for (path, kind, mode) in [
        (&b"etc"[..], Kind::Dir, 0o755),
        (b"etc/hosts", Kind::File { size }, 0o644),
        (b"etc/hosts2", Kind::Hardlink { target: hosts() }, 0o644),
        (b"etc/link", Kind::Symlink { target: b"hosts".to_vec() }, 0o777),
    ] {
        let mtime = Time { secs: 1_000_000_000, nanos: 500 };
        let is_file = matches!(kind, Kind::File { .. });
        let entry = Entry { path: path.to_vec(), kind, meta: Meta { mode, mtime, ..Meta::default() } };
        write::header(&entry, &mut tar).unwrap();
        if is_file {
            tar.extend_from_slice(content.as_bytes());
            tar.resize(tar.len() + usize::try_from(padding(size)).unwrap(), 0);
        }
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// The names of the members of a tar, as the room `layer` reads them.
pub fn members(tar: &[u8]) -> Vec<String> {
    let mut reader = layer::tar::read::Reader::new(tar, layer::tar::read::EndMarker::Required);
    let mut names = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        names.push(String::from_utf8(member.entry.path).unwrap());
    }
    names
}

/// Puts `<digest>` and `<id>` for 64 and 12 hex digits.
pub fn redact(text: &str) -> String {
    let mut redacted = String::new();
    let mut digits = String::new();
    for char in text.chars().chain(['\n']) {
        if matches!(char, '0'..='9' | 'a'..='f') {
            digits.push(char);
            continue;
        }
        redacted.push_str(match digits.len() {
            64 => "<digest>",
            12 => "<id>",
            _ => &digits,
        });
        digits.clear();
        redacted.push(char);
    }
    redacted.pop();
    redacted
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
