//! Why no trustworthy description of a source can be given, and what to do about it.

use std::path::PathBuf;

use linux::mountinfo::{Device, ReadError};
use linux::process::ProcessError;

/// What a caller does about an error; the command line turns it into an exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Something went wrong on the way.
    Failed,
    /// The request contradicts itself.
    Usage,
    /// What was named is not there.
    NotFound,
    /// It is there, and cannot be saved rightly from here.
    NotPossible,
}

/// The part that a directory plays in an overlay or a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The writable layer.
    Upper,
    /// A read-only layer.
    Lower,
    /// A layer that only gives data to metacopy files above it.
    Data,
    /// overlayfs's own directory beside the upper.
    Work,
    /// The tree to save.
    Tree,
    /// The tree to compare with.
    Against,
    /// A mount point.
    Mount,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Upper => "upper",
            Self::Lower => "lower",
            Self::Data => "data-only lower",
            Self::Work => "workdir",
            Self::Tree | Self::Against => "tree",
            Self::Mount => "mount",
        })
    }
}

/// See the module. Paths and names are shown quoted: a container may have chosen them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The process is not there, or cannot be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The mounts of our own namespace are not known.
    #[error("the mounts of this namespace are not known")]
    Mounts(#[source] ReadError),
    /// The process runs on the same root as we do: it is no container.
    #[error("process {pid} is in no container: its root is the root of this system")]
    OwnRoot {
        /// The process.
        pid: i32,
    },
    /// The root of the process is a directory within a mount, not the whole of it.
    #[error("the root of process {pid} is a directory inside a mount, not an overlay's own root")]
    NotRootOfMount {
        /// The process.
        pid: i32,
    },
    /// The path is no mount point, or only a part of the overlay is mounted there.
    #[error("{path:?} is not the mount point of a whole overlay")]
    NotMountPoint {
        /// As given.
        path: PathBuf,
    },
    /// The overlay does not stand in our mount namespace, so nobody we trust said what its paths mean.
    #[error("the overlay {device} of {path:?} was mounted in another mount namespace")]
    Foreign {
        /// What was named.
        path: PathBuf,
        /// The superblock.
        device: Device,
    },
    /// A file system that keeps no overlay upper.
    #[error("{path:?} is not an overlay but {fs_type:?}")]
    NotOverlay {
        /// What was named.
        path: PathBuf,
        /// Its type.
        fs_type: String,
    },
    /// fuse-overlayfs marks deletions in other ways than the kernel.
    #[error("{path:?} is a fuse-overlayfs mount, whose layers are not the kernel's")]
    FuseOverlayfs {
        /// What was named.
        path: PathBuf,
    },
    /// A sandbox that keeps what its user wrote in one opaque file.
    #[error("{path:?} belongs to gVisor, which keeps its files outside this overlay")]
    Gvisor {
        /// The file that shows it, or the process.
        path: PathBuf,
    },
    /// A virtual machine serves the root.
    #[error("the root of {path:?} comes from a virtual machine ({fs_type:?}), as Kata's does")]
    Kata {
        /// What was named.
        path: PathBuf,
        /// How it is served.
        fs_type: String,
    },
    /// A read-only overlay.
    #[error("the overlay at {path:?} has no upper: nothing can have changed")]
    NoUpper {
        /// What was named.
        path: PathBuf,
    },
    /// An overlay without a lower.
    #[error("the overlay at {path:?} names no lower")]
    NoLower {
        /// What was named.
        path: PathBuf,
    },
    /// With an index, names of a hard link that were not copied up show data that is only in the index.
    #[error("the overlay at {path:?} uses index=on, so its upper is not the whole change")]
    Index {
        /// What was named, or the index directory with entries.
        path: PathBuf,
    },
    /// `nfs_export=on` needs the index.
    #[error("the overlay at {path:?} uses nfs_export=on, so its upper is not the whole change")]
    NfsExport {
        /// What was named.
        path: PathBuf,
    },
    /// An option whose meaning for the layers is not known.
    #[error("the overlay has an option that is not known: {name:?}")]
    UnknownOption {
        /// Its name.
        name: String,
    },
    /// A known option with an unknown value.
    #[error("the overlay option {name} has a value that is not known: {value:?}")]
    OptionValue {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// An option that may stand once stands twice.
    #[error("the overlay option {name} stands twice")]
    RepeatedOption {
        /// Its name.
        name: &'static str,
    },
    /// A directory of an overlay is not where the mount says.
    #[error("{role} {path:?} cannot be opened")]
    Open {
        /// What it is for.
        role: Role,
        /// As named.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A path ends at something else than a directory.
    #[error("{role} {path:?} is not a directory")]
    NotDirectory {
        /// What it is for.
        role: Role,
        /// As named.
        path: PathBuf,
    },
    /// A path that must name the directory itself ends at a symlink.
    #[error("{role} {path:?} is a symlink")]
    Symlink {
        /// What it is for.
        role: Role,
        /// As named.
        path: PathBuf,
    },
    /// Two directories that must lie apart are one, or one lies in the other.
    #[error("{outer_role} {outer:?} contains {inner_role} {inner:?}")]
    Nested {
        /// What the outer one is for.
        outer_role: Role,
        /// The outer directory.
        outer: PathBuf,
        /// What the inner one is for.
        inner_role: Role,
        /// The inner directory.
        inner: PathBuf,
    },
    /// No directory was found that relative paths of the mount can mean.
    #[error("{role} {path:?} is relative, and nothing shows what to")]
    Unresolved {
        /// What it is for.
        role: Role,
        /// As the mount names it.
        path: PathBuf,
    },
    /// More than one directory fits relative paths of the mount.
    #[error("the relative lowers of the overlay fit {first:?} and {second:?}")]
    Ambiguous {
        /// One that fits.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// The directory does not show what the live mount shows.
    #[error("{role} {path:?} is not what the mount is made of")]
    Contradiction {
        /// What it is for.
        role: Role,
        /// The directory, or the entry in it that differs.
        path: PathBuf,
    },
    /// A file or directory could not be read.
    #[error("{path:?} cannot be read")]
    Read {
        /// The object.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The lowers are shown with other owners than they have on disk, and no map explains it.
    #[error("the overlay at {path:?} shows other owners than its lowers have, and no id map explains it")]
    IdMapUnknown {
        /// The overlay.
        path: PathBuf,
    },
    /// An id map that maps twice, or past the last id.
    #[error("the id range {container}:{host}:{size} overlaps another or leaves the range of ids")]
    IdRange {
        /// First id in the container.
        container: u32,
        /// First id on the host.
        host: u32,
        /// How many.
        size: u32,
    },
    /// The mount over the root that was listed is not there any more.
    #[error("the mount at {path:?} is gone or hidden")]
    MountGone {
        /// Its point, from the root of the container.
        path: PathBuf,
    },
}

impl SourceError {
    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        use std::io::ErrorKind as Io;
        match self {
            Self::Process(ProcessError::NotFound { .. } | ProcessError::Zombie { .. }) => ErrorKind::NotFound,
            Self::Process(ProcessError::Thread { .. }) | Self::Nested { .. } | Self::IdRange { .. } => {
                ErrorKind::Usage
            }
            Self::Process(ProcessError::Kernel { .. }) => ErrorKind::NotPossible,
            Self::Process(ProcessError::Io { source, .. }) if source.kind() == Io::PermissionDenied => {
                ErrorKind::NotPossible
            }
            Self::Process(_) | Self::Mounts(_) | Self::Read { .. } => ErrorKind::Failed,
            Self::Open { source, .. } => match source.kind() {
                Io::NotFound => ErrorKind::NotFound,
                Io::PermissionDenied => ErrorKind::NotPossible,
                _ => ErrorKind::Failed,
            },
            Self::NotDirectory { .. } | Self::Symlink { .. } => ErrorKind::Usage,
            Self::NotMountPoint { .. } | Self::MountGone { .. } => ErrorKind::NotFound,
            _ => ErrorKind::NotPossible,
        }
    }

    /// The next step, where there is one: a sentence that follows "try: ".
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        use std::io::ErrorKind as Io;
        Some(match self {
            Self::Process(ProcessError::Io { source, .. }) if source.kind() == Io::PermissionDenied => {
                "run as root, or within `podman unshare` for a container of rootless podman"
            }
            Self::OwnRoot { .. } => "name a process inside the container, or use --tree DIR --against DIR",
            Self::NotRootOfMount { .. } => "name a process whose root is the container's root",
            Self::NotMountPoint { .. } => "`findmnt -t overlay` lists the overlays of this namespace",
            Self::Foreign { .. } => {
                "run headstart in the namespace that mounted it (`nsenter -t PID -U -m`), or name the \
                 directories with --upper DIR --lower DIR"
            }
            Self::NotOverlay { .. } => "compare two trees: --tree DIR --against DIR",
            Self::FuseOverlayfs { .. } => {
                "use podman's native overlay (storage.conf: no mount_program), or --tree DIR --against DIR"
            }
            Self::Gvisor { .. } => "start it with runsc's --overlay2=none, or save `runsc tar rootfs-upper`",
            Self::Kata { .. } => "save inside the virtual machine",
            Self::Index { .. } => "mount it with index=off, and an empty workdir",
            Self::NfsExport { .. } => "mount it with nfs_export=off,index=off, and an empty workdir",
            Self::Unresolved { .. } | Self::Ambiguous { .. } | Self::Contradiction { .. } => {
                "name the directories with --upper DIR --lower DIR, the topmost lower first"
            }
            Self::Open { source, role: Role::Lower | Role::Upper, .. } if source.kind() == Io::NotFound => {
                "name the directories with --upper DIR --lower DIR, the topmost lower first"
            }
            Self::Open { source, .. } if source.kind() == Io::PermissionDenied => "run as root",
            Self::IdMapUnknown { .. } => "give the map with --uidmap and --gidmap CONTAINER:HOST:SIZE",
            _ => return None,
        })
    }
}
