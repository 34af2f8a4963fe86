//! Files on their way into the store, and pins that keep images while somebody works with them.
//!
//! Both are files in `ingest/` that their maker holds with `flock`. A collection that can take the lock
//! knows that the maker is dead. (An unnamed `O_TMPFILE` would need no cleaning, but cannot be seen by
//! `system df`, and `linkat` cannot replace a damaged blob in one step.)

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::files::{self, Lock};
use super::{Step, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};

const PIN: &str = "pin-";

/// A new blob that is being written, on the same file system as the store. Gone when dropped.
#[derive(Debug)]
pub struct Ingest {
    file: File,
    path: PathBuf,
    /// After it became a blob it is no longer ours to remove.
    placed: bool,
}

impl Ingest {
    /// The file to write to: empty, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it lies, for a caller that clones ranges into it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the bytes durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    pub(super) fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io("stat", &self.path))?.len())
    }

    /// Gives it its final name, replacing what is there.
    pub(super) fn place(&mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(Error::io("create", path))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.placed {
            // Nothing to be done about a failure: the next collection finds it without a holder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Keeps an image and all its blobs from being collected, as long as this value lives.
#[derive(Debug)]
pub struct Pin {
    _held: Option<Ingest>,
}

impl Store {
    /// Begins a new blob.
    ///
    /// # Errors
    ///
    /// The store's file system is full, read-only or closed to us.
    pub fn ingest(&self) -> Result<Ingest> {
        self.create()?;
        // An interrupted save may have left gigabytes. Looked for once by each process that writes.
        if !self.swept.swap(true, Ordering::Relaxed) {
            self.sweep()?;
        }
        self.held_file("")
    }

    /// Keeps the image with this manifest, whatever happens to its names, until the [`Pin`] is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::NoBlob`] when the manifest is not (or no longer) there.
    pub fn pin(&self, manifest: &Digest) -> Result<Pin> {
        match self.pin_by_file(manifest) {
            // where nothing can be written nothing can be collected
            Err(error) if error.kind() == crate::Kind::ReadOnly => {
                self.blob(manifest)?;
                Ok(Pin { _held: None })
            }
            pinned => pinned,
        }
    }

    fn pin_by_file(&self, manifest: &Digest) -> Result<Pin> {
        self.create()?;
        // Shared with other pins, but not with a collection, which could remove the image after the
        // check and before it can see the pin.
        let _lock = Lock::shared(&self.images.join("lock"))?;
        self.blob(manifest)?;
        Ok(Pin { _held: Some(self.held_file(&format!("{PIN}{}-", manifest.hex()))?) })
    }

    fn held_file(&self, prefix: &str) -> Result<Ingest> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = self.ingest_dir().join(format!("{prefix}{}-{n}", std::process::id()));
            let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = match opened {
                Ok(file) => file,
                // Of a dead process with our id, or one in another pid namespace.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io("create", &path)(e)),
            };
            // A collection may come between creation and lock and take the file for a dead one's:
            // then it has the lock, or has removed the name.
            let locked = files::try_lock(&file).map_err(Error::io("lock", &path))?;
            if locked && file.metadata().map_err(Error::io("stat", &path))?.nlink() == 1 {
                return Ok(Ingest { file, path, placed: false });
            }
        }
    }

    /// Removes what dead processes left in `ingest/`; returns number and bytes of it.
    ///
    /// Needs no lock but those on the files themselves.
    pub(super) fn sweep(&self) -> Result<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        for (path, file, _) in self.ingests()?.into_iter().filter(|(.., alive)| !alive) {
            match fs::remove_file(&path) {
                Ok(()) => {}
                // Somebody else swept it and let go before we looked.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("remove", &path)(e)),
            }
            self.step(Step::IngestRemoved)?;
            files += 1;
            bytes += file.metadata().map_err(Error::io("stat", &path))?.len();
        }
        Ok((files, bytes))
    }

    /// Every file in `ingest/`, and whether its maker lives. The maker of a dead one cannot come back:
    /// the returned file holds the lock.
    pub(super) fn ingests(&self) -> Result<Vec<(PathBuf, File, bool)>> {
        let dir = self.ingest_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read", &dir)(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("read", &dir))?.path();
            let file = match File::open(&path) {
                Ok(file) => file,
                // It became a blob, or was dropped, just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io("open", &path)(e)),
            };
            let dead = files::try_lock(&file).map_err(Error::io("lock", &path))?;
            found.push((path, file, !dead));
        }
        Ok(found)
    }
}

/// The manifest that a file in `ingest/` pins.
pub(super) fn pinned(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.file_name()?.to_str()?.strip_prefix(PIN)?.get(..64)?).ok()
}
