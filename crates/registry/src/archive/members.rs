//! The files of an archive, taken in as they come, each hashed on the way.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::FileExt;

use serde::de::DeserializeOwned;

use super::tar::{CopyError, Reader, Type};
use super::{ArchiveError, Limits};
use crate::digest::{Digest, Hashing};
use crate::document::MAX_DOCUMENT;
use crate::error::{Error, Result};
use crate::store::{Ingest, Packed, Store};

/// Files of an archive have to leave this much of the disk to the rest of the machine.
const SPARE: u64 = 4 << 20;

/// Files up to this size stay in memory: most are documents, and each file on disk holds a descriptor.
const SMALL: u64 = 64 << 10;

/// So much memory for all small files together; then they go to disk too.
const MAX_MEMORY: u64 = 32 << 20;

/// Links to links; more than this and they go round in a circle.
const MAX_LINKS: usize = 16;

/// The members of an archive.
#[derive(Debug)]
pub(super) struct Members {
    files: HashMap<String, Member>,
    /// Symbolic and hard links alike: from name to name, both within the archive.
    links: HashMap<String, String>,
}

/// A file of the archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) digest: Digest,
    pub(super) size: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    Staged(Ingest),
}

impl Members {
    /// Reads an archive to its end.
    pub(super) fn stage(store: &Store, archive: impl Read, limits: Limits) -> Result<Self> {
        let mut reader = Reader::new(archive);
        let mut members = Self { files: HashMap::new(), links: HashMap::new() };
        let (mut count, mut left, mut memory) = (0, limits.bytes, MAX_MEMORY);
        while let Some(member) = reader.next()? {
            count += 1;
            if count > limits.members {
                return Err(ArchiveError::Members { limit: limits.members }.into());
            }
            // No honest archive climbs, not even to come back.
            let climbs = member.name.split('/').any(|part| part == "..");
            let Some(name) = normalise("", &member.name).filter(|_| !climbs) else {
                return Err(ArchiveError::Traversal { name: member.name }.into());
            };
            if members.files.contains_key(&name) || members.links.contains_key(&name) {
                return Err(ArchiveError::Duplicate { name }.into());
            }
            let target = match &member.kind {
                Type::Directory => continue,
                Type::Other => return Err(ArchiveError::FileType { name }.into()),
                Type::Symlink(target) => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    normalise(parent, target)
                }
                Type::Hardlink(target) => normalise("", target),
                Type::File => {
                    let room = left.min(room(store)?);
                    if member.size > room {
                        return Err(ArchiveError::Size { name, size: member.size, room }.into());
                    }
                    left -= member.size;
                    let in_memory = member.size <= SMALL && member.size <= memory;
                    memory -= if in_memory { member.size } else { 0 };
                    let file = Member::read(store, &mut reader, in_memory)?;
                    members.files.insert(name, file);
                    continue;
                }
            };
            let target = target.ok_or_else(|| ArchiveError::Traversal { name: name.clone() })?;
            members.links.insert(name, target);
        }
        Ok(members)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The file that a name leads to, over links, and that file's own name.
    pub(super) fn follow(&self, name: &str) -> Result<(String, &Member)> {
        let mut at = normalise("", name).ok_or_else(|| ArchiveError::Traversal { name: name.to_owned() })?;
        if !self.has(&at) && !self.links.contains_key(&at) {
            return Err(ArchiveError::Missing { name: at }.into());
        }
        for _ in 0..MAX_LINKS {
            match (self.files.get(&at), self.links.get(&at)) {
                (Some(file), _) => return Ok((at, file)),
                (None, Some(target)) => at.clone_from(target),
                (None, None) => break,
            }
        }
        Err(ArchiveError::Link { name: name.to_owned() }.into())
    }

    /// The bytes of a document.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (name, file) = self.follow(name)?;
        match file.size {
            size if size > MAX_DOCUMENT => {
                Err(ArchiveError::Document { name, size, limit: MAX_DOCUMENT }.into())
            }
            size => file.head(size),
        }
    }

    /// A document of the expected shape.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.document(name)?;
        serde_json::from_slice(&bytes)
            .map_err(|source| ArchiveError::Json { name: name.to_owned(), source }.into())
    }

    /// The member that holds a blob of an OCI layout, its bytes compared with the digest.
    pub(super) fn blob(&self, digest: &Digest) -> Result<String> {
        let (name, file) = self.follow(&format!("blobs/sha256/{}", digest.hex()))?;
        match file.digest {
            actual if actual == *digest => Ok(name),
            actual => Err(ArchiveError::Damaged { name, actual }.into()),
        }
    }

    /// Turns files into blobs for the store; the others are dropped.
    pub(super) fn into_blobs(
        mut self,
        store: &Store,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Vec<Packed>> {
        let files = names.into_iter().filter_map(|name| self.files.remove(&name));
        files
            .map(|Member { digest, size, content }| match content {
                Content::Staged(ingest) => Ok(Packed { ingest, digest, size }),
                Content::Memory(bytes) => store.stage(&bytes),
            })
            .collect()
    }
}

impl Member {
    fn read<R: Read>(store: &Store, reader: &mut Reader<R>, in_memory: bool) -> Result<Self> {
        if in_memory {
            let mut bytes = Vec::new();
            reader.copy_to(&mut bytes).map_err(|e| copy_failed(e, |e| ArchiveError::Read(e).into()))?;
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            return Ok(Self { digest, size, content: Content::Memory(bytes) });
        }
        let ingest = store.ingest()?;
        let mut sink = Hashing::new(ingest.file());
        reader.copy_to(&mut sink).map_err(|e| copy_failed(e, Error::io("write", ingest.path())))?;
        let (digest, size) = sink.finish();
        Ok(Self { digest, size, content: Content::Staged(ingest) })
    }

    /// The first `size` bytes; there are as many.
    pub(super) fn head(&self, size: u64) -> Result<Vec<u8>> {
        let size = usize::try_from(size.min(self.size)).unwrap_or(usize::MAX);
        match &self.content {
            Content::Memory(bytes) => Ok(bytes[..size].to_vec()),
            Content::Staged(ingest) => {
                let mut bytes = vec![0; size];
                ingest.file().read_exact_at(&mut bytes, 0).map_err(Error::io("read", ingest.path()))?;
                Ok(bytes)
            }
        }
    }
}

fn copy_failed(error: CopyError, sink: impl FnOnce(std::io::Error) -> Error) -> Error {
    match error {
        CopyError::Archive(error) => error.into(),
        CopyError::Sink(error) => sink(error),
    }
}

/// A name within the archive, seen from `parent`, without `.` and `..`; `None` when it leads outside.
fn normalise(parent: &str, name: &str) -> Option<String> {
    if name.starts_with('/') || name.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in parent.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What may still be written to the store's disk, in bytes.
fn room(store: &Store) -> Result<u64> {
    // Before the first write there is no directory to ask.
    let dir = store.layout();
    if !dir.exists() {
        return Ok(u64::MAX);
    }
    let stat = rustix::fs::statvfs(dir).map_err(Error::io("stat", dir))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(SPARE))
}
