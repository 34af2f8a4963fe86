//! From what a user names to a description of an overlay, or of two trees, that can be trusted.
//!
//! The root of a container is an overlay mount, and the mount says where its layers are. Whose words
//! these are decides everything (commit-semantics 2.3): any process can mount an overlay in a user
//! namespace of its own whose options name our files, and a save that believed them would publish them.
//!
//! # Shape
//! ```text
//! --pid ──► pinned process ──► its root ──► superblock ─┐ found again in OUR mount namespace,
//! --overlay MOUNTPOINT ───────────────────► superblock ─┘ or refused
//!                                              │ options, by key, from a closed list
//!                                              ▼
//! --upper/--lower ───────────────► directories, held open ──► compared with the live mount ──► Overlay
//! --tree/--against ──────────────► directories, held open ───────────────────────────────────► Trees
//! ```
//!
//! # Contract
//! * An option string is read only of an overlay that stands in our own mount namespace: somebody with
//!   our rights made that mount, and its paths are ours. An overlay of another namespace is refused,
//!   whatever its options say, before any path in them is opened.
//! * The upper is recognised through the mount (see `proof`); so are lowers with relative paths, which
//!   the mounter resolved from a directory that it alone knew. Nothing is guessed.
//! * What would make the upper an incomplete change is refused by name: an index, gVisor's file, a root
//!   that a virtual machine serves, fuse-overlayfs, options that are not known.
//! * [`Source::check`] must be called when the last byte was read: the process was the same all the time.
//!
//! # Errors
//! [`SourceError::kind`] says what a caller does about one, [`SourceError::hint`] what a user does.
//!
//! # Not here
//! Reading the layers is the business of [`layer`]; stopping the process, of the pause.

mod dir;
mod error;
mod ids;
mod options;
mod over;
mod overlay;
mod proof;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use layer::ids::IdMap;
use linux::mountinfo::{self, Mount};
use linux::process::{Cgroups, IdRange, NamespaceId};
use rustix::fs::{Mode, OFlags, open};

pub use dir::Dir;
pub use error::{ErrorKind, Role, SourceError};
pub use options::{
    Effective, ModuleDefaults, OverlayOptions, Redirect, Verity, XattrNamespace, Xino, parse_overlay_options,
    unescape_path,
};
pub use over::OverMount;
pub use overlay::Overlay;

use dir::Facts;
use ids::Maps;

/// What the user named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// The root of a process.
    Pid(i32),
    /// The overlay that is mounted here.
    Overlay(PathBuf),
    /// The directories of an overlay.
    Upper {
        /// The writable layer.
        upper: PathBuf,
        /// The read-only layers, topmost first.
        lower: Vec<PathBuf>,
    },
    /// A tree, and the one that it grew from.
    Trees {
        /// The changed tree.
        tree: PathBuf,
        /// What it is compared with.
        against: PathBuf,
    },
}

/// What the user knows better than we do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FindOptions {
    /// User ids: with these or `gidmap`, nothing is detected, and upper and lowers are mapped alike.
    pub uidmap: Vec<IdRange>,
    /// Group ids.
    pub gidmap: Vec<IdRange>,
    /// Whether the lowers hold ids of the image although a map is given: they were idmapped.
    pub lower_unmapped: bool,
    /// For [`Spec::Upper`]: the marks are in `user.overlay.*`.
    pub userxattr: bool,
    /// A file `.gvisor.filestore.*` at the top of the upper is an ordinary file: anyone inside the
    /// container can make one, and must not thereby keep its owner from saving.
    pub not_gvisor: bool,
}

impl FindOptions {
    fn ids(&self) -> Result<Option<Maps>, SourceError> {
        if self.uidmap.is_empty() && self.gidmap.is_empty() {
            return Ok(None);
        }
        let upper = ids::undo(&self.uidmap, &self.gidmap)?;
        let lower = if self.lower_unmapped { IdMap::default() } else { upper.clone() };
        Ok(Some(Maps { upper, lower, unproven: false }))
    }
}

/// Where a save reads from.
#[derive(Debug)]
pub struct Source {
    /// The directories.
    pub kind: SourceKind,
    /// The process, when one was named.
    pub process: Option<Process>,
    /// The root of the container or of the mount, without rights; mounts over it are opened through it.
    pub root: Option<OwnedFd>,
    /// What is mounted over the root, sorted by path.
    pub over: Vec<OverMount>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Two ways to know a change.
#[derive(Debug)]
pub enum SourceKind {
    /// The upper of an overlay is the change.
    Overlay(Overlay),
    /// The change is the difference of two trees.
    Trees {
        /// The changed tree.
        tree: Dir,
        /// What it is compared with.
        against: Dir,
    },
}

/// A process in the container that is saved.
#[derive(Debug)]
pub struct Process {
    /// The process itself, pinned.
    pub handle: linux::process::Process,
    /// Its mount namespace.
    pub mount_namespace: NamespaceId,
    /// Its user namespace.
    pub user_namespace: NamespaceId,
    /// User ids of its user namespace, as we see them.
    pub uid_map: Vec<IdRange>,
    /// Group ids of its user namespace, as we see them.
    pub gid_map: Vec<IdRange>,
    /// Where it can be frozen.
    pub cgroups: Cgroups,
}

/// Something that does not keep from saving.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The upper is empty. A runtime that serves its root from a virtual machine (Kata) leaves it so.
    EmptyUpper {
        /// The upper.
        path: PathBuf,
    },
    /// The container has an id map, and nothing shows how it lies over the layers: ids are saved as they
    /// are on disk.
    IdsUnproven,
    /// The named upper belongs to an overlay that is mounted: it may change while it is read.
    InUse {
        /// One of its mount points.
        point: PathBuf,
    },
    /// The live overlay of the named upper uses the other namespace of marks; its choice is taken.
    XattrNamespace {
        /// Whether it is `user.overlay.*`.
        userxattr: bool,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EmptyUpper { path } => write!(
                f,
                "the upper {path:?} is empty: nothing was written, or the runtime keeps its files elsewhere"
            ),
            Self::IdsUnproven => f.write_str(
                "the container maps ids, and nothing shows how its layers do: saved as on disk \
                 (--uidmap, --gidmap)",
            ),
            Self::InUse { point } => write!(f, "the upper is in use by the overlay at {point:?}"),
            Self::XattrNamespace { userxattr: true } => {
                f.write_str("the overlay of this upper is mounted with userxattr, which is taken over")
            }
            Self::XattrNamespace { userxattr: false } => {
                f.write_str("the overlay of this upper is mounted without userxattr, which is taken over")
            }
        }
    }
}

impl Source {
    /// Whether the process has been the same, and alive, until now.
    ///
    /// # Errors
    /// [`SourceError::Process`] when it ended.
    pub fn check(&self) -> Result<(), SourceError> {
        Ok(self.process.as_ref().map_or(Ok(()), |process| process.handle.check())?)
    }

    /// Opens what is mounted over the root at one of [`Source::over`].
    ///
    /// # Errors
    /// See [`OverMount::open`].
    pub fn open_over(&self, mount: &OverMount) -> Result<OwnedFd, SourceError> {
        match &self.root {
            Some(root) => mount.open(root.as_fd()),
            None => Err(SourceError::MountGone { path: overlay::to_path(mount.path.clone()) }),
        }
    }
}

/// Finds what the user named.
///
/// # Errors
/// See the module.
pub fn find(spec: &Spec, options: &FindOptions) -> Result<Source, SourceError> {
    match spec {
        Spec::Pid(pid) => find_process(*pid, options),
        Spec::Overlay(point) => find_mount(point, options),
        Spec::Upper { upper, lower } => {
            let mut warnings = Vec::new();
            let overlay = overlay::from_directories(upper, lower, &own_mounts()?, options, &mut warnings)?;
            let kind = SourceKind::Overlay(overlay);
            Ok(Source { kind, process: None, root: None, over: Vec::new(), warnings })
        }
        Spec::Trees { tree, against } => {
            let tree = Dir::open(tree, Role::Tree, true)?;
            let against = Dir::open(against, Role::Against, true)?;
            dir::apart((&tree, Role::Tree), (&against, Role::Against))?;
            let kind = SourceKind::Trees { tree, against };
            Ok(Source { kind, process: None, root: None, over: Vec::new(), warnings: Vec::new() })
        }
    }
}

fn own_mounts() -> Result<Vec<Mount>, SourceError> {
    mountinfo::own().map_err(SourceError::Mounts)
}

fn find_process(pid: i32, options: &FindOptions) -> Result<Source, SourceError> {
    let handle = linux::process::Process::open(pid)?;
    let shown = PathBuf::from(format!("/proc/{pid}/root"));
    // The open root keeps its superblock, and thereby its device number, from being given away.
    let root = handle.open_root()?;
    let facts = Facts::of(root.as_fd()).map_err(|e| dir::read_error(&shown, e))?;
    let own_root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|fd| Facts::of(fd.as_fd()))
        .map_err(|e| dir::read_error(Path::new("/"), e))?;
    // In whichever mount namespace: a container never shares its root directory with the host.
    if facts.identity() == own_root.identity() {
        return Err(SourceError::OwnRoot { pid });
    }
    let theirs = handle.mounts()?;
    let their_root = theirs.iter().find(|mount| mount.id == facts.mount);
    // Where the root is no overlay it matters what it is; where it is one, that it is all of it.
    if let Some(mount) = their_root {
        match judge_type(mount, &shown) {
            // gVisor's sandbox runs on a root of its own that is none of its container's. The name can be
            // chosen by anyone, but only chooses between two refusals.
            Err(SourceError::NotOverlay { .. }) if handle.command()?.starts_with(b"runsc") => {
                return Err(SourceError::Gvisor { path: shown });
            }
            judged => judged?,
        }
    }
    let their_root = their_root.filter(|mount| facts.mount_root && mount.root == b"/");
    let Some(their_root) = their_root else { return Err(SourceError::NotRootOfMount { pid }) };

    let process = Process {
        mount_namespace: handle.mount_namespace()?,
        user_namespace: handle.user_namespace()?,
        uid_map: handle.uid_map()?,
        gid_map: handle.gid_map()?,
        cgroups: handle.cgroups()?,
        handle,
    };
    let container_ids = ids::undo(&process.uid_map, &process.gid_map)?;
    let mounts = own_mounts()?;
    let ours = trusted(&mounts, their_root, &shown)?;
    let live = overlay::readable(root.as_fd(), &shown)?;
    let mut warnings = Vec::new();
    let overlay =
        overlay::from_mount(ours, &mounts, live.as_fd(), &shown, &container_ids, options, &mut warnings)?;
    let source = Source {
        kind: SourceKind::Overlay(overlay),
        over: over::list(&theirs, b"/"),
        process: Some(process),
        root: Some(root),
        warnings,
    };
    source.check()?;
    Ok(source)
}

fn find_mount(point: &Path, options: &FindOptions) -> Result<Source, SourceError> {
    let not_a_point = || SourceError::NotMountPoint { path: point.to_owned() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(point, flags, Mode::empty()).map_err(|e| SourceError::Open {
        role: Role::Mount,
        path: point.to_owned(),
        source: e.into(),
    })?;
    let facts = Facts::of(root.as_fd()).map_err(|e| dir::read_error(point, e))?;
    if !facts.mount_root {
        return Err(not_a_point());
    }
    let mounts = own_mounts()?;
    let Some(mount) = mounts.iter().find(|mount| mount.id == facts.mount) else {
        // The path leads through `/proc/PID/root` into another namespace.
        return Err(SourceError::Foreign { path: point.to_owned(), device: facts.device });
    };
    judge_type(mount, point)?;
    if mount.root != b"/" {
        return Err(not_a_point());
    }
    let live = overlay::readable(root.as_fd(), point)?;
    let mut warnings = Vec::new();
    let identity = IdMap::default();
    let overlay =
        overlay::from_mount(mount, &mounts, live.as_fd(), point, &identity, options, &mut warnings)?;
    Ok(Source {
        kind: SourceKind::Overlay(overlay),
        process: None,
        over: over::list(&mounts, &mount.point),
        root: Some(root),
        warnings,
    })
}

/// The overlay of our own namespace that is the same superblock: only its words are believed.
fn trusted<'a>(mounts: &'a [Mount], theirs: &Mount, shown: &Path) -> Result<&'a Mount, SourceError> {
    mounts
        .iter()
        .find(|mount| mount.device == theirs.device && mount.fs_type == b"overlay")
        .ok_or_else(|| SourceError::Foreign { path: shown.to_owned(), device: theirs.device })
}

/// Refuses what is no overlay of the kernel, with the name of what it is.
fn judge_type(mount: &Mount, shown: &Path) -> Result<(), SourceError> {
    let path = shown.to_owned();
    let fs_type = String::from_utf8_lossy(&mount.fs_type).into_owned();
    match &mount.fs_type[..] {
        b"overlay" => Ok(()),
        b"fuse.fuse-overlayfs" | b"fuse3.fuse-overlayfs" => Err(SourceError::FuseOverlayfs { path }),
        b"9p" | b"virtiofs" => Err(SourceError::Kata { path, fs_type }),
        // A FUSE server without a subtype calls itself only in the source.
        b"fuse" if mount.source.ends_with(b"fuse-overlayfs") => Err(SourceError::FuseOverlayfs { path }),
        _ => Err(SourceError::NotOverlay { path, fs_type }),
    }
}
