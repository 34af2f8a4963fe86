//! What every command works with: where, how loud, until when.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use registry::Store;

use crate::arguments::GlobalArgs;
use crate::cancel::Cancel;
use crate::environment;
use crate::failure::Failure;
use crate::output;
use crate::progress::{self, Progress};

/// See the module.
#[derive(Debug)]
pub(crate) struct Context {
    /// Not known to a user without a home; most of the help needs none.
    root: Option<PathBuf>,
    run_dir: PathBuf,
    progress: progress::Mode,
    /// Only the answer is printed, and in tables only ids.
    pub(crate) quiet: bool,
    pub(crate) cancel: Cancel,
}

impl Context {
    pub(crate) fn new(global: &GlobalArgs) -> Result<Self, Failure> {
        let root = global.root.clone().or_else(default_root);
        let run_dir = environment::RUN.get().map_or_else(|| default_run_dir(root.as_deref()), PathBuf::from);
        let cancel = Cancel::listen().map_err(|error| Failure::io("signals", &error))?;
        let progress = if global.quiet { progress::Mode::None } else { global.progress };
        Ok(Self { root, run_dir, progress, quiet: global.quiet, cancel })
    }

    /// The images.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(self.root()?)?)
    }

    /// For what must not outlive a reboot.
    pub(crate) fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    fn root(&self) -> Result<&Path, Failure> {
        self.root.as_deref().ok_or_else(|| {
            Failure::usage("state directory: neither HOME nor XDG_DATA_HOME is set")
                .hint("headstart --root DIR images")
        })
    }

    /// For files that may be deleted at any time.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        Ok(self.root()?.join("state"))
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress::new(self.progress)
    }

    /// Tells something on the way, unless nobody wants to hear it.
    pub(crate) fn tell(&self, text: &str) {
        if !self.quiet {
            output::tell(text);
        }
    }

    /// A save that was killed in the pause has a guard that thaws; this is for when that was killed too.
    pub(crate) fn thaw_what_a_dead_save_left(&self) {
        match save::pause::recover(&self.run_dir) {
            Ok(thawed) => {
                for group in thawed {
                    let group = crate::escape::text(&group.display().to_string());
                    output::warn(&format!("a save that died had left {group} frozen; it runs again"));
                }
            }
            // nobody of this user can have left anything in a directory that this user cannot read
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(error) => {
                let run_dir = self.run_dir.display();
                output::warn(&format!("{run_dir}: records of frozen containers cannot be read: {error}"));
            }
        }
    }
}

/// Whether we are root here.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn default_root() -> Option<PathBuf> {
    if let Some(root) = environment::ROOT.get() {
        return Some(root.into());
    }
    if is_root() {
        return Some("/var/lib/headstart".into());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    data.map(|data| data.join("headstart"))
}

fn default_run_dir(root: Option<&Path>) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    match (runtime, root) {
        (Some(dir), _) if !is_root() => dir.join("headstart"),
        (None, Some(root)) if !is_root() => root.join("run"),
        _ => "/run/headstart".into(),
    }
}

/// When something is made now, reproducibly where that is asked for.
pub(crate) fn creation_time() -> Result<Timestamp, Failure> {
    Ok(source_date_epoch()?.unwrap_or_else(Timestamp::now))
}

/// The value of SOURCE_DATE_EPOCH.
pub(crate) fn source_date_epoch() -> Result<Option<Timestamp>, Failure> {
    let parse = |value: OsString| {
        let seconds = value.to_str().and_then(|text| text.parse::<i64>().ok());
        let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        time.ok_or_else(|| {
            Failure::usage(format!("SOURCE_DATE_EPOCH: {value:?} is not a number of seconds since 1970"))
                .hint("unset SOURCE_DATE_EPOCH")
        })
    };
    environment::SOURCE_DATE_EPOCH.get().map(parse).transpose()
}
