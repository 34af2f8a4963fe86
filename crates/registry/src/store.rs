//! The local store: an OCI image layout that many processes share and no crash can tear.
//!
//! # Shape
//!
//! ```text
//! ROOT/                         0700
//!   images/                     an OCI image layout: skopeo, umoci and podman read it in place
//!     oci-layout
//!     index.json                the images; every name stands here, whole, once
//!     blobs/sha256/<hex>        manifests, configurations, layers
//!     ingest/                   files on their way to blobs/, and pins; each held by its maker's flock
//!     lock                      who may change the index or remove blobs
//!   state/unpacked/             a cache: which directory holds which image (see `unpacked`)
//! ```
//!
//! # Contract
//!
//! A blob in `blobs/` is whole: it got its name after its bytes were durable. Names are changed by
//! replacing `index.json`, so a reader sees the index before or after a change and needs no lock.
//! Small documents are checked against their digests at every read; layers when asked
//! ([`Store::verify`], [`Store::verified_blob`]).
//!
//! # Crash safety
//!
//! Bytes, then their name, then the reference to it: each is durable before the next is begun. What a
//! crash leaves over is never referenced and is taken away by [`Store::prune`]. The orders are argued
//! where they are executed: `publish.rs`, `collect.rs`.
//!
//! # Concurrency
//!
//! The exclusive lock is held to place blobs and change the index (a few milliseconds) and to remove
//! blobs. An [`Ingest`] or a [`Pin`] is alive while its maker's `flock` is: when that process dies, the
//! kernel lets go, and the next collection removes the file.
//!
//! # Errors
//!
//! See [`crate::Kind`]; `NoSpace`, `ReadOnly` and `Denied` leave the store as it was.

mod collect;
mod files;
mod image;
mod ingest;
mod layout;
mod publish;
mod steps;
mod tags;
mod unpacked;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use collect::{Collected, Usage, UsedBy};
pub use image::{HistoryLine, Image, Listed};
pub use ingest::{Ingest, Pin};
pub(crate) use layout::LayoutMarker;
pub(crate) use publish::Entry;
pub use publish::{NewImage, Packed, Published};
pub use steps::{Step, Steps, Stop};
pub use tags::Removed;

use crate::digest::{Digest, Hashing};
use crate::document::{Descriptor, MAX_DOCUMENT};
use crate::error::{Damage, Error, Result};
use files::Lock;

/// A local store of images. Cheap to open; nothing is created before the first write.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    images: PathBuf,
    steps: Box<dyn Steps>,
    /// Whether this process has looked for what dead ones left.
    swept: AtomicBool,
}

impl Store {
    /// Opens the store below `root`, the state directory of this installation.
    ///
    /// # Errors
    ///
    /// [`Error::Layout`] when `root/images` is an image layout of another version.
    pub fn open(root: &Path) -> Result<Self> {
        Self::with_steps(root, Box::new(steps::GoOn))
    }

    /// As [`Store::open`], but `steps` is told of each step that changes the disk, and can stop there.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn with_steps(root: &Path, steps: Box<dyn Steps>) -> Result<Self> {
        let store =
            Self { root: root.to_owned(), images: root.join("images"), steps, swept: AtomicBool::new(false) };
        store.check_layout()?;
        Ok(store)
    }

    /// The state directory this store lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image layout itself, for tools that read it in place.
    pub fn layout(&self) -> &Path {
        &self.images
    }

    /// Opens a blob as it lies there, unverified: for a reader that hashes what it reads anyway.
    ///
    /// # Errors
    ///
    /// [`Error::NoBlob`] when it is absent.
    pub fn blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoBlob { digest: *digest },
            _ => Error::io("open", &path)(source),
        })
    }

    /// Reads a blob whole and compares it with its digest; returns its length in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NoBlob`], or [`Error::Damaged`] with the digest that its bytes really have.
    pub fn verify(&self, digest: &Digest) -> Result<u64> {
        Self::hash(&self.blob_path(digest), &self.blob(digest)?, digest)
    }

    /// Opens a blob after having read it whole and found it to be what `descriptor` says.
    ///
    /// # Errors
    ///
    /// As [`Store::verify`]; a blob of the wrong length is found damaged without being read.
    pub fn verified_blob(&self, descriptor: &Descriptor) -> Result<File> {
        let digest = &descriptor.digest;
        let mut file = self.blob(digest)?;
        let path = self.blob_path(digest);
        let actual = file.metadata().map_err(Error::io("stat", &path))?.len();
        if actual != descriptor.size {
            let damage = Damage::Size { expected: descriptor.size, actual };
            return Err(Error::Damaged { digest: *digest, damage });
        }
        Self::hash(&path, &file, digest)?;
        file.rewind().map_err(Error::io("read", &path))?;
        Ok(file)
    }

    fn hash(path: &Path, file: &File, digest: &Digest) -> Result<u64> {
        let mut reader = Hashing::new(file);
        io::copy(&mut reader, &mut io::sink()).map_err(Error::io("read", path))?;
        match reader.finish() {
            (actual, bytes) if actual == *digest => Ok(bytes),
            (actual, _) => Err(Error::Damaged { digest: *digest, damage: Damage::Digest { actual } }),
        }
    }

    /// Reads a document (manifest, index, configuration) and checks its digest.
    fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let file = self.blob(digest)?;
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            let (document, size) = (digest.to_string(), bytes.len() as u64);
            return Err(Error::DocumentSize { document, size, limit: MAX_DOCUMENT });
        }
        match Digest::of(&bytes) {
            actual if actual == *digest => Ok(bytes),
            actual => Err(Error::Damaged { digest: *digest, damage: Damage::Digest { actual } }),
        }
    }

    fn blobs(&self) -> PathBuf {
        self.images.join("blobs/sha256")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn ingest_dir(&self) -> PathBuf {
        self.images.join("ingest")
    }

    /// Waits until nobody else changes the index or removes blobs.
    fn lock(&self) -> Result<Lock> {
        self.create()?;
        Lock::exclusive(&self.images.join("lock"))
    }

    fn step(&self, step: Step) -> Result<()> {
        self.steps.reached(step).map_err(|Stop| Error::Stopped(step))
    }
}
