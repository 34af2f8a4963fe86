//! What kernel tests need: capability gates, and file systems, overlays, groups and processes that go
//! away when dropped, on panic too.

#![expect(dead_code, reason = "each test binary uses a part")]
#![expect(unreachable_pub, reason = "a module of three binaries")]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A test and what it needs.
pub type Case = (&'static str, &'static [Need], fn());

/// Something that a machine may lack.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Need {
    Root,
    FreezerV1,
    FreezerV2,
    Ext4,
    Xfs,
    Btrfs,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Need::Root => "root",
            Need::FreezerV1 => "freezer-v1",
            Need::FreezerV2 => "freezer-v2",
            Need::Ext4 => "ext4",
            Need::Xfs => "xfs",
            Need::Btrfs => "btrfs",
        }
    }

    fn is_met(self) -> bool {
        match self {
            Need::Root => rustix::process::geteuid().is_root(),
            Need::FreezerV1 => group_root(Hierarchy::V1).is_some(),
            Need::FreezerV2 => group_root(Hierarchy::V2).is_some(),
            Need::Ext4 | Need::Xfs | Need::Btrfs => {
                rustix::process::geteuid().is_root() && Disk::make(self.name()).is_some()
            }
        }
    }
}

/// Runs the tests; one that lacks something is listed as ignored and says why on stderr, or fails if
/// `REQUIRE` names what it lacks.
pub fn run(cases: &[Case]) -> ! {
    let arguments = Arguments::from_args();
    let required = std::env::var("REQUIRE").unwrap_or_default();
    let mut met: Vec<(Need, bool)> = Vec::new();
    let mut trials = Vec::new();
    for &(name, needs, test) in cases {
        let lacking = needs.iter().copied().find(|&need| {
            let known = met.iter().find(|(n, _)| *n == need).map(|(_, is_met)| *is_met);
            !known.unwrap_or_else(|| {
                let is_met = need.is_met();
                met.push((need, is_met));
                is_met
            })
        });
        let trial = match lacking {
            None => Trial::test(name, move || {
                test();
                Ok(())
            }),
            Some(need) if required.split(',').any(|r| r == need.name()) => {
                Trial::test(name, move || Err(format!("REQUIRE names {}", need.name()).into()))
            }
            Some(need) => {
                eprintln!("SKIPPED {name}: this machine lacks {}", need.name());
                Trial::test(name, || Ok(())).with_ignored_flag(true)
            }
        };
        trials.push(trial);
    }
    libtest_mimic::run(&arguments, trials).exit()
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits for something that must come true.
#[track_caller]
pub fn wait_for(what: &str, within: Duration, mut is_true: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !is_true() {
        assert!(since.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
    since.elapsed()
}

/// A mount that is undone.
pub struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        if unmount(&self.0, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.0, UnmountFlags::DETACH);
        }
    }
}

/// A file system of its own in a file, or a tmpfs.
pub struct Disk {
    _mount: Mount,
    dir: tempfile::TempDir,
}

impl Disk {
    pub fn make(kind: &str) -> Option<Disk> {
        let dir = tempfile::Builder::new().prefix("headstart-test-").tempdir().ok()?;
        let at = dir.path().join("mnt");
        fs::create_dir(&at).ok()?;
        if kind == "tmpfs" {
            mount("tmpfs", &at, "tmpfs", MountFlags::empty(), None).ok()?;
        } else {
            let image = dir.path().join("image");
            fs::File::create(&image).ok()?.set_len(2 << 30).ok()?;
            let quick: &[&str] = if kind == "ext4" { &["-q", "-F"] } else { &["-q"] };
            succeeds(Command::new(format!("mkfs.{kind}")).args(quick).arg(&image))?;
            succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
        }
        Some(Disk { _mount: Mount(at), dir })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

fn succeeds(command: &mut Command) -> Option<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.ok()?.success().then_some(())
}

/// An overlay whose upper lies on a disk of the wanted kind.
pub struct Overlay {
    _mount: Mount,
    pub disk: Disk,
}

impl Overlay {
    pub fn on(kind: &str) -> Overlay {
        let disk = Disk::make(kind).unwrap_or_else(|| panic!("cannot make {kind}"));
        let at = disk.path();
        for dir in ["lower", "upper", "work", "merged", "scratch"] {
            fs::create_dir(at.join(dir)).unwrap();
        }
        fs::write(at.join("lower/below"), b"below").unwrap();
        let path = at.display();
        let options = format!("lowerdir={path}/lower,upperdir={path}/upper,workdir={path}/work");
        let options = std::ffi::CString::new(options).unwrap();
        let merged = at.join("merged");
        mount("overlay", &merged, "overlay", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        Overlay { _mount: Mount(merged), disk }
    }

    /// A path as the container sees it.
    pub fn merged(&self, name: &str) -> PathBuf {
        self.disk.path().join("merged").join(name)
    }

    /// A path as the saver sees it.
    pub fn upper(&self, name: &str) -> PathBuf {
        self.disk.path().join("upper").join(name)
    }

    pub fn scratch(&self) -> PathBuf {
        self.disk.path().join("scratch")
    }
}

pub fn open_dir(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

/// A process that is killed and reaped.
pub struct Process(pub Child, Vec<PathBuf>);

impl From<Child> for Process {
    fn from(child: Child) -> Process {
        Process(child, Vec::new())
    }
}

impl Process {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// What it has computed so far, in clock ticks.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        // What is frozen does not even die, and a test may have failed in the middle of a pause.
        for group in &self.1 {
            thaw(group);
        }
        let _ = self.0.wait();
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Hierarchy {
    V1,
    V2,
}

/// Where groups can be made, if a group made there has a freezer.
fn group_root(hierarchy: Hierarchy) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let root = mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let right = match hierarchy {
            Hierarchy::V1 => back.starts_with("cgroup ") && back.ends_with("freezer"),
            Hierarchy::V2 => back.starts_with("cgroup2 "),
        };
        right.then(|| PathBuf::from(front.split(' ').nth(4).unwrap_or_default()))
    })?;
    let trial = root.join(format!("headstart-trial-{}", unique()));
    fs::create_dir(&trial).ok()?;
    let file = if hierarchy == Hierarchy::V1 { "freezer.state" } else { "cgroup.freeze" };
    let has_freezer = trial.join(file).exists();
    let _ = fs::remove_dir(&trial);
    has_freezer.then_some(root)
}

fn thaw(group: &Path) {
    for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if group.join(file).exists() {
            let _ = fs::write(group.join(file), word);
        }
    }
}

/// A control group that is thawed, emptied and removed.
pub struct Group {
    pub path: PathBuf,
    hierarchy: Hierarchy,
}

impl Group {
    pub fn make(hierarchy: Hierarchy) -> Group {
        let path = group_root(hierarchy).unwrap().join(format!("headstart-test-{}", unique()));
        fs::create_dir(&path).unwrap();
        Group { path, hierarchy }
    }

    pub fn below(&self, name: &str) -> Group {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap();
        Group { path, hierarchy: self.hierarchy }
    }

    pub fn add(&self, pid: i32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// A busy process in a mount namespace of its own, as a container is.
    pub fn container(&self) -> Process {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "while :; do :; done"]);
        let mut process = Process::from(command.stdin(Stdio::null()).spawn().unwrap());
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
        let comm = || fs::read_to_string(format!("/proc/{}/comm", process.pid())).unwrap();
        wait_for("the container starts", Duration::from_secs(10), || {
            namespace(&process.pid().to_string()) != namespace("self") && comm() == "sh\n"
        });
        self.add(process.pid());
        let is_ours = |path: &&Path| path.to_string_lossy().contains("headstart-test");
        process.1 = self.path.ancestors().take_while(is_ours).map(Path::to_owned).collect();
        process
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        thaw(&self.path);
        let since = Instant::now();
        while fs::remove_dir(&self.path).is_err() && since.elapsed() < Duration::from_secs(5) {
            for pid in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
