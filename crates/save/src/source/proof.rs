//! Whether directories are what a live mount is made of.
//!
//! The paths of a mount are words: relative to a directory that only the mounter knew, or of a tree that
//! has changed since. Before a directory is believed it is compared with what the mount shows. overlayfs
//! hands through size, times and inode number of what it takes from a layer, and the change time, to the
//! nanosecond, of an inode can be set by nobody; a file that shows all of them through the mount is that
//! file.
//!
//! * **The upper** is proven by its root: the root of the mount shows the upper's own times.
//! * **A lower** is proven by any file of it that the mount shows, and contradicted by one that the mount
//!   should show and does not: no layer above has the name, or hides a directory on the way. A lower that
//!   is wholly hidden can be neither.
//!
//! All paths are resolved beneath the layers and the root of the mount, without symlinks and without
//! entering other mounts: what a container does meanwhile cannot lead out.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{OFlags, fgetxattr};
use rustix::io::Errno;

use super::dir::{Dir, Facts, names, open_beneath, read_error};
use super::error::{Role, SourceError};
use super::ids::Owners;
use super::options::XattrNamespace;

/// Names looked at in one lower before it counts as silent: enough for a lower whose first directories
/// are hidden, and a millisecond at most.
const NAMES_PER_LOWER: usize = 256;
/// Directories entered in one lower.
const DIRECTORIES_PER_LOWER: usize = 32;
/// Files that must agree before a lower is left.
const SAMPLES_PER_LOWER: usize = 2;
/// How often a root that changes while it is compared is compared again.
const ATTEMPTS: usize = 64;

/// A file of a lower that the mount shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Which lower, the topmost being 0.
    pub(super) lower: usize,
    /// Its owners.
    pub(super) owners: Owners,
}

/// Compares an upper with the root of a live mount.
///
/// # Errors
/// [`SourceError::Contradiction`] when the mount shows another directory; [`SourceError::Read`].
pub(super) fn upper(live: BorrowedFd<'_>, upper: &Dir) -> Result<Owners, SourceError> {
    for _ in 0..ATTEMPTS {
        let before = upper.facts()?;
        let shown = Facts::of(live).map_err(|e| read_error(&upper.path, e))?;
        if before.state() == shown.state() {
            return Ok(Owners { disk: before.owners, live: shown.owners });
        }
        // Something was made or removed in the root between the two calls: look again.
        if before.state() == upper.facts()?.state() {
            break;
        }
    }
    Err(SourceError::Contradiction { role: Role::Upper, path: upper.path.clone() })
}

/// Compares the lowers with a live mount. The result says which were proven; those that are missing in it
/// show nothing.
///
/// # Errors
/// [`SourceError::Contradiction`] when the mount should show a file and shows another, or none.
pub(super) fn lowers<'a>(
    live: BorrowedFd<'_>,
    upper: &Dir,
    lowers: &[Dir],
    which: impl Iterator<Item = usize> + 'a,
    xattrs: XattrNamespace,
) -> Result<Vec<Sample>, SourceError> {
    let mount = Facts::of(live).map_err(|e| read_error(&upper.path, e))?.mount;
    let mut samples = Vec::new();
    for index in which {
        let layers = Layers { live, mount, upper, lowers, index, xattrs };
        layers.walk(&mut samples)?;
    }
    Ok(samples)
}

/// One lower among the others.
struct Layers<'a> {
    live: BorrowedFd<'a>,
    mount: u64,
    upper: &'a Dir,
    lowers: &'a [Dir],
    index: usize,
    xattrs: XattrNamespace,
}

impl Layers<'_> {
    fn walk(&self, samples: &mut Vec<Sample>) -> Result<(), SourceError> {
        let lower = &self.lowers[self.index];
        let mut waiting = std::collections::VecDeque::from([Vec::<u8>::new()]);
        let mut budget = NAMES_PER_LOWER;
        let mut entered = 0;
        let wanted = samples.len() + SAMPLES_PER_LOWER;
        while let Some(directory) = waiting.pop_front() {
            if entered == DIRECTORIES_PER_LOWER || budget == 0 {
                break;
            }
            entered += 1;
            let open =
                |root: &Dir| open_beneath(root.fd.as_fd(), &directory, OFlags::RDONLY | OFlags::DIRECTORY);
            // A lower may have mounts within it, which overlayfs does not enter either.
            let Ok(fd) = open(lower) else { continue };
            let mut listed = Vec::new();
            names(fd.as_fd(), budget, |name| {
                listed.push(name.to_owned());
                true
            })
            .map_err(|e| read_error(&lower.path, e))?;
            budget -= listed.len();
            for name in listed {
                let Ok(facts) = Facts::at(fd.as_fd(), &name) else { continue };
                let mut path = directory.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name.to_bytes());
                if facts.is_dir() {
                    waiting.push_back(path);
                } else if let Some(sample) = self.compare(&path, &facts)? {
                    samples.push(sample);
                    if samples.len() == wanted {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares one name that is no directory.
    fn compare(&self, path: &[u8], facts: &Facts) -> Result<Option<Sample>, SourceError> {
        // A mark in the lower itself: a deletion, or what may be one in its other encoding.
        if facts.is_whiteout() || (facts.is_file() && facts.size == 0) {
            return Ok(None);
        }
        let shown = match open_beneath(self.live, path, OFlags::PATH) {
            Ok(fd) => Facts::of(fd.as_fd()).ok(),
            // Something is mounted over it, or over a directory above it.
            Err(Errno::XDEV) => return Ok(None),
            Err(_) => None,
        };
        if let Some(shown) = shown {
            if shown.mount != self.mount {
                return Ok(None);
            }
            if facts.shown_as(&shown) {
                let owners = Owners { disk: facts.owners, live: shown.owners };
                return Ok(Some(Sample { lower: self.index, owners }));
            }
        }
        if self.hidden(path) {
            return Ok(None);
        }
        let lower = &self.lowers[self.index].path;
        let path = lower.join(PathBuf::from(
            <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(path.to_vec()),
        ));
        Err(SourceError::Contradiction { role: Role::Lower, path })
    }

    /// Whether a layer above gives a reason not to show this path of the lower.
    fn hidden(&self, path: &[u8]) -> bool {
        std::iter::once(self.upper).chain(&self.lowers[..self.index]).any(|layer| {
            let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
            for end in ends.chain([path.len()]) {
                let fd = match open_beneath(layer.fd.as_fd(), &path[..end], OFlags::PATH) {
                    Ok(fd) => fd,
                    Err(Errno::NOENT) => return false,
                    // Whatever else is in the way hides what is below.
                    Err(_) => return true,
                };
                let Ok(facts) = Facts::of(fd.as_fd()) else { return true };
                if !facts.is_dir() || self.marked(layer, &path[..end]) {
                    return true;
                }
            }
            // A directory in the place of a file.
            true
        })
    }

    /// Whether a directory is opaque or renamed, so that the lowers' directory of its name is not merged.
    fn marked(&self, layer: &Dir, path: &[u8]) -> bool {
        let Ok(fd) = open_beneath(layer.fd.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return true;
        };
        ["opaque", "redirect"].into_iter().any(|mark| {
            let Ok(name) = CString::new(format!("{}{mark}", self.xattrs.prefix())) else { return true };
            !matches!(fgetxattr(&fd, &name, &mut [0u8; 1][..]), Err(Errno::NODATA | Errno::NOTSUP))
        })
    }
}
