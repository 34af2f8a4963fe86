//! A running container, started by crun or runc without any daemon; killed and deleted on drop.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::bundle::Bundle;
use crate::capability::Capability;
use crate::rootfs::busybox_rootfs;
use crate::scratch::{Scratch, complain, unique};
use crate::{Ran, run};

/// A program that starts containers from an OCI bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// crun.
    Crun,
    /// runc.
    Runc,
}

impl Runtime {
    /// crun where it starts containers, else runc.
    pub fn best() -> Result<Self> {
        let works = |capability: Capability| capability.missing().is_none();
        match () {
            () if works(Capability::Crun) => Ok(Self::Crun),
            () if works(Capability::Runc) => Ok(Self::Runc),
            () => bail!("neither crun nor runc starts a container here"),
        }
    }

    /// The name of the program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }

    /// The runtime with its own state directory. On a hybrid host it runs in a private mount namespace
    /// without the version 2 hierarchy, which crun 1.8 would otherwise try to use and refuse.
    fn command(self, state: &Path) -> Command {
        const WITHOUT_UNIFIED: &str =
            r#"umount /sys/fs/cgroup/unified 2>/dev/null || true; exec "$0" --root "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", WITHOUT_UNIFIED, self.program()]);
        command.arg(state);
        command
    }
}

/// What to start; see [`Container::builder`].
#[derive(Debug, Clone)]
pub struct ContainerBuilder {
    runtime: Option<Runtime>,
    bundle: Bundle,
}

impl ContainerBuilder {
    /// Uses this runtime instead of [`Runtime::best`].
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Runs this instead of a long sleep.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.bundle.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Adds a variable to the environment of the first process.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.bundle.env.push(format!("{key}={value}"));
        self
    }

    /// Binds a directory of the host at `target`, as a volume.
    pub fn bind(mut self, source: impl Into<PathBuf>, target: &str) -> Self {
        self.bundle.binds.push((source.into(), target.to_owned()));
        self
    }

    /// Mounts a tmpfs at `target`.
    pub fn tmpfs(mut self, target: &str) -> Self {
        self.bundle.tmpfs.push(target.to_owned());
        self
    }

    /// Gives CAP_SYS_ADMIN, with which a container can mount.
    pub fn sys_admin(mut self) -> Self {
        self.bundle.sys_admin = true;
        self
    }

    /// Runs in a user namespace that maps `count` ids from 0 to `first` of the host. The caller makes
    /// the root belong to them (or idmaps it).
    pub fn user_namespace(mut self, first: u32, count: u32) -> Self {
        self.bundle.user_namespace = Some((first, count));
        self
    }

    /// Starts it, detached, standard input and outputs at `/dev/null`.
    pub fn start(mut self, scratch: &Scratch) -> Result<Container> {
        let runtime = self.runtime.map_or_else(Runtime::best, Ok)?;
        let id = unique("container");
        self.bundle.cgroup = format!("/{id}");
        let dir = scratch.dir(&id)?;
        let config = self.bundle.config();
        fs::write(dir.join("config.json"), config.to_string()).context("write config.json")?;
        let mut container = Container { runtime, id, state: scratch.dir("runtime-state")?, pid: 0 };
        let pid_file = dir.join("pid");
        let mut command = runtime.command(&container.state);
        command.args([OsStr::new("run"), OsStr::new("--detach"), OsStr::new("--bundle"), dir.as_os_str()]);
        command.args([OsStr::new("--pid-file"), pid_file.as_os_str(), OsStr::new(&container.id)]);
        // A detached container keeps the descriptors of the runtime: with a pipe, the caller would wait
        // for the container's end. So what the runtime says goes to a file.
        let log = dir.join("log");
        let file = fs::File::create(&log).context("create the log")?;
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(file);
        let status = command.status().with_context(|| format!("start {}", runtime.program()))?;
        if !status.success() {
            bail!("{} run: {}", runtime.program(), fs::read_to_string(&log).unwrap_or_default().trim());
        }
        let text = fs::read_to_string(&pid_file).context("read the pid file")?;
        container.pid = text.trim().parse().with_context(|| format!("{text:?} is no pid"))?;
        Ok(container)
    }
}

/// A running container.
#[derive(Debug)]
pub struct Container {
    runtime: Runtime,
    id: String,
    state: PathBuf,
    pid: u32,
}

impl Container {
    /// A container whose root is `root`, usually the target of an overlay mount.
    pub fn builder(root: &Path) -> ContainerBuilder {
        let bundle = Bundle {
            root: root.to_owned(),
            args: ["/bin/sleep", "2147483647"].map(str::to_owned).to_vec(),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            binds: Vec::new(),
            tmpfs: Vec::new(),
            sys_admin: false,
            user_namespace: None,
            cgroup: String::new(),
        };
        ContainerBuilder { runtime: None, bundle }
    }

    /// The pid of its first process, as the host sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its id; also the last component of its cgroup in every hierarchy.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The runtime that started it.
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// Runs a program in it to its end.
    pub fn exec<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Ran> {
        let mut command = self.runtime.command(&self.state);
        command.args(["exec", &self.id]).args(args);
        Ran::capture(&mut command)?.success()
    }

    /// Runs a shell script in it, stopping at the first command that fails.
    pub fn sh(&self, script: &str) -> Result<Ran> {
        self.exec(["/bin/sh", "-ec", script])
    }

    /// Starts a program in it and leaves it running; it ends with the container.
    pub fn exec_detached<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<()> {
        let mut command = self.runtime.command(&self.state);
        command.args(["exec", "--detach", &self.id]).args(args);
        // Its outputs would keep a pipe of ours open until the container ends.
        let null = std::process::Stdio::null;
        let status = command.stdin(null()).stdout(null()).stderr(null()).status().context("start exec")?;
        ensure!(status.success(), "{} exec --detach ended with {status}", self.runtime.program());
        Ok(())
    }

    /// Pauses it, as `crun pause` does.
    pub fn pause(&self) -> Result<()> {
        Ran::capture(self.runtime.command(&self.state).args(["pause", &self.id]))?.success().map(drop)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        Ran::capture(self.runtime.command(&self.state).args(["resume", &self.id]))?.success().map(drop)
    }

    /// The directory of its cgroup that has the freezer.
    pub fn freezer(&self) -> PathBuf {
        let version_1 = Path::new("/sys/fs/cgroup/freezer");
        if version_1.is_dir() { version_1.join(&self.id) } else { Path::new("/sys/fs/cgroup").join(&self.id) }
    }

    /// Starts a container and runs a program in it.
    pub(crate) fn probe(runtime: Runtime) -> Result<()> {
        run(runtime.program(), ["--version"])?;
        let scratch = Scratch::new("probe-container")?;
        let root = busybox_rootfs(&scratch.dir("root")?)?;
        let container = Self::builder(&root).runtime(runtime).start(&scratch)?;
        container.sh("true").map(drop)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // A paused container can neither be killed nor joined; it is thawed whoever froze it.
        let _ = fs::write(self.freezer().join("freezer.state"), "THAWED");
        let _ = fs::write(self.freezer().join("cgroup.freeze"), "0");
        let words: [OsString; 3] = ["delete".into(), "--force".into(), self.id.clone().into()];
        let deleted = Ran::capture(self.runtime.command(&self.state).args(words));
        if let Err(error) = deleted.and_then(Ran::success) {
            complain(&format!("{error:#}"));
        }
    }
}
