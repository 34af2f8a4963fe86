//! A private containerd: root, state, sockets and configuration in a scratch directory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::scratch::complain;
use crate::{Ran, Scratch};

const BOOT_LIMIT: Duration = Duration::from_secs(20);

/// A running containerd; terminated on drop.
#[derive(Debug)]
pub struct Containerd {
    daemon: Child,
    socket: PathBuf,
    dir: PathBuf,
}

impl Containerd {
    /// Starts the daemon and waits until it answers.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        let dir = scratch.dir("containerd")?;
        let at = |name: &str| dir.join(name).display().to_string();
        // Plugins that would look at the machine (CRI, CNI, NRI, other snapshotters) are left out.
        let config = format!(
            r#"version = 2
root = {root:?}
state = {state:?}
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = {socket:?}
[ttrpc]
address = {ttrpc:?}
[plugins."io.containerd.internal.v1.opt"]
path = {opt:?}
"#,
            root = at("root"),
            state = at("state"),
            socket = at("grpc.sock"),
            ttrpc = at("ttrpc.sock"),
            opt = at("opt"),
        );
        fs::write(dir.join("config.toml"), config).context("write config.toml")?;
        let log = File::create(dir.join("log")).context("create the log")?;
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(dir.join("config.toml"))
            .env("TMPDIR", &dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        let mut containerd = Self { daemon, socket: dir.join("grpc.sock"), dir };
        let limit = Instant::now() + BOOT_LIMIT;
        while containerd.ctr(["version"]).is_err() {
            let ended = containerd.daemon.try_wait().context("look at containerd")?;
            if ended.is_some() || Instant::now() > limit {
                let log = fs::read_to_string(containerd.dir.join("log")).unwrap_or_default();
                bail!("containerd does not answer: {}", log.lines().last().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(containerd)
    }

    /// The socket of its API.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// `ctr` on this daemon, namespace `test`, ready for a subcommand.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", "test"]).env("TMPDIR", &self.dir);
        command
    }

    /// Runs `ctr` and demands status 0.
    pub fn ctr<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        Ran::capture(self.command().args(args))?.success()
    }

    /// Takes in the images of an OCI or docker archive, unpacks them, and returns their names.
    pub fn import(&self, archive: &Path) -> Result<Vec<String>> {
        let before = self.images()?;
        let words: [&OsStr; 5] = [
            "images".as_ref(),
            "import".as_ref(),
            "--base-name".as_ref(),
            "imported".as_ref(),
            archive.as_ref(),
        ];
        self.ctr(words)?;
        Ok(self.images()?.into_iter().filter(|name| !before.contains(name)).collect())
    }

    /// The names of all images.
    pub fn images(&self) -> Result<Vec<String>> {
        Ok(self.ctr(["images", "list", "--quiet"])?.stdout_text().lines().map(str::to_owned).collect())
    }

    /// Mounts a fresh snapshot of an image that was taken in at `target`.
    pub fn mount(&self, image: &str, target: &Path) -> Result<MountedSnapshot<'_>> {
        fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
        let words: [&OsStr; 5] =
            ["images".as_ref(), "mount".as_ref(), "--rw".as_ref(), image.as_ref(), target.as_ref()];
        self.ctr(words)?;
        Ok(MountedSnapshot { containerd: self, target: target.to_owned() })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM first: killed, it would leave the mounts of its state directory.
        let pid = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw);
        let told = pid.map(|pid| kill_process(pid, Signal::TERM));
        if !matches!(told, Some(Ok(()))) {
            let _ = self.daemon.kill();
        }
        if let Err(error) = self.daemon.wait() {
            complain(&format!("wait for containerd: {error}"));
        }
    }
}

/// A mounted snapshot; unmounted on drop.
#[derive(Debug)]
pub struct MountedSnapshot<'a> {
    containerd: &'a Containerd,
    target: PathBuf,
}

impl MountedSnapshot<'_> {
    /// Where it is mounted; also the key of the snapshot.
    pub fn path(&self) -> &Path {
        &self.target
    }
}

impl Drop for MountedSnapshot<'_> {
    fn drop(&mut self) {
        let words: [OsString; 4] =
            ["images".into(), "unmount".into(), "--rm".into(), self.target.clone().into()];
        if let Err(error) = self.containerd.ctr(words) {
            complain(&format!("{error:#}"));
        }
    }
}
