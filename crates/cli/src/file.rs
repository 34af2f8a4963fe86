//! Files that a command reads or writes for the user.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Opens what is to be read: a file, or standard input for `-`.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path.as_os_str() != "-" {
        let file = File::open(path).map_err(|error| Failure::io(path.display(), &error))?;
        return Ok(Box::new(file));
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::usage("standard input is a terminal: nothing can be read from it")
            .hint("name a file, or pipe the archive in"));
    }
    Ok(Box::new(stdin))
}

/// How a path, or standard input, is called in messages.
pub(crate) fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// A file that appears under its name when it is whole, or standard output.
#[derive(Debug)]
pub(crate) enum Output {
    /// A pipe, a device, a socket: written as it comes.
    Stream { file: File, name: String },
    /// A regular file, made beside its name.
    Whole { file: File, staged: PathBuf, path: PathBuf, done: bool },
}

impl Output {
    /// Where the answer of `command` goes; standard output for `None` and `-`, unless that is a terminal.
    pub(crate) fn create(path: Option<&Path>, command: &str) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(Failure::usage("standard output is a terminal: an archive is not for reading")
                    .hint(format!("headstart {command} -o FILE IMAGE")));
            }
            let file =
                rustix::io::dup(&stdout).map_err(|error| Failure::io("standard output", &error.into()))?;
            return Ok(Self::Stream { file: file.into(), name: "standard output".to_owned() });
        };
        let failed = |error| Failure::io(path.display(), &error);
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self::Stream { file, name: path.display().to_string() });
        }
        // through a symlink, its target is replaced
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let Some(name) = path.file_name() else {
            return Err(Failure::usage(format!("{}: not the name of a file", path.display())));
        };
        let mut staged = std::ffi::OsString::from(".");
        staged.push(name);
        staged.push(format!(".{}", std::process::id()));
        let staged = path.with_file_name(staged);
        // of a dead process with our id, or put there by somebody else
        let _ = std::fs::remove_file(&staged);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&staged)
            .map_err(|error| Failure::io(path.display(), &error))?;
        Ok(Self::Whole { file, staged, path, done: false })
    }

    fn file(&self) -> &File {
        match self {
            Self::Stream { file, .. } | Self::Whole { file, .. } => file,
        }
    }

    /// What a failed write means.
    pub(crate) fn failed(&self, error: &io::Error) -> Failure {
        match self {
            Self::Stream { .. } if error.kind() == io::ErrorKind::BrokenPipe => Failure::stdout(error),
            Self::Stream { name, .. } => Failure::io(name, error),
            Self::Whole { path, .. } => Failure::io(path.display(), error),
        }
    }

    /// All was written: the file gets its name, and survives a power cut.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        if let Self::Whole { file, staged, path, done } = &mut self {
            let placed = file.sync_all().and_then(|()| std::fs::rename(&*staged, &*path)).and_then(|()| {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
            });
            *done = placed.is_ok();
            placed.map_err(|error| Failure::io(path.display(), &error))?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::Whole { staged, done: false, .. } = self {
            // it is half an archive; what stood under the name before still does
            let _ = std::fs::remove_file(staged);
        }
    }
}
