use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use registry::Digest;
use rustix::fs::FlockOperation;
use serde::Serialize;

use super::unpack::{Telling, unpack_image};
use crate::complete;
use crate::context::{self, Context};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::file::Output;
use crate::human;
use crate::output;

mod flatten;

/// Write the whole root file system of an image as one tar.
///
/// docker exports containers; here it is the root that a container of the image would start with, its
/// layers unpacked over each other. Equal images give equal bytes. The image is unpacked below the state
/// directory first, so the disk must have room for it. Only root can: else owners would be lost.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  headstart export -o root.tar team/api:wip
  headstart export team/api:wip | zstd > root.tar.zst
  headstart export team/api:wip | tar tv")]
pub(crate) struct ExportArgs {
    /// Name, digest or id of an image
    #[arg(value_name = "IMAGE", add = complete::images())]
    image: String,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,

    /// Print what was written as one line of JSON
    #[arg(long, requires = "output")]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    file: Option<String>,
    digest: Digest,
    entries: u64,
    bytes: u64,
    /// Extended attributes that the state directory could not hold.
    xattrs_left_out: u64,
}

pub(crate) fn run(arguments: &ExportArgs, context: &Context) -> Result<Exit, Failure> {
    if !context::is_root() {
        return Err(Failure::new(Exit::NotPossible, "export: only root can give files their owners")
            .hint(format!("sudo headstart export {}", arguments.image)));
    }
    let store = context.store()?;
    let image = store.resolve(&arguments.image)?;
    let file = Output::create(arguments.output.as_deref(), "export")?;

    let scratch = Scratch::new(&context.state_dir()?)?;
    let progress = Telling::new(context);
    let tell = |done| progress.tell(done);
    let options = layer::unpack::Options {
        progress: Some(&tell),
        cancel: Some(context.cancel.flag()),
        ..layer::unpack::Options::default()
    };
    let root = scratch.path.join("root");
    let report = unpack_image(&store, &image, &arguments.image, &root, options)?;
    progress.finish();
    let writing = context.progress();
    writing.stage("export", Some(report.progress.bytes));
    let written = flatten::write(&root, &scratch.path, file, context, &writing)?;
    writing.finish();

    if report.xattrs_left_out > 0 && !arguments.json {
        let count = human::count(report.xattrs_left_out, "extended attribute", "extended attributes");
        output::warn(&format!(
            "{count} not in the archive: not of a kind that images carry, or not supported here"
        ));
    }
    if arguments.json {
        output::json(&Answer {
            file: arguments.output.as_ref().map(|path| crate::escape::text(&path.display().to_string())),
            digest: image.digest(),
            entries: written.entries,
            bytes: written.bytes,
            xattrs_left_out: report.xattrs_left_out,
        })?;
    }
    Ok(Exit::Done)
}

/// A directory of ours, gone when dropped. While we live, its lock is held.
struct Scratch {
    path: PathBuf,
    _lock: File,
}

const PREFIX: &str = "export-";
const LOCK: &str = "lock";

impl Scratch {
    fn new(state: &Path) -> Result<Self, Failure> {
        sweep(state);
        let path = state.join(format!("{PREFIX}{}", std::process::id()));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let lock = made.and_then(|()| {
            let lock = File::options().write(true).create(true).truncate(false).open(path.join(LOCK))?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(lock)
        });
        match lock {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(error) => Err(Failure::io(path.display(), &error)),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // what stays, the next export sweeps
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes the directories of exports that were killed. One that cannot be removed harms nobody.
fn sweep(state: &Path) {
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // without a lock it is just being made
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
