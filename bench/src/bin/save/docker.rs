//! A private dockerd.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::image::Layout;
use bench::measure::cpu_of;
use harness::{Ran, Scratch};
use rustix::process::{Pid, Signal, kill_process};

const BOOT_LIMIT: Duration = Duration::from_secs(30);

/// A running dockerd; terminated on drop.
pub(crate) struct Docker {
    daemon: Child,
    dir: PathBuf,
}

/// A container that was created and not started.
pub(crate) struct Created {
    pub(crate) id: String,
    pub(crate) upper: PathBuf,
}

impl Docker {
    /// Starts it without networks, and waits until it answers.
    pub(crate) fn start(scratch: &Scratch) -> Result<Self> {
        let dir = scratch.dir("docker")?;
        let log = File::create(dir.join("log")).context("create the log")?;
        let at = |name: &str| dir.join(name).into_os_string();
        let mut socket = std::ffi::OsString::from("unix://");
        socket.push(dir.join("sock"));
        let mut command = Command::new("dockerd");
        command.args([OsStr::new("--data-root"), &at("data"), OsStr::new("--exec-root"), &at("exec")]);
        command.args([OsStr::new("--pidfile"), &at("pid"), OsStr::new("--host"), &socket]);
        command.args(["--bridge", "none", "--iptables=false", "--ip-forward=false"]);
        command.args(["--storage-driver", "overlay2", "--oom-score-adjust", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = command.spawn().context("start dockerd")?;
        let mut docker = Self { daemon, dir };
        let limit = Instant::now() + BOOT_LIMIT;
        while docker.ok(["version"]).is_err() {
            let ended = docker.daemon.try_wait().context("look at dockerd")?;
            if ended.is_some() || Instant::now() > limit {
                let log = fs::read_to_string(docker.dir.join("log")).unwrap_or_default();
                bail!("dockerd does not answer: {}", log.lines().last().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(docker)
    }

    /// The client, ready for a subcommand.
    pub(crate) fn command(&self) -> Command {
        let mut socket = std::ffi::OsString::from("unix://");
        socket.push(self.dir.join("sock"));
        // Debian's own client: one from elsewhere may stand before it in the path
        let mut command = Command::new("/usr/bin/docker");
        command.env("HOME", &self.dir).arg("--host").arg(socket);
        command
    }

    /// Runs a subcommand and demands status 0.
    pub(crate) fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        Ran::capture(self.command().args(args))?.success()
    }

    /// Processor time of the daemon.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.daemon.id())
    }

    /// Makes the image `base` of the layer of a layout.
    pub(crate) fn import(&self, base: &Layout) -> Result<()> {
        self.ok([OsStr::new("import"), base.layer().as_os_str(), OsStr::new("base")]).map(drop)
    }

    /// A container of `base`.
    pub(crate) fn create(&self) -> Result<Created> {
        let id = self.ok(["create", "--network", "none", "base", "/bin/true"])?.stdout_text();
        let format = "{{.GraphDriver.Data.UpperDir}}";
        let upper = self.ok(["inspect", "--format", format, &id])?.stdout_text();
        anyhow::ensure!(Path::new(&upper).is_dir(), "{upper:?} is no upper directory");
        Ok(Created { id, upper: upper.into() })
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw);
        if !matches!(pid.map(|pid| kill_process(pid, Signal::TERM)), Some(Ok(()))) {
            let _ = self.daemon.kill();
        }
        if let Err(error) = self.daemon.wait() {
            super::tell(&format!("wait for dockerd: {error}"));
        }
    }
}
