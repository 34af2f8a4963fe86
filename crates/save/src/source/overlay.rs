//! An overlay whose directories can be trusted: opened, compared with the live mount, and free of what
//! would make its upper an incomplete change.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use layer::ids::IdMap;
use linux::mountinfo::{Device, Mount};
use rustix::fs::OFlags;

use super::dir::{Dir, apart, names, open_beneath, read_error};
use super::error::{Role, SourceError};
use super::ids::{Maps, detect};
use super::options::{
    Effective, ModuleDefaults, OverlayOptions, Redirect, Verity, XattrNamespace, Xino, parse_overlay_options,
    unescape_path,
};
use super::proof::{self, Sample};
use super::{FindOptions, Warning};

/// The layers of an overlay, and how the kernel reads them.
#[derive(Debug)]
pub struct Overlay {
    /// The writable layer: the change.
    pub upper: Dir,
    /// The read-only layers that are merged, topmost first; never empty.
    pub lowers: Vec<Dir>,
    /// Layers that only give data to metacopy files of the lowers, topmost first.
    pub data_lowers: Vec<Dir>,
    /// overlayfs's own directory, as named; `None` when only the directories were named.
    pub work: Option<PathBuf>,
    /// Where the marks are; those of the other namespace are user data.
    pub xattr_ns: XattrNamespace,
    /// Whether renamed directories leave a mark, and it is followed.
    pub redirect: Redirect,
    /// Whether files of the upper may have only metadata.
    pub metacopy: bool,
    /// Whether inode numbers through the mount carry their file system.
    pub xino: Xino,
    /// Whether metacopy files pin digests.
    pub verity: Verity,
    /// Whether the mount leaves out syncs: its upper is lost with the power.
    pub volatile: bool,
    /// From ids in the upper to ids of the image.
    pub ids: IdMap,
    /// From ids in the lowers to ids of the image.
    pub lower_ids: IdMap,
}

/// How many lowers of a mount with absolute paths are compared with it: such paths are wrong only when
/// the tree changed after the mount, and a save must not cost more for an image of many layers.
const SPOT_CHECKS: usize = 8;

/// Builds the description from an overlay in our own mount namespace.
///
/// `live` is the root of the overlay, of the container or at its mount point; `mounts` are ours.
pub(super) fn from_mount(
    mount: &Mount,
    mounts: &[Mount],
    live: BorrowedFd<'_>,
    shown: &Path,
    container_ids: &IdMap,
    options: &FindOptions,
    warnings: &mut Vec<Warning>,
) -> Result<Overlay, SourceError> {
    let words = parse_overlay_options(&mount.super_options)?;
    let effective = words.effective(ModuleDefaults::read());
    if words.upper.is_none() {
        return Err(SourceError::NoUpper { path: shown.to_owned() });
    }
    if words.lowers.is_empty() {
        return Err(SourceError::NoLower { path: shown.to_owned() });
    }
    refuse_index(&effective, shown)?;
    let found = resolve(&words, mount, mounts, live, effective.xattr_namespace)?;
    if let Some(work) = &found.work {
        refuse_index_entries(work)?;
    }
    refuse_gvisor(&found.upper, options)?;
    let idmapped =
        !container_ids.is_identity() || found.samples.iter().any(|s| s.owners.disk != s.owners.live);
    // What decides about ids must not rest on a few of many lowers.
    let samples = if idmapped && !found.all_compared {
        let which = 0..found.lowers.len();
        proof::lowers(live, &found.upper, &found.lowers, which, effective.xattr_namespace)?
    } else {
        found.samples
    };
    let maps = match options.ids()? {
        Some(maps) => maps,
        None => detect(container_ids, found.upper_owners, &samples)
            .map_err(|()| SourceError::IdMapUnknown { path: shown.to_owned() })?,
    };
    if maps.unproven {
        warnings.push(Warning::IdsUnproven);
    }
    if is_empty(&found.upper)? {
        warnings.push(Warning::EmptyUpper { path: found.upper.path.clone() });
    }
    Ok(Overlay::new(found.upper, found.lowers, found.data_lowers, found.work, &effective, maps))
}

/// Builds the description from directories that the user named.
pub(super) fn from_directories(
    upper: &Path,
    lowers: &[PathBuf],
    mounts: &[Mount],
    options: &FindOptions,
    warnings: &mut Vec<Warning>,
) -> Result<Overlay, SourceError> {
    let upper = Dir::open(upper, Role::Upper, false)?;
    if lowers.is_empty() {
        return Err(SourceError::NoLower { path: upper.path });
    }
    let lowers =
        lowers.iter().map(|path| Dir::open(path, Role::Lower, false)).collect::<Result<Vec<_>, _>>()?;
    for (index, lower) in lowers.iter().enumerate() {
        apart((&upper, Role::Upper), (lower, Role::Lower))?;
        for other in &lowers[..index] {
            if lower.facts()?.identity() == other.facts()?.identity() {
                return Err(SourceError::Nested {
                    outer_role: Role::Lower,
                    outer: lower.path.clone(),
                    inner_role: Role::Lower,
                    inner: other.path.clone(),
                });
            }
        }
    }
    refuse_gvisor(&upper, options)?;
    let mut words = OverlayOptions { userxattr: options.userxattr, ..OverlayOptions::default() };
    let mut work = None;
    // A live mount of this upper knows better than the module how it is used.
    if let Some((mount, live)) = live_mount_of(&upper, mounts) {
        refuse_index(&live.effective(ModuleDefaults::read()), &upper.path)?;
        if live.userxattr != options.userxattr {
            warnings.push(Warning::XattrNamespace { userxattr: live.userxattr });
        }
        work =
            live.work.as_deref().map(|path| to_path(unescape_path(path))).filter(|path| path.is_absolute());
        warnings.push(Warning::InUse { point: to_path(mount.point.clone()) });
        words = live;
    }
    if let Some(work) = &work {
        refuse_index_entries(work)?;
    }
    let maps = options.ids()?.unwrap_or_default();
    // Nobody says that redirects and metacopy were off: they are looked for.
    let mut effective = words.effective(ModuleDefaults::read());
    effective.metacopy = true;
    if effective.redirect == Redirect::NoFollow {
        effective.redirect = Redirect::Follow;
    }
    Ok(Overlay::new(upper, lowers, Vec::new(), work, &effective, maps))
}

impl Overlay {
    fn new(
        upper: Dir,
        lowers: Vec<Dir>,
        data_lowers: Vec<Dir>,
        work: Option<PathBuf>,
        effective: &Effective,
        maps: Maps,
    ) -> Self {
        Self {
            upper,
            lowers,
            data_lowers,
            work,
            xattr_ns: effective.xattr_namespace,
            redirect: effective.redirect,
            metacopy: effective.metacopy,
            xino: effective.xino,
            verity: effective.verity,
            volatile: effective.volatile,
            ids: maps.upper,
            lower_ids: maps.lower,
        }
    }
}

/// The directories of a mount, compared with it.
struct Found {
    upper: Dir,
    upper_owners: super::ids::Owners,
    lowers: Vec<Dir>,
    data_lowers: Vec<Dir>,
    work: Option<PathBuf>,
    samples: Vec<Sample>,
    all_compared: bool,
}

fn resolve(
    words: &OverlayOptions,
    mount: &Mount,
    mounts: &[Mount],
    live: BorrowedFd<'_>,
    xattrs: XattrNamespace,
) -> Result<Found, SourceError> {
    let named = words.lowers.iter().chain(&words.data_lowers).chain(&words.upper);
    let Some(relative) = named.clone().find(|path| !path.starts_with(b"/")) else {
        return open_all(words, Path::new("/"), live, xattrs, false);
    };
    // What the mounter's working directory can have been: containerd's and docker's own directory, which
    // contains the layers and the mount points.
    let mut bases = BTreeSet::new();
    let points = mounts.iter().filter(|other| other.device == mount.device).map(|other| &other.point);
    for path in named.chain(&words.work).filter(|path| path.starts_with(b"/")).chain(points) {
        bases.extend(to_path(path.clone()).ancestors().map(Path::to_owned));
    }
    let mut fitting: Vec<(PathBuf, Found)> = Vec::new();
    let mut contradiction = None;
    for base in bases {
        match open_all(words, &base, live, xattrs, true) {
            Ok(found) if proves(words, &found) => {
                let same = |other: &Found| identities(other).ok() == identities(&found).ok();
                match fitting.first() {
                    // Two ways to write one directory.
                    Some((_, other)) if same(other) => {}
                    Some((first, _)) => {
                        return Err(SourceError::Ambiguous { first: first.clone(), second: base });
                    }
                    None => fitting.push((base, found)),
                }
            }
            // Nothing is there, or nothing shows that it is the right one.
            Ok(_) | Err(SourceError::Open { .. } | SourceError::NotDirectory { .. }) => {}
            Err(error) => contradiction = Some(error),
        }
    }
    match fitting.pop() {
        Some((_, found)) => Ok(found),
        None => Err(contradiction.unwrap_or_else(|| {
            let role = if words.upper.as_ref() == Some(relative) { Role::Upper } else { Role::Lower };
            SourceError::Unresolved { role, path: to_path(relative.clone()) }
        })),
    }
}

fn identities(found: &Found) -> Result<Vec<(Device, u64)>, SourceError> {
    std::iter::once(&found.upper)
        .chain(&found.lowers)
        .chain(&found.data_lowers)
        .map(|dir| Ok(dir.facts()?.identity()))
        .collect()
}

/// Whether something that was named relatively was recognised. The upper always is; of lowers, one
/// suffices: all of them are relative to the same directory, and none may contradict.
fn proves(words: &OverlayOptions, found: &Found) -> bool {
    let relative = |path: &Vec<u8>| !path.starts_with(b"/");
    words.upper.as_ref().is_some_and(relative)
        || found.samples.iter().any(|sample| words.lowers.get(sample.lower).is_some_and(relative))
}

fn open_all(
    words: &OverlayOptions,
    base: &Path,
    live: BorrowedFd<'_>,
    xattrs: XattrNamespace,
    thorough: bool,
) -> Result<Found, SourceError> {
    let open = |path: &Vec<u8>, role| Dir::open(&base.join(to_path(path.clone())), role, true);
    let given = words.upper.clone().unwrap_or_default();
    // An upper that was given as a descriptor is shown without escapes: a backslash in it means itself.
    let plain = unescape_path(&given);
    let opened = open(&plain, Role::Upper).and_then(|dir| Ok((proof::upper(live, &dir)?, dir)));
    let (upper_owners, upper) = match opened {
        Err(_) if plain != given => {
            open(&given, Role::Upper).and_then(|dir| Ok((proof::upper(live, &dir)?, dir)))?
        }
        other => other?,
    };
    let open_list =
        |list: &[Vec<u8>], role| list.iter().map(|path| open(path, role)).collect::<Result<Vec<_>, _>>();
    let lowers = open_list(&words.lowers, Role::Lower)?;
    let data_lowers = open_list(&words.data_lowers, Role::Data)?;
    let all_compared = thorough || lowers.len() <= SPOT_CHECKS;
    let step = if all_compared { 1 } else { lowers.len().div_ceil(SPOT_CHECKS) };
    let samples = proof::lowers(live, &upper, &lowers, (0..lowers.len()).step_by(step), xattrs)?;
    let work = words
        .work
        .as_ref()
        .map(|path| [base.join(to_path(unescape_path(path))), base.join(to_path(path.clone()))])
        .map(|[plain, given]| if plain.is_dir() { plain } else { given });
    Ok(Found { upper, upper_owners, lowers, data_lowers, work, samples, all_compared })
}

fn refuse_index(effective: &Effective, shown: &Path) -> Result<(), SourceError> {
    if effective.nfs_export {
        return Err(SourceError::NfsExport { path: shown.to_owned() });
    }
    if effective.index {
        return Err(SourceError::Index { path: shown.to_owned() });
    }
    Ok(())
}

/// Refuses a workdir whose index has entries: an earlier mount used it.
fn refuse_index_entries(work: &Path) -> Result<(), SourceError> {
    let path = work.join("index");
    match std::fs::read_dir(&path).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(SourceError::Index { path }),
        Ok(false) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SourceError::Read { path, source }),
    }
}

/// The file in which gVisor's root overlay keeps everything that its user writes.
const GVISOR_FILE: &[u8] = b".gvisor.filestore.";

fn refuse_gvisor(upper: &Dir, options: &FindOptions) -> Result<(), SourceError> {
    if options.not_gvisor {
        return Ok(());
    }
    let mut mark = None;
    names(upper.fd.as_fd(), usize::MAX, |name| {
        if name.to_bytes().starts_with(GVISOR_FILE) {
            mark = Some(upper.path.join(to_path(name.to_bytes().to_vec())));
        }
        mark.is_none()
    })
    .map_err(|e| read_error(&upper.path, e))?;
    mark.map_or(Ok(()), |path| Err(SourceError::Gvisor { path }))
}

fn is_empty(dir: &Dir) -> Result<bool, SourceError> {
    let mut empty = true;
    names(dir.fd.as_fd(), 1, |_| {
        empty = false;
        false
    })
    .map_err(|e| read_error(&dir.path, e))?;
    Ok(empty)
}

/// The overlay of our namespace that has this directory as its upper.
fn live_mount_of<'a>(upper: &Dir, mounts: &'a [Mount]) -> Option<(&'a Mount, OverlayOptions)> {
    let wanted = upper.facts().ok()?.identity();
    mounts.iter().filter(|mount| mount.fs_type == b"overlay").find_map(|mount| {
        let words = parse_overlay_options(&mount.super_options).ok()?;
        let given = words.upper.clone()?;
        let is_it = |path: Vec<u8>| {
            path.starts_with(b"/")
                && Dir::open(&to_path(path), Role::Upper, true)
                    .and_then(|dir| dir.facts())
                    .is_ok_and(|facts| facts.identity() == wanted)
        };
        (is_it(unescape_path(&given)) || is_it(given)).then_some((mount, words))
    })
}

pub(super) fn to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Reopens the root of a mount for reading.
pub(super) fn readable(root: BorrowedFd<'_>, path: &Path) -> Result<std::os::fd::OwnedFd, SourceError> {
    open_beneath(root, b"", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| read_error(path, e))
}
