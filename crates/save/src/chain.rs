//! The own layers of one container, so that its next save costs what changed since.
//!
//! A chain is found by what was saved: the upper and lowers (file system, inode, birth), the base image,
//! and everything that decides which bytes end in a layer. Another policy is another chain, or bytes that
//! were meant to stay out would travel in an older layer.
//!
//! # Shape
//! ```text
//! state/chains/KEY.json     the layers, bottom first, and the image they were last part of
//! state/chains/KEY.known    what is known of the upper's files
//! state/layers/HEX.table    what the layer with this digest says of each path
//! state/layers/HEX.frames   where its bytes are in the blob
//! ```
//!
//! # Crash safety
//! All of it is a cache, written without a sync and renamed into place. What is missing, torn, of another
//! version, or names a blob that the store no longer has, starts a new chain: a full layer, and nothing
//! else. Knowledge counts only in the boot that wrote it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layer::frames::{FrameMap, Sealed};
use layer::table::Table;
use linux::stamp::{FsIdentity, Stamp, boot_id, generation};
use registry::config::Step as HistoryStep;
use registry::{Digest, Store};
use serde::{Deserialize, Serialize};

use crate::knowledge::Knowledge;
use crate::request::Request;

const VERSION: u32 = 1;

/// More own layers than this are never left over the base.
pub(crate) const MAX_TIERS: usize = 6;

/// A layer is merged when what comes above it has at least half its size.
const GROWTH: u64 = 2;

/// Below this size a layer costs what any layer costs.
const SMALL_TIER: u64 = 64 << 10;

/// What is written down of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TierRecord {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    /// Files in it that were deleted or replaced since, and their bytes.
    pub(crate) buried: (u64, u64),
    /// How many saves it holds.
    pub(crate) saves: u64,
    pub(crate) created: String,
    pub(crate) created_by: String,
    pub(crate) author: Option<String>,
    pub(crate) comment: Option<String>,
}

impl TierRecord {
    /// The step that the image's history tells of it.
    pub(crate) fn history(&self, created: jiff::Timestamp) -> HistoryStep {
        HistoryStep {
            created: self.created.parse().unwrap_or(created),
            created_by: self.created_by.clone(),
            author: self.author.clone(),
            comment: self.comment.clone(),
        }
    }
}

/// One layer, ready to be compared with and taken from.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) record: TierRecord,
    pub(crate) table: Table,
    pub(crate) sealed: Sealed,
}

#[derive(Debug, Serialize, Deserialize)]
struct ChainFile {
    version: u32,
    boot_id: String,
    manifest: Digest,
    tiers: Vec<TierRecord>,
}

/// The chain of one container.
#[derive(Debug)]
pub(crate) struct Chain {
    state: PathBuf,
    key: String,
    boot_id: String,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) knowledge: Option<Knowledge>,
    /// The image that holds the layers.
    pub(crate) manifest: Option<Digest>,
    /// There were layers, and why they cannot be used.
    pub(crate) lost: Option<Lost>,
}

/// Why the layers of a chain cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// They, or what is known of them, are no longer there.
    Gone,
    /// One has other bytes than were packed.
    Damaged(Digest),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Gone => write!(f, "earlier layers of this container are gone: everything is packed again"),
            Lost::Damaged(digest) => write!(
                f,
                "layer {digest} is damaged in the store: everything is packed again, and earlier images that \
                 have this layer cannot be used"
            ),
        }
    }
}

/// What identifies a directory as long as it lives.
fn identity(dir: BorrowedFd<'_>) -> io::Result<String> {
    let (stamp, fs) = (Stamp::of_file(dir)?, FsIdentity::of(dir)?);
    Ok(format!("{fs:?} {} {:?} {:?}", stamp.ino, generation(dir), stamp.btime))
}

/// Everything that decides what a layer says.
pub(crate) fn key(
    upper: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    ids: &str,
    base: Option<&Digest>,
    request: &Request,
) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &str| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    };
    add(&identity(upper)?);
    for lower in lowers {
        add(&identity(*lower)?);
    }
    add(ids);
    add(&format!("{base:?}"));
    let Request { selection, include_mounts, xattrs, times, .. } = request;
    add(&format!("{selection:?} {include_mounts:?} {xattrs:?} {times:?}"));
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

impl Chain {
    /// Finds the chain, or begins one.
    ///
    /// # Errors
    /// The boot id cannot be read; everything else is a new chain.
    pub(crate) fn find(store: &Store, key: String) -> io::Result<Chain> {
        let state = store.root().join("state");
        let boot_id = boot_id()?;
        let mut chain =
            Chain { state, key, boot_id, tiers: Vec::new(), knowledge: None, manifest: None, lost: None };
        let Some(file) = fs::read(chain.path("json")).ok() else { return Ok(chain) };
        let parsed = serde_json::from_slice::<ChainFile>(&file).ok().filter(|file| file.version == VERSION);
        let Some(file) = parsed else {
            chain.lost = Some(Lost::Gone);
            return Ok(chain);
        };
        if file.boot_id == chain.boot_id {
            chain.knowledge =
                File::open(chain.path("known")).ok().and_then(|file| Knowledge::open(file).ok());
        }
        let tiers: Option<Vec<Tier>> =
            file.tiers.into_iter().map(|record| chain.tier(store, record)).collect();
        match tiers {
            Some(tiers) => {
                chain.tiers = tiers;
                chain.manifest = Some(file.manifest);
            }
            None => chain.lost = Some(Lost::Gone),
        }
        Ok(chain)
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.state.join("chains").join(format!("{}.{extension}", self.key))
    }

    fn layer_path(&self, digest: &Digest, extension: &str) -> PathBuf {
        self.state.join("layers").join(format!("{}.{extension}", digest.hex()))
    }

    fn tier(&self, store: &Store, record: TierRecord) -> Option<Tier> {
        let blob = store.blob(&record.digest).ok()?;
        if blob.metadata().ok()?.len() != record.size {
            return None;
        }
        let table = Table::open(File::open(self.layer_path(&record.digest, "table")).ok()?).ok()?;
        let map = fs::read(self.layer_path(&record.digest, "frames")).ok()?;
        let map = FrameMap::decode(&map).ok()?;
        let sealed = Sealed { file: Arc::new(blob), map: Arc::new(map) };
        Some(Tier { record, table, sealed })
    }

    /// How many layers stay below a new one of about `bytes`: those that are large beside what is above.
    pub(crate) fn stay(&self, bytes: u64, most: usize) -> usize {
        let sizes: Vec<u64> = self.tiers.iter().map(|tier| tier.record.size).collect();
        stay(&sizes, bytes, most)
    }

    /// How many layers have nothing in them that was deleted or replaced, from the bottom.
    pub(crate) fn clean(&self) -> usize {
        self.tiers.iter().take_while(|tier| tier.record.buried == (0, 0)).count()
    }

    /// Gives the layers up: the next plan has all bytes from the upper.
    pub(crate) fn lose(&mut self, why: Lost) {
        self.tiers.clear();
        self.lost = Some(why);
    }

    /// The first layer that does not read as what its digest says. Reads all of them.
    pub(crate) fn damaged(&self, store: &Store) -> Option<Digest> {
        self.tiers.iter().map(|tier| tier.record.digest).find(|digest| store.verify(digest).is_err())
    }

    /// A file beside the caches, to be renamed into place.
    pub(crate) fn scratch(&self, name: &str) -> io::Result<(PathBuf, File)> {
        let dir = self.state.join("layers");
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{}-{}.{name}.tmp", self.key, std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok((path, file))
    }

    /// Writes the caches of one finished layer.
    pub(crate) fn keep_layer(&self, digest: &Digest, table: &Path, map: &FrameMap) -> io::Result<()> {
        fs::rename(table, self.layer_path(digest, "table"))?;
        let (path, _) = self.scratch("frames")?;
        fs::write(&path, map.encode())?;
        fs::rename(path, self.layer_path(digest, "frames"))
    }

    /// Writes the chain as it is after a save, and forgets layers that are no longer in it.
    pub(crate) fn keep(
        &self,
        tiers: Vec<TierRecord>,
        manifest: Digest,
        known: Option<&Path>,
    ) -> io::Result<()> {
        fs::create_dir_all(self.state.join("chains"))?;
        if let Some(known) = known {
            fs::rename(known, self.path("known"))?;
        }
        let gone: Vec<Digest> = self
            .tiers
            .iter()
            .map(|tier| tier.record.digest)
            .filter(|digest| !tiers.iter().any(|tier| tier.digest == *digest))
            .collect();
        let file = ChainFile { version: VERSION, boot_id: self.boot_id.clone(), manifest, tiers };
        let (path, _) = self.scratch("chain")?;
        fs::write(&path, serde_json::to_vec(&file)?)?;
        fs::rename(path, self.path("json"))?;
        for digest in gone {
            for extension in ["table", "frames"] {
                let _ = fs::remove_file(self.layer_path(&digest, extension));
            }
        }
        Ok(())
    }
}

/// How many of the layers, bottom first, stay as they are below `bytes` of change. Sizes then at least
/// double from top to bottom, so a byte is written again once for each doubling of what lies above it.
fn stay(sizes: &[u64], bytes: u64, most: usize) -> usize {
    let mut above = bytes.max(SMALL_TIER);
    let mut stay = sizes.len();
    while stay > 0 && (stay > most || sizes[stay - 1] <= above.saturating_mul(GROWTH)) {
        stay -= 1;
        above = above.saturating_add(sizes[stay]);
    }
    stay
}

/// Removes caches that no save can use any more: of layers that the store no longer has, of containers that
/// were saved before the last boot and whose image is gone, and what dead saves left half written. Returns
/// how many bytes that was.
///
/// A running save loses nothing: its layers have names before their caches have, and files of its own are
/// told by its process id. At worst (that process in another pid namespace) the next save is a whole one.
///
/// # Errors
/// Those of listing; what cannot be removed stays.
pub fn sweep(store: &Store) -> io::Result<u64> {
    let state = store.root().join("state");
    let boot_id = boot_id()?;
    let mut freed = 0;
    for entry in entries(&state.join("layers"))? {
        let name = entry.file_name();
        let Some((stem, extension)) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
        let is_unused = match extension {
            "table" | "frames" => {
                format!("sha256:{stem}").parse().is_ok_and(|digest: Digest| is_gone(store, &digest))
            }
            "tmp" => writer(stem).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()),
            _ => false,
        };
        freed += if is_unused { remove(&entry) } else { 0 };
    }
    for entry in entries(&state.join("chains"))? {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let chain = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<ChainFile>(&text).ok());
        let is_old = |chain: &ChainFile| chain.boot_id != boot_id && is_gone(store, &chain.manifest);
        if chain.is_none_or(|chain| is_old(&chain)) {
            freed += fs::metadata(path.with_extension("known")).map_or(0, |metadata| metadata.len());
            let _ = fs::remove_file(path.with_extension("known"));
            freed += remove(&entry);
        }
    }
    Ok(freed)
}

fn is_gone(store: &Store, digest: &Digest) -> bool {
    store.blob(digest).is_err_and(|error| error.kind() == registry::Kind::NotFound)
}

/// The process that writes `KEY-PID.NAME.tmp`, from what stands before `.tmp`.
fn writer(stem: &str) -> Option<u32> {
    stem.split_once('-')?.1.split_once('.')?.0.parse().ok()
}

fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove(entry: &fs::DirEntry) -> u64 {
    let len = entry.metadata().map_or(0, |metadata| metadata.len());
    if fs::remove_file(entry.path()).is_ok() { len } else { 0 }
}

/// The directories of a chain's identity.
pub(crate) fn borrowed<'a>(dirs: impl IntoIterator<Item = &'a std::os::fd::OwnedFd>) -> Vec<BorrowedFd<'a>> {
    dirs.into_iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first release. When this fails, raise the version.
    #[test]
    fn a_chain_of_version_1_reads() {
        let golden = include_str!("../tests/golden/chain-v1.json");
        let chain: ChainFile = serde_json::from_str(golden).unwrap();
        assert_eq!((chain.version, chain.tiers.len()), (VERSION, 1));
        assert_eq!((chain.tiers[0].buried, chain.tiers[0].saves), ((3, 4096), 2));
        assert_eq!(serde_json::to_string(&chain).unwrap(), golden.trim_end());
    }

    #[test]
    fn layers_stay_when_they_are_large_beside_what_comes_above() {
        let gib = 1 << 30;
        assert_eq!(stay(&[], 1, 5), 0);
        assert_eq!(stay(&[gib], 1000, 5), 1);
        assert_eq!(stay(&[gib, 1000], 1000, 5), 1);
        assert_eq!(stay(&[gib], gib / 2, 5), 0);
        assert_eq!(stay(&[64 * gib, 16 * gib, 4 * gib, gib, gib / 4, gib / 16], 1, 5), 5);
    }

    /// A thousand saves of one size: each byte is rewritten about once per doubling, and layers stay few.
    #[test]
    fn many_small_saves_cost_little_and_stay_few() {
        let (mut sizes, mut written) = (vec![10u64 << 30], 0u64);
        let change = 1 << 20;
        for _ in 0..1000 {
            let stay = stay(&sizes, change, MAX_TIERS - 1);
            let new = change + sizes[stay..].iter().sum::<u64>();
            sizes.truncate(stay);
            sizes.push(new);
            written += new;
            assert!(sizes.len() <= MAX_TIERS);
        }
        assert!(written < 1000 * change * 40, "{} times the change", written / (1000 * change));
    }
}
