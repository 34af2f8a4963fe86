//! On what, and of which commit, something was measured.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the tree, as far as they matter for a figure.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The commit of the tree that was measured; `+` behind it when the tree had changes.
    pub commit: String,
    /// Model of the processors.
    pub cpu: String,
    /// How many processors.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Load averages at the start: whether others used the machine meanwhile.
    pub load: String,
}

impl Machine {
    /// Looks; what cannot be found out is an empty word or zero.
    #[must_use]
    pub fn here() -> Self {
        let git = |args: &[&str]| {
            let root = env!("CARGO_MANIFEST_DIR");
            let output = Command::new("git").args(["-C", root]).args(args).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
        if git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty()) {
            commit.push('+');
        }
        let field = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kib = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse::<u64>().ok());
        Self {
            commit,
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: kib.unwrap_or(0) * 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            load: fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned(),
        }
    }
}
