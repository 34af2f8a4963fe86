//! Overlay mounts for tests, in a mount namespace that ends with the test.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
    move_mount,
};
use rustix::thread::UnshareFlags;

/// Runs a test on a thread with a mount namespace of its own and a scratch directory. Every mount goes
/// with the thread, even when the test panics. Without root the test is skipped, loudly, unless the
/// environment variable REQUIRE names `overlay`.
pub(crate) fn with_mounts(test: impl FnOnce(&Path) + Send + 'static) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let outcome = std::thread::spawn(move || {
        #[expect(deprecated, reason = "the safe form; a mount namespace concerns no descriptor")]
        let unshared = rustix::thread::unshare(UnshareFlags::NEWNS);
        if let Err(error) = unshared {
            let required = std::env::var("REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|word| word == "overlay"), "overlay is required: {error}");
            eprintln!("SKIPPED, no mount namespace to be had (run as root): {error}");
            return;
        }
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        test(&path);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A minimal root file system: busybox, and links for the commands that are used.
pub(crate) fn rootfs(at: &Path) {
    for name in ["bin", "proc", "dev", "sys", "etc", "data", "tmp"] {
        std::fs::create_dir_all(at.join(name)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", at.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "mount", "mkdir", "touch"] {
        let _ = std::fs::remove_file(at.join("bin").join(name));
        std::os::unix::fs::symlink("busybox", at.join("bin").join(name)).unwrap();
    }
    std::fs::write(at.join("etc/issue"), "a small system\n").unwrap();
}

/// Makes directories beneath `at` and returns their paths.
pub(crate) fn dirs<const N: usize>(at: &Path, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let path = at.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    })
}

/// An overlay with everything in the usual places.
pub(crate) struct Bench {
    pub(crate) lower: PathBuf,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) merged: PathBuf,
}

impl Bench {
    pub(crate) fn new(at: &Path) -> Self {
        let [lower, upper, work, merged] = dirs(at, ["lower", "upper", "work", "merged"]);
        rootfs(&lower);
        Self { lower, upper, work, merged }
    }

    pub(crate) fn mounted(at: &Path, options: &str) -> Self {
        let bench = Self::new(at);
        bench.mount(options);
        bench
    }

    pub(crate) fn mount(&self, options: &str) {
        let mut data = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.lower.display(),
            self.upper.display(),
            self.work.display()
        );
        if !options.is_empty() {
            data = format!("{options},{data}");
        }
        mount_overlay(&self.merged, data);
    }
}

/// mount(2) with an option string.
pub(crate) fn mount_overlay(at: &Path, options: impl AsRef<OsStr>) {
    let data = CString::new(options.as_ref().as_bytes()).unwrap();
    mount("overlay", at, "overlay", MountFlags::empty(), data.as_c_str()).unwrap();
}

/// fsconfig(2), one option after the other.
pub(crate) fn mount_configured(at: &Path, options: &[(&str, Option<&Path>)]) {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&fs, *key, value.as_os_str()).unwrap(),
            None => fsconfig_set_flag(&fs, *key).unwrap(),
        }
    }
    fsconfig_create(&fs).unwrap();
    attach(&fs, at);
}

pub(crate) fn attach(fs: &rustix::fd::OwnedFd, at: &Path) {
    let mount = fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    move_mount(&mount, "", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
}

/// A child that is killed when the test ends, however it ends.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a command and waits until its process has become `name`.
    pub(crate) fn start(command: &mut Command, name: &str) -> Self {
        let running =
            Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let path = format!("/proc/{}/cmdline", running.pid());
        wait_for(|| std::fs::read(&path).unwrap().starts_with(name.as_bytes()));
        running
    }

    /// A process whose root is this directory.
    pub(crate) fn in_root(root: &Path) -> Self {
        Self::start(Command::new("chroot").arg(root).args(["/bin/sleep", "1000"]), "/bin/sleep")
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a condition that another process brings about.
pub(crate) fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A container of runc, deleted when the test ends.
pub(crate) struct Container {
    state: PathBuf,
    name: String,
    pid: i32,
}

impl Container {
    /// Starts `sleep` on a root file system with `/proc`, a `/dev`, an `/etc/hosts` as docker gives it, and
    /// a volume on `/data`. `None` when there is no runc, or it cannot run here.
    pub(crate) fn start(at: &Path, root: &Path, volume: &Path) -> Option<Self> {
        let [bundle, state] = dirs(at, ["bundle", "state"]);
        let hosts = at.join("hosts");
        std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        let name = format!("headstart-test-{}", std::process::id());
        let bind = |from: &Path, to: &str| serde_json::json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "rw"]});
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "1000"], "env": ["PATH=/bin"], "cwd": "/",
            },
            "root": {"path": root},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                bind(&hosts, "/etc/hosts"),
                bind(volume, "/data"),
            ],
            "linux": {
                "cgroupsPath": format!("/{name}"),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
                "maskedPaths": ["/proc/kcore", "/proc/acpi"],
                "readonlyPaths": ["/proc/sys"],
            },
        });
        std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        let pid_file = at.join("pid");
        let status = Command::new("runc")
            .arg("--root")
            .arg(&state)
            .args(["run", "--detach", "--pid-file"])
            .arg(&pid_file)
            .arg("--bundle")
            .arg(&bundle)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("SKIPPED, runc cannot run here: {status:?}");
            return None;
        }
        let pid = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
        Some(Self { state, name, pid })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("runc")
            .arg("--root")
            .arg(&self.state)
            .args(["delete", "--force", &self.name])
            .status();
    }
}
