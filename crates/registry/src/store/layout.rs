//! The image layout: its creation, and its `index.json`.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files::{self, Lock};
use super::{Step, Store};
use crate::document::{self, Descriptor, Index, annotation};
use crate::error::{Error, Result};
use crate::reference::Reference;

/// An index of 10,000 images is a third of this.
const MAX_INDEX: u64 = 32 << 20;

/// The only version of the layout there is.
const LAYOUT_VERSION: &str = "1.0.0";

/// The document `oci-layout`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayoutMarker {
    image_layout_version: String,
}

impl LayoutMarker {
    /// The document as we write it.
    pub(crate) fn bytes() -> Vec<u8> {
        document::to_json(&Self { image_layout_version: LAYOUT_VERSION.to_owned() })
    }

    /// The version, when it is not the one we know.
    pub(crate) fn unsupported(bytes: &[u8], name: impl FnOnce() -> String) -> Result<Option<String>> {
        let marker: Self = document::parse(name, bytes)?;
        Ok((marker.image_layout_version != LAYOUT_VERSION).then_some(marker.image_layout_version))
    }
}

impl Store {
    /// Whether the layout exists; an error when it is one that we do not understand.
    pub(super) fn check_layout(&self) -> Result<bool> {
        let path = self.images.join("oci-layout");
        let Some(bytes) = files::read_small(&path, 1 << 16)? else { return Ok(false) };
        match LayoutMarker::unsupported(&bytes, || path.display().to_string())? {
            None => Ok(true),
            Some(version) => Err(Error::Layout { path: self.images.clone(), version }),
        }
    }

    /// Makes the layout if it is not there.
    ///
    /// `oci-layout` is written last and marks the rest as whole and durable: a crash before it makes
    /// the next writer come here again, and every step can be repeated. Several may come at once: the
    /// lock lets one of them do it.
    pub(super) fn create(&self) -> Result<()> {
        let marker = self.images.join("oci-layout");
        if marker.exists() && self.ingest_dir().exists() {
            return Ok(());
        }
        // Parents of the root are the administrator's: created if need be, with the usual mode.
        if let Some(parent) = self.root.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        files::create_dir(&self.root)?;
        files::create_dir(&self.images)?;
        self.step(Step::LayoutCreated)?;
        let _lock = Lock::exclusive(&self.images.join("lock"))?;
        for dir in [self.images.join("blobs"), self.blobs(), self.ingest_dir()] {
            files::create_dir(&dir)?;
            self.step(Step::LayoutCreated)?;
        }
        if self.index()?.is_none() {
            self.replace_index(&Index::default(), None)?;
        }
        files::sync_dir(&self.images.join("blobs"))?;
        if !marker.exists() {
            let staged = self.images.join("oci-layout.tmp");
            let file = files::write_new(&staged, &LayoutMarker::bytes())?;
            file.sync_all().map_err(Error::io("sync", &staged))?;
            fs::rename(&staged, &marker).map_err(Error::io("rename", &staged))?;
            self.step(Step::LayoutCreated)?;
        }
        files::sync_dir(&self.images)?;
        files::sync_dir(&self.root)?;
        match self.root.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => files::sync_dir(parent)?,
            _ => files::sync_dir(std::path::Path::new("."))?,
        }
        self.step(Step::LayoutCreated)
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.images.join("index.json")
    }

    /// The index as it is now; `None` in a store that was never written to.
    pub(super) fn index(&self) -> Result<Option<Index>> {
        let path = self.index_path();
        match files::read_small(&path, MAX_INDEX)? {
            Some(bytes) => document::parse(|| path.display().to_string(), &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Replaces the index, durably; the caller holds the lock.
    ///
    /// `placed` says that blobs have just got their names, which must be durable before any index that
    /// refers to them can be. The new index is written beside the old one, and these two syncs go on at
    /// the same time: neither needs the other. Only then is it renamed over the old one, so at every
    /// moment the name leads to a whole index whose blobs are all there. The last sync makes the change
    /// survive a power cut; before it either index may come back, and both are consistent.
    pub(super) fn replace_index(&self, index: &Index, placed: Option<PathBuf>) -> Result<()> {
        let staged = self.images.join("index.json.tmp");
        let file = files::write_new(&staged, &document::to_json(index))?;
        self.step(Step::IndexWritten)?;
        let sync_index: Box<dyn FnOnce() -> Result<()> + Send> =
            Box::new(|| file.sync_data().map_err(Error::io("sync", &staged)));
        let mut syncs = vec![sync_index];
        if let Some(dir) = placed {
            syncs.push(Box::new(move || files::sync_dir(&dir)));
        }
        files::all_at_once(syncs)?;
        self.step(Step::NamesDurable)?;
        let path = self.index_path();
        fs::rename(&staged, &path).map_err(Error::io("replace", &path))?;
        self.step(Step::IndexReplaced)?;
        files::sync_dir(&self.images)?;
        self.step(Step::IndexDurable)
    }
}

/// The name an entry of the index carries, as it is written there.
pub(super) fn raw_name(entry: &Descriptor) -> Option<&str> {
    entry.annotation(annotation::REF_NAME).or_else(|| entry.annotation(annotation::CONTAINERD_NAME))
}

/// Whether an entry carries this name, however a foreign tool may have abbreviated it.
pub(super) fn is_named(entry: &Descriptor, name: &Reference) -> bool {
    raw_name(entry).is_some_and(|raw| raw.parse::<Reference>().is_ok_and(|r| r == *name))
}

/// Gives or takes the name of an entry.
pub(super) fn set_name(entry: &mut Descriptor, name: Option<&Reference>) {
    let annotations = entry.annotations.get_or_insert_default();
    for key in [annotation::REF_NAME, annotation::CONTAINERD_NAME] {
        match name {
            Some(name) => annotations.insert(key.to_owned(), name.to_string()),
            None => annotations.remove(key),
        };
    }
    if annotations.is_empty() {
        entry.annotations = None;
    }
}

/// Lets `name` point to `target` and to nothing else.
///
/// The image that had the name stays, nameless if it had no other, until it is pruned: somebody may
/// have its id. A nameless entry of `target` is the one that gets the name.
pub(super) fn point(index: &mut Index, name: Option<&Reference>, target: &Descriptor) {
    if let Some(name) = name {
        while let Some(at) = index.manifests.iter().position(|entry| is_named(entry, name)) {
            unname(index, at);
        }
    }
    let of_target: Vec<usize> =
        (0..index.manifests.len()).filter(|at| index.manifests[*at].digest == target.digest).collect();
    let nameless = of_target.iter().find(|at| raw_name(&index.manifests[**at]).is_none());
    match (name, nameless) {
        (Some(_), Some(at)) => set_name(&mut index.manifests[*at], name),
        (Some(_), None) => {
            let mut entry = target.clone();
            set_name(&mut entry, name);
            index.manifests.push(entry);
        }
        (None, _) if of_target.is_empty() => {
            let mut entry = target.clone();
            set_name(&mut entry, None);
            index.manifests.push(entry);
        }
        (None, _) => {}
    }
}

/// Takes the name of the entry at `at`; the entry goes too when the image has another one.
pub(super) fn unname(index: &mut Index, at: usize) {
    let digest = index.manifests[at].digest;
    if index.manifests.iter().filter(|e| e.digest == digest).count() > 1 {
        index.manifests.remove(at);
    } else {
        set_name(&mut index.manifests[at], None);
    }
}
