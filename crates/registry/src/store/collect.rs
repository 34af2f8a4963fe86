//! Taking away what nothing refers to.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use super::{Step, Store, ingest, layout};
use crate::digest::Digest;
use crate::document::{self, Descriptor, Index};
use crate::error::{Error, Result};
use crate::media;

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images without a name.
    pub images: u64,
    /// Blobs, including the files of dead ingests.
    pub blobs: u64,
    /// Their length in bytes.
    pub bytes: u64,
}

/// What the store takes, in bytes: see [`Store::usage`].
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// All blobs.
    pub blobs: u64,
    /// All files of ingests, alive or dead.
    pub ingests: u64,
    /// What [`Store::prune`] would free when nothing is young.
    pub reclaimable: u64,
    /// Each image once.
    pub images: Vec<UsedBy>,
}

/// What one image takes.
#[derive(Clone, Debug)]
pub struct UsedBy {
    /// The manifest, or index.
    pub digest: Digest,
    /// The names, whole; empty for a dangling image.
    pub names: Vec<String>,
    /// The bytes of all its blobs.
    pub size: u64,
    /// The bytes of the blobs that no other image has.
    pub unique: u64,
}

impl Store {
    /// Removes images without a name, the ingests of dead processes, and blobs that nothing refers to
    /// and that were last changed more than `grace` before `now` (a foreign tool that copies into the
    /// layout writes its blobs first and the index last).
    ///
    /// # Errors
    ///
    /// A manifest that is referred to cannot be read: then nobody can say what it refers to, and
    /// nothing is removed.
    pub fn prune(&self, grace: Duration, now: SystemTime) -> Result<Collected> {
        if !self.check_layout()? {
            return Ok(Collected::default());
        }
        let _lock = self.lock()?;
        let mut index = self.index()?.unwrap_or_default();
        let before = index.manifests.len();
        let pinned = self.pins()?;
        index.manifests.retain(|e| layout::raw_name(e).is_some() || pinned.contains(&e.digest));
        // Find out that everything can be read before anything is changed.
        self.marked(&index)?;
        let images = before - index.manifests.len();
        if images > 0 {
            self.replace_index(&index, None)?;
        }
        let old = |digest: &Digest| {
            let modified = fs::metadata(self.blob_path(digest)).and_then(|m| m.modified());
            // A time in the future is young.
            modified.is_ok_and(|t| now.duration_since(t).is_ok_and(|age| age >= grace))
        };
        let candidates = self.all_blobs()?.into_iter().filter(old).collect();
        let mut collected = self.collect(&index, candidates)?;
        collected.images = images as u64;
        let (files, bytes) = self.sweep()?;
        collected.blobs += files;
        collected.bytes += bytes;
        Ok(collected)
    }

    /// What the store takes and what could be freed.
    ///
    /// # Errors
    ///
    /// The index or the directory cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for (path, file, _) in self.ingests()? {
            usage.ingests += file.metadata().map_err(Error::io("stat", &path))?.len();
        }
        let mut users: HashMap<Digest, usize> = HashMap::new();
        let mut kept: HashSet<Digest> = HashSet::new();
        let listed: Vec<_> = self.images()?.into_iter().map(|l| (self.reachable(&l.digest), l)).collect();
        for (blobs, image) in &listed {
            for blob in blobs {
                *users.entry(*blob).or_default() += 1;
            }
            if !image.names.is_empty() {
                kept.extend(blobs);
            }
        }
        for digest in self.pins()? {
            kept.extend(self.reachable(&digest));
        }
        let lengths = self.all_blobs()?.into_iter().map(|d| Ok((d, self.length(&d)?.unwrap_or(0))));
        let lengths: HashMap<Digest, u64> = lengths.collect::<Result<_>>()?;
        usage.blobs = lengths.values().sum();
        usage.reclaimable = lengths.iter().filter(|(d, _)| !kept.contains(d)).map(|(_, n)| n).sum();
        usage.images = listed
            .into_iter()
            .map(|(blobs, image)| {
                let sum = |only: &dyn Fn(&Digest) -> bool| {
                    blobs.iter().filter(|d| only(d)).filter_map(|d| lengths.get(d)).sum()
                };
                let (size, unique) = (sum(&|_| true), sum(&|d| users.get(d) == Some(&1)));
                UsedBy { digest: image.digest, names: image.names, size, unique }
            })
            .collect();
        Ok(usage)
    }

    /// Removes those of `candidates` that neither `index` nor a pin refers to. The caller holds the
    /// lock, and `index` is durable: a reference never outlives what it refers to. A removal that a
    /// power cut undoes brings back a blob that nothing refers to, so these need no sync.
    pub(super) fn collect(&self, index: &Index, candidates: Vec<Digest>) -> Result<Collected> {
        let mut collected = Collected::default();
        if candidates.is_empty() {
            return Ok(collected);
        }
        let marked = self.marked(index)?;
        for digest in candidates.iter().filter(|digest| !marked.contains(digest)) {
            let Some(length) = self.length(digest)? else { continue };
            let path = self.blob_path(digest);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            self.step(Step::BlobRemoved)?;
            collected.blobs += 1;
            collected.bytes += length;
        }
        Ok(collected)
    }

    /// All that the index and the pins refer to, directly or not.
    fn marked(&self, index: &Index) -> Result<HashSet<Digest>> {
        let entries = index.manifests.iter().map(|entry| (entry.digest, entry.media_type.clone()));
        let pins = self.pins()?.into_iter().map(|digest| (digest, media::OCI_MANIFEST.to_owned()));
        let mut marked = HashSet::new();
        self.mark(entries.chain(pins).collect(), &mut marked)?;
        Ok(marked)
    }

    /// What an image consists of, as far as its documents can be read; itself included.
    pub(super) fn reachable(&self, digest: &Digest) -> Vec<Digest> {
        let mut marked = HashSet::new();
        // Of an unreadable image only itself is known; what else it had, `prune` finds.
        let _ = self.mark(vec![(*digest, media::OCI_MANIFEST.to_owned())], &mut marked);
        marked.into_iter().collect()
    }

    /// Marks these entries of an index and all that they refer to. A list and no recursion, because
    /// hostile indexes can be nested deeper than a stack.
    fn mark(&self, mut todo: Vec<(Digest, String)>, marked: &mut HashSet<Digest>) -> Result<()> {
        let mut entries = todo.len();
        while let Some((digest, media_type)) = todo.pop() {
            // The entries lie below what they refer to: one is reached when the list gets that short.
            let is_entry = todo.len() < entries;
            entries = entries.min(todo.len());
            let known = media::is_manifest(&media_type) || media::is_index(&media_type);
            if !marked.insert(digest) || !(known || is_entry) {
                continue;
            }
            // Not the media type but the content says which of the two it is: a pin does not know.
            let refers = self
                .document(&digest)
                .and_then(|bytes| document::parse::<Refers>(|| format!("manifest {digest}"), &bytes));
            match refers {
                Ok(Refers { config, layers, manifests }) => {
                    let children = config.into_iter().chain(layers).chain(manifests);
                    todo.extend(children.map(|child| (child.digest, child.media_type)));
                }
                // What is absent refers to nothing: the image is lost already.
                Err(Error::NoBlob { .. }) => {}
                // An entry of a type that we do not know need not be a document.
                Err(_) if !known => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The images that somebody is working with.
    fn pins(&self) -> Result<HashSet<Digest>> {
        let alive = self.ingests()?.into_iter().filter(|(_, _, alive)| *alive);
        Ok(alive.filter_map(|(path, ..)| ingest::pinned(&path)).collect())
    }

    fn all_blobs(&self) -> Result<Vec<Digest>> {
        let dir = self.blobs();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read", &dir)(e)),
        };
        let mut blobs = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("read", &dir))?.file_name();
            // Anything that is named otherwise is not ours.
            blobs.extend(name.to_str().and_then(|hex| Digest::from_hex(hex).ok()));
        }
        Ok(blobs)
    }
}

/// The references of a manifest or an index, whichever it is.
#[derive(serde::Deserialize)]
struct Refers {
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "document::null_is_default")]
    layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "document::null_is_default")]
    manifests: Vec<Descriptor>,
}
