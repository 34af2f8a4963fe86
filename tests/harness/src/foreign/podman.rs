//! A container that podman runs from a private store, for saving it behind podman's back.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{ContainersStorage, StorageTool};
use crate::scratch::{complain, unique};
use crate::{Ran, Runtime};

/// A running podman container; removed on drop.
#[derive(Debug)]
pub struct PodmanContainer<'a> {
    storage: &'a ContainersStorage,
    name: String,
    runtime: Runtime,
    pid: u32,
}

const AFTERLIFE_LIMIT: Duration = Duration::from_secs(10);

impl<'a> PodmanContainer<'a> {
    /// Runs `args` detached in a container made from `image` (in the words of
    /// [`oci_name`](super::oci_name)), without network.
    pub fn start(storage: &'a ContainersStorage, image: &OsStr, args: &[&str]) -> Result<Self> {
        anyhow::ensure!(storage.tool() == StorageTool::Podman, "only podman runs containers");
        let id = storage.pull(image)?;
        // podman starts the runtime itself, outside of the private mount namespace in which crun 1.8
        // copes with a hybrid host: there runc is the only choice.
        let hybrid = fs::exists("/sys/fs/cgroup/unified").unwrap_or(false);
        let runtime = if hybrid { Runtime::Runc } else { Runtime::best()? };
        let name = unique("podman");
        let mut container = Self { storage, name: name.clone(), runtime, pid: 0 };
        let mut words: Vec<OsString> =
            ["--runtime", runtime.program(), "run", "--detach"].map(Into::into).into();
        words.extend(["--name", &name, "--network", "none", "--cgroups", "no-conmon"].map(Into::into));
        words.extend(["--cgroup-parent".into(), format!("/{name}").into()]);
        // podman's own limits are above what a restricted host lets root set.
        words.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"].map(Into::into));
        words.push(id.into());
        words.extend(args.iter().map(Into::into));
        storage.ok(words)?;
        let pid = storage.ok(["inspect", "--format", "{{.State.Pid}}", &name])?.stdout_text();
        container.pid = pid.parse().with_context(|| format!("{pid:?} is no pid"))?;
        Ok(container)
    }

    /// The pid of its first process, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs a shell script in it, stopping at the first command that fails.
    pub fn sh(&self, script: &str) -> Result<Ran> {
        self.storage.ok(["--runtime", self.runtime.program(), "exec", &self.name, "/bin/sh", "-ec", script])
    }
}

impl Drop for PodmanContainer<'_> {
    fn drop(&mut self) {
        let words = ["--runtime", self.runtime.program(), "rm", "--force", "--time", "0", &self.name];
        if let Err(error) = self.storage.ok(words) {
            complain(&format!("{error:#}"));
        }
        // conmon and the clean-up that it starts outlive the container for a moment, and mount and write in
        // the store.
        let limit = Instant::now() + AFTERLIFE_LIMIT;
        while somebody_names(self.storage.dir()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        // podman leaves the parent cgroup that it was told to make.
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for parent in hierarchies.map(|entry| entry.path().join(&self.name)).filter(|path| path.is_dir()) {
            if let Err(error) = fs::remove_dir(&parent) {
                complain(&format!("remove {}: {error}", parent.display()));
            }
        }
        let _ = fs::remove_dir(format!("/sys/fs/cgroup/{}", self.name));
    }
}

/// Whether a process has the path in its command line; a zombie has none.
fn somebody_names(path: &Path) -> bool {
    let wanted = path.as_os_str().as_bytes();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.windows(wanted.len()).any(|part| part == wanted))
}
