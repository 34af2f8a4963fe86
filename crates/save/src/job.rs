//! One save, from its source to the plan of a layer.
//!
//! A [`Job`] holds what stays the same during a save: the opened directories, what belongs to it, and how
//! it is written. [`crate::commit`] drives it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use layer::entry::{PathBytes, is_below};
use layer::ids::IdMap;
use layer::judge::{Decisions, Sides, judge};
use layer::lowers::Lowers;
use layer::node::{How, Node, Semantics};
use layer::plan::{LeftOut, Plan, PlanWriter, Step};
use layer::scan::{Graft, Opener, Scan, Select};
use layer::spool::SpillDir;
use layer::table::{Content, ContentHash, Table, TableError};
use registry::{Image, Store};

use crate::capture::Scratch;
use crate::chain::{self, Chain};
use crate::clean::Ground;
use crate::error::SaveError;
use crate::held::Captures;
use crate::knowledge::{Cursor, Learned};
use crate::read::{Phase, Reading};
use crate::request::{MountReport, Progress, Request};
use crate::select::Selector;
use crate::source::{self, Source, SourceKind, XattrNamespace};
use crate::walk::{Collector, DirId, Directories, Trust, Walked};
use crate::watch::Watch;

/// Captured bytes that may stay in memory.
const CAPTURE_MEMORY: u64 = 64 << 20;

/// What stays the same during a save.
pub(crate) struct Job<'a> {
    pub(crate) store: &'a Store,
    pub(crate) request: &'a Request,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a AtomicBool,
    pub(crate) source: Source,
    pub(crate) base: Option<Image>,
    pub(crate) chain_key: String,
    pub(crate) spill: SpillDir,
    pub(crate) ground: Ground,
    pub(crate) warnings: Vec<String>,
    pub(crate) mounts: Vec<MountReport>,
    pub(crate) grafts: Vec<Graft>,
    lowers: Lowers,
    upper_ids: IdMap,
    lower_ids: IdMap,
    how: How,
    selector: Selector,
}

/// What was decided beside the steps.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    pub(crate) left_out: Vec<(PathBytes, LeftOut)>,
    pub(crate) sockets: u64,
    /// By layer: files and bytes that are newly buried.
    pub(crate) buried: Vec<(u64, u64)>,
}

struct Deciding<'a> {
    plan: PlanWriter,
    decided: &'a mut Decided,
}

impl Decisions for Deciding<'_> {
    fn step(&mut self, step: Step) -> std::io::Result<()> {
        self.plan.push(&step)
    }

    fn left_out(&mut self, path: &[u8], why: LeftOut) {
        match why {
            LeftOut::Socket => self.decided.sockets += 1,
            why => self.decided.left_out.push((path.to_vec(), why)),
        }
    }

    fn buried(&mut self, layer: usize, bytes: u64) {
        if self.decided.buried.len() <= layer {
            self.decided.buried.resize(layer + 1, (0, 0));
        }
        self.decided.buried[layer].0 += 1;
        self.decided.buried[layer].1 += bytes;
    }
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        store: &'a Store,
        request: &'a Request,
        progress: &'a dyn Progress,
        cancel: &'a AtomicBool,
    ) -> Result<Job<'a>, SaveError> {
        let source = source::find(&request.source, &request.find)?;
        let mut warnings: Vec<String> = source.warnings.iter().map(ToString::to_string).collect();
        let policy = request.xattrs;
        let clone = |fd: &OwnedFd| fd.try_clone().map_err(SaveError::Scratch);
        let (lowers, upper_ids, lower_ids, how) = match &source.kind {
            SourceKind::Overlay(overlay) => {
                let semantics = match overlay.xattr_ns {
                    XattrNamespace::Trusted => Semantics::Trusted,
                    XattrNamespace::User => Semantics::User,
                };
                let how = How { semantics, policy, is_upper: true };
                let dirs =
                    |dirs: &[source::Dir]| dirs.iter().map(|dir| clone(&dir.fd)).collect::<Result<_, _>>();
                let lower_how = How { is_upper: false, ..how };
                let lowers = Lowers::new(dirs(&overlay.lowers)?, dirs(&overlay.data_lowers)?, lower_how);
                (lowers, overlay.ids.clone(), overlay.lower_ids.clone(), how)
            }
            SourceKind::Trees { against, .. } => {
                warnings.push("two trees are compared file by file: this is the slow path".to_owned());
                let how = How { semantics: Semantics::Plain, policy, is_upper: false };
                let lowers = Lowers::new(vec![clone(&against.fd)?], Vec::new(), how);
                (lowers, IdMap::default(), IdMap::default(), how)
            }
        };
        let base = find_base(store, request, &source, &mut warnings)?;
        let upper = upper_fd(&source);
        let lower_fds = match &source.kind {
            SourceKind::Overlay(overlay) => chain::borrowed(overlay.lowers.iter().map(|dir| &dir.fd)),
            SourceKind::Trees { against, .. } => vec![against.fd.as_fd()],
        };
        let ids = format!("{upper_ids:?} {lower_ids:?}");
        let base_digest = base.as_ref().map(Image::digest);
        let chain_key = chain::key(upper, &lower_fds, &ids, base_digest.as_ref(), request)?;
        let ground = Ground::of(upper)?;
        let selector = Selector::new(&request.selection)?;
        let spill = SpillDir::new(&store.root().join("state"));
        let (mounts, grafts) = (Vec::new(), Vec::new());
        let mut job = Job {
            store,
            request,
            progress,
            cancel,
            source,
            base,
            chain_key,
            spill,
            ground,
            warnings,
            mounts,
            grafts,
            lowers,
            upper_ids,
            lower_ids,
            how,
            selector,
        };
        job.graft_mounts()?;
        job.warn_of_root()?;
        Ok(job)
    }

    pub(crate) fn upper(&self) -> BorrowedFd<'_> {
        upper_fd(&self.source)
    }

    /// The tree that is compared with, where two trees are.
    pub(crate) fn against(&self) -> Option<BorrowedFd<'_>> {
        match &self.source.kind {
            SourceKind::Trees { against, .. } => Some(against.fd.as_fd()),
            SourceKind::Overlay(_) => None,
        }
    }

    fn sides<'s>(
        &'s self,
        elsewhere: &'s HashMap<ContentHash, (usize, Content)>,
        select: &'s dyn Fn(&[u8], bool) -> Select,
    ) -> Sides<'s> {
        Sides {
            lowers: &self.lowers,
            upper_ids: &self.upper_ids,
            lower_ids: &self.lower_ids,
            times: self.request.times,
            upper_is_whole: matches!(self.source.kind, SourceKind::Trees { .. }),
            select,
            elsewhere,
        }
    }

    /// Takes in the mounts that were asked for, and lists the others.
    fn graft_mounts(&mut self) -> Result<(), SaveError> {
        let name = |path: &Path| {
            let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
            let start = bytes.iter().take_while(|&&byte| byte == b'/').count();
            bytes[start..].strip_suffix(b"/").unwrap_or(&bytes[start..]).to_vec()
        };
        for path in &self.request.include_mounts {
            let wanted = name(path);
            let Some(mount) = self.source.over.iter().rev().find(|mount| mount.path == wanted) else {
                return Err(SaveError::NoSuchMount { path: path.clone() });
            };
            let root = self.source.open_over(mount)?;
            if !File::from(root.try_clone()?).metadata()?.is_dir() {
                return Err(SaveError::FileMount { path: path.clone() });
            }
            let above = self.above(&wanted)?;
            self.grafts.push(Graft { path: wanted, root, above });
        }
        for mount in self.source.over.iter().filter(|mount| !mount.by_runtime) {
            if !self.grafts.iter().any(|graft| graft.path == mount.path) {
                let fs_type = String::from_utf8_lossy(&mount.fs_type).into_owned();
                self.mounts.push(MountReport { path: mount.path.clone(), fs_type });
            }
        }
        Ok(())
    }

    /// The directories above a mount as the container sees them.
    fn above(&self, path: &[u8]) -> Result<Vec<Node>, SaveError> {
        let Some(root) = &self.source.root else { return Ok(Vec::new()) };
        let how = How { semantics: Semantics::Plain, policy: self.request.xattrs, is_upper: false };
        let mut above = Vec::new();
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends {
            use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let dir =
                openat2(root, &path[..end], flags, Mode::empty(), resolve).map_err(std::io::Error::from)?;
            above.extend(Node::read(dir.as_fd(), b"", path[..end].to_vec(), how, false)?);
        }
        Ok(above)
    }

    /// A layer has no entry for the root itself.
    fn warn_of_root(&mut self) -> Result<(), SaveError> {
        if !matches!(self.source.kind, SourceKind::Overlay(_)) {
            return Ok(());
        }
        let upper = Node::read(self.upper(), b"", Vec::new(), self.how, false)?;
        if let (Some(upper), Some(lower)) = (upper, self.lowers.root_node()?) {
            let (upper, lower) = (upper.meta(&self.upper_ids)?, lower.meta(&self.lower_ids)?);
            if (upper.mode, upper.uid, upper.gid) != (lower.mode, lower.uid, lower.gid) {
                self.warnings.push("owner or mode of / itself changed, which a layer cannot say".to_owned());
            }
        }
        Ok(())
    }

    /// Walks the upper. `cursor` tells what is known, `captures` what to do with what is not.
    pub(crate) fn walk(
        &self,
        cursor: Option<Cursor<'_>>,
        trust: Trust,
        watch: Option<(&mut Watch, &mut Directories)>,
        captures: Option<&mut Captures>,
    ) -> Result<Walked, SaveError> {
        let is_paused = captures.is_some();
        // what is mounted over the root may be served by somebody who stands still
        let grafts = if is_paused { &[] } else { &self.grafts[..] };
        let select = |path: &[u8], is_dir: bool| self.selector.select(path, is_dir);
        let scan = Scan { how: self.how, select: &select, grafts, spill: &self.spill };
        let walked = Walked::new(&self.spill);
        let mut collector = Collector { walked, cursor, trust, watch, captures, cancel: self.cancel };
        scan.walk(self.upper(), &mut collector)?;
        Ok(collector.walked)
    }

    /// Looks again at the names that were touched since a walk, and at what is below those that are new.
    /// Returns the walk of them alone, and the roots that were walked anew.
    ///
    /// `None` when one of the names is gone: it may have been another name of a file that was written
    /// through it and has no event of its own. Then everything must be looked at.
    pub(crate) fn look_again(
        &self,
        touched: &std::collections::BTreeSet<PathBytes>,
        directories: &Directories,
        captures: &mut Captures,
        cursor: Option<Cursor<'_>>,
    ) -> Result<Option<(Walked, HashSet<PathBytes>)>, SaveError> {
        let mut sorted: Vec<&PathBytes> = touched.iter().collect();
        sorted.sort_by(|a, b| layer::entry::path_order(a, b));
        let mut replaced: Option<&PathBytes> = None;
        let mut all_replaced = HashSet::new();
        let select = |path: &[u8], is_dir: bool| self.selector.select_alone(path, is_dir);
        let scan = Scan { how: self.how, select: &select, grafts: &[], spill: &self.spill };
        let walked = Walked::new(&self.spill);
        let mut collector = Collector {
            walked,
            cursor,
            trust: Trust::ThisSave,
            watch: None,
            captures: Some(captures),
            cancel: self.cancel,
        };
        for path in sorted {
            if replaced.is_some_and(|root| path == root || is_below(path, root)) {
                continue;
            }
            let known = directories.get(path).map(|&(_, known)| known);
            let is_known = |dir: BorrowedFd<'_>| known.is_some() && DirId::of(dir).ok() == known;
            let names = collector.walked.totals.names;
            if scan.walk_one(self.upper(), path, &is_known, &mut collector)? {
                let is_gone = collector.walked.totals.names == names;
                if is_gone && self.selector.select_alone(path, false) == Select::Take {
                    return Ok(None);
                }
                all_replaced.insert(path.clone());
                replaced = Some(path);
            }
        }
        Ok(Some((collector.walked, all_replaced)))
    }

    /// Where files are kept that are captured in the pause.
    pub(crate) fn captures(&self) -> Result<Captures, SaveError> {
        let scratch = Scratch::new(self.beside_upper(), self.spill.file()?, CAPTURE_MEMORY);
        Ok(Captures::new(scratch, self.ground))
    }

    /// The directory that holds the upper: on its file system, and not part of it.
    pub(crate) fn beside_upper(&self) -> Option<File> {
        use rustix::fs::{Mode, OFlags, openat};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(self.upper(), c"..", flags, Mode::empty()).ok().map(File::from)
    }

    pub(crate) fn reading<'r>(&'r self, phase: Phase, captures: Option<&'r Captures>) -> Reading<'r> {
        Reading {
            upper: self.upper(),
            grafts: &self.grafts,
            lowers: &self.lowers,
            ground: self.ground,
            captures,
            phase,
            times: self.request.times,
            spill: &self.spill,
            learned: Learned::new(&self.spill),
            findings: crate::read::Findings::default(),
            progress: self.progress,
            cancel: self.cancel,
            opener: Opener::default(),
            buffer: Vec::new(),
        }
    }

    /// Plans a layer over the first `stay` of the layers in `tables`. `moved` are the hashes of files that
    /// own layers may have under another path.
    pub(crate) fn plan(
        &self,
        walked: &mut Walked,
        tables: &[&Table],
        stay: usize,
        moved: &HashSet<ContentHash>,
        reading: &mut Reading<'_>,
    ) -> Result<(Plan, Decided), SaveError> {
        let elsewhere = find_content(tables, moved)?;
        let mut decided = Decided::default();
        let mut deciding = Deciding { plan: PlanWriter::new(&self.spill), decided: &mut decided };
        let (mut linked, mut all) = walked.tell_both()?;
        let select = |path: &[u8], is_dir: bool| self.selector.select_alone(path, is_dir);
        judge(&self.sides(&elsewhere, &select), tables, stay, &mut linked, &mut all, reading, &mut deciding)?;
        let plan = deciding.plan.finish()?;
        Ok((plan, decided))
    }

    /// The chain of this container.
    pub(crate) fn chain(&self) -> Result<Chain, SaveError> {
        Ok(Chain::find(self.store, self.chain_key.clone())?)
    }

    /// The latest time that an image may carry.
    pub(crate) fn created(&self) -> jiff::Timestamp {
        self.request
            .words
            .created
            .and_then(|secs| jiff::Timestamp::from_second(secs).ok())
            .unwrap_or_else(jiff::Timestamp::now)
    }
}

fn upper_fd(source: &Source) -> BorrowedFd<'_> {
    match &source.kind {
        SourceKind::Overlay(overlay) => overlay.upper.fd.as_fd(),
        SourceKind::Trees { tree, .. } => tree.fd.as_fd(),
    }
}

/// The image that the lowers are: the one that was named, or the one that the store unpacked there.
fn find_base(
    store: &Store,
    request: &Request,
    source: &Source,
    warnings: &mut Vec<String>,
) -> Result<Option<Image>, SaveError> {
    if let Some(name) = &request.base {
        return Ok(Some(store.resolve(name)?));
    }
    let lowers: Vec<&Path> = match &source.kind {
        SourceKind::Overlay(overlay) => overlay.lowers.iter().map(|dir| dir.path.as_path()).collect(),
        SourceKind::Trees { against, .. } => vec![against.path.as_path()],
    };
    let digest = store.find_unpacked(&lowers).ok().flatten();
    if let Some(image) = digest.and_then(|digest| store.resolve(&digest.to_string()).ok()) {
        return Ok(Some(image));
    }
    warnings.push("the base is not known (--base): the image has only what changed".to_owned());
    Ok(None)
}

/// Where own layers have these bytes.
fn find_content(
    tables: &[&Table],
    wanted: &HashSet<ContentHash>,
) -> Result<HashMap<ContentHash, (usize, Content)>, TableError> {
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    for (layer, table) in tables.iter().enumerate() {
        for record in table.records() {
            if let Some(content) = record?.content.filter(|content| wanted.contains(&content.hash)) {
                found.insert(content.hash, (layer, content));
            }
        }
    }
    Ok(found)
}
