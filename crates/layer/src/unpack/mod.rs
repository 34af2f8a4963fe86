//! Layers put back into a directory, or into the upper of an overlay.
//!
//! ```text
//!  blob ─► read+sha256 ─► decompress ─┬─► parse, directories, links, whiteouts ─► small files: writers
//!                                     └─► sha256                    └─► large files
//! ```
//! The thread that parses also makes every name, so names come into being exactly in the order of the
//! archive; what the writers get are files that are open already. Nothing they do can depend on order.
//!
//! # What a layer means (image specification, layer.md)
//! * A directory over a directory takes over attributes and keeps the contents; anything else replaces.
//! * Whiteouts and opaque markers hide what layers *below* have, never entries of their own layer,
//!   wherever they stand in the archive. Something hidden and made anew does not shine through.
//! * Parents that the archive does not mention are made, 0755 and root's, with the time 0.
//! * A hardlink is another name; the attributes in its header are not applied again.
//! * Extended attributes: `security.capability`, `user.*` and POSIX ACLs are set; others are left out
//!   and counted ([`Report::xattrs_left_out`]), and so is what the file system does not support.
//! * Attributes of directories are applied once, at the end: a read-only directory, a default ACL and a
//!   time must not disturb, or be disturbed by, what is put inside.
//!
//! In an overlay's upper ([`Form::Upper`]) a whiteout is a character device 0:0 and an opaque directory
//! has the attribute `overlay.opaque`. An opaque marker for the root is refused there: overlayfs does not
//! look at it. A whiteout in a directory that no lower has (one layer of several made it, another removes
//! from it) leaves a name that overlayfs lists and cannot open: the lowers are not looked at here, so give
//! an upper one layer, or layers that were squashed, where that matters. Unmentioned parents are 0755 and root's there too, whatever the lower has: layers of this
//! project mention all.
//!
//! # Contract
//! The target does not exist or is an empty directory. All is built beside it in `.NAME.headstart-XXXX`
//! (mode 0700) and renamed when every digest is right: the target is either complete or untouched. Every
//! failure, and dropping the [`Unpacker`], removes what was built; after `kill -9` such a directory stays
//! behind and is safe to delete. Paths are resolved inside the new root by the kernel
//! ([`linux::resolve`]), symlinks of the image included.
//!
//! # Crash safety
//! `syncfs` on the new root, then the rename, then `fsync` of the directory that holds the name: after
//! [`Unpacker::finish`] the target survives a power cut, before the rename it does not exist.
//!
//! # Memory
//! Writers hold at most `content::WAITING` files of up to 1 MiB; an entry of the layer costs 16 bytes,
//! a directory of the image about 100.

mod apply;
mod attributes;
mod content;
mod error;
mod seen;
mod staging;
mod walk;

use std::io::Read;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::AtomicBool;

pub use self::error::{Error, Step};

use self::apply::Tree;
use self::attributes::Attributes;
use self::content::Writers;
use self::staging::Staging;
use crate::codec::read::{LayerDigests, Pipeline};
use crate::tar::read::{EndMarker, Reader};

/// What the target is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// A plain directory: what is hidden is removed.
    #[default]
    Plain,
    /// The upper of an overlay: what is hidden is marked, for lowers that are not here.
    Upper(Namespace),
}

/// Where an overlay mount looks for its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// `trusted.overlay.`, the default; needs root.
    Trusted,
    /// `user.overlay.`, with the mount option `userxattr`.
    User,
}

/// How far an unpack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Entries of all layers so far.
    pub entries: u64,
    /// Bytes of file content so far.
    pub bytes: u64,
}

/// How to unpack.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What the target is for.
    pub form: Form,
    /// Set owners as the image says. Without, everything belongs to the caller and file capabilities
    /// are left out: the only way for a user who is not root.
    pub same_owner: bool,
    /// Make device nodes; otherwise an archive with one is refused.
    pub devices: bool,
    /// Most entries of all layers together. The default of 16 million protects the inodes of the disk;
    /// the largest images known have one or two million.
    pub max_entries: u64,
    /// Most uncompressed bytes of all layers together; `None` trusts the source.
    pub max_bytes: Option<u64>,
    /// Threads that write small files; `None` for one per processor, at most 8.
    pub writers: Option<NonZeroUsize>,
    /// Called by the parsing thread, for each entry and each MiB of a large file.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
    /// Set to true by another thread or a signal handler to end with [`Error::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            form: Form::Plain,
            same_owner: true,
            devices: true,
            max_entries: 16 << 20,
            max_bytes: None,
            writers: None,
            progress: None,
            cancel: None,
        }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("form", &self.form).finish_non_exhaustive()
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Digests of the layers as they were read, in order.
    pub layers: Vec<LayerDigests>,
    /// Entries and bytes of all layers.
    pub progress: Progress,
    /// Entries without a meaning (the root itself, AUFS bookkeeping).
    pub skipped: u64,
    /// Extended attributes that were not set: of no family that images carry, or not supported here.
    pub xattrs_left_out: u64,
}

/// Applies layers to a target that becomes visible with [`finish`](Unpacker::finish).
#[derive(Debug)]
pub struct Unpacker<'a> {
    staging: Staging,
    tree: Tree,
    attributes: Attributes,
    options: Options<'a>,
    report: Report,
    bytes_read: u64,
    failed: bool,
}

impl<'a> Unpacker<'a> {
    /// Prepares the directory beside `target`.
    ///
    /// # Errors
    /// The target has something in it, or its parent cannot be written.
    pub fn new(target: &Path, options: Options<'a>) -> Result<Self, Error> {
        let staging = Staging::create(target)?;
        let tree = Tree::new(staging.root()?, options.form, options.devices);
        let attributes = Attributes::new(options.form, options.same_owner);
        Ok(Self {
            staging,
            tree,
            attributes,
            options,
            report: Report::default(),
            bytes_read: 0,
            failed: false,
        })
    }

    /// Applies the next layer. `expect` are the digests that it must have: an archive that does not is
    /// an error, and then nothing of it will ever be seen. Without them the end marker of the archive
    /// is required, so that a download that broke off is noticed.
    ///
    /// # Errors
    /// After an error the unpack cannot go on.
    pub fn layer(
        &mut self,
        reader: impl Read + Send,
        expect: Option<&LayerDigests>,
    ) -> Result<LayerDigests, Error> {
        if self.failed {
            return Err(Error::AfterFailure);
        }
        self.failed = true;
        let left = self.options.max_bytes.map(|max| max.saturating_sub(self.bytes_read));
        let digests = std::thread::scope(|scope| {
            let pipeline = Pipeline::spawn(scope, reader, left)?;
            let end = if expect.is_some() { EndMarker::Optional } else { EndMarker::Required };
            let mut archive = Reader::new(pipeline, end);
            let writers = Writers::spawn(scope, self.options.writers, self.attributes.clone());
            let applied = self.apply(&mut archive, &writers);
            let written = writers.finish();
            // what a writer met came first: the parser only noticed that a writer was gone
            written.and(applied)?;
            self.report.skipped += archive.skipped();
            let pipeline = archive.into_inner();
            self.bytes_read += pipeline.uncompressed();
            Ok::<_, Error>(pipeline.finish()?)
        })?;
        if let Some(&expected) = expect
            && expected != digests
        {
            return Err(Error::Digest { expected: Box::new(expected), found: Box::new(digests) });
        }
        self.report.layers.push(digests);
        self.failed = false;
        Ok(digests)
    }

    fn apply<R: Read>(&mut self, archive: &mut Reader<R>, writers: &Writers<'_>) -> Result<(), Error> {
        self.tree.begin_layer();
        while let Some(member) = archive.next_member()? {
            self.check_cancelled()?;
            if self.report.progress.entries >= self.options.max_entries {
                return Err(Error::TooManyEntries { limit: self.options.max_entries });
            }
            self.report.progress.entries += 1;
            let size = match member.entry.kind {
                crate::entry::Kind::File { size } => size,
                _ => 0,
            };
            let context = error::At::of(&member);
            if let Some(file) = self.tree.place(member.entry, &context, &self.attributes)? {
                if size <= content::SMALL {
                    let content = content::read_small(archive, size)?;
                    writers.write(content::Job { file, content, context })?;
                    self.report.progress.bytes += size;
                } else {
                    let mut large = content::Large::new(&file, &context);
                    while let Some(written) = large.copy_some(archive)? {
                        self.check_cancelled()?;
                        self.report.progress.bytes += written;
                        self.tell_progress();
                    }
                    large.finish()?;
                    self.attributes.set_open(&file.file, &file.meta).map_err(|e| context.attribute(e))?;
                }
            }
            self.tell_progress();
        }
        Ok(())
    }

    fn tell_progress(&self) {
        if let Some(tell) = self.options.progress {
            tell(self.report.progress);
        }
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        match self.options.cancel {
            Some(flag) if flag.load(std::sync::atomic::Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    /// Gives directories their attributes, makes all durable, and the target visible.
    pub fn finish(mut self) -> Result<Report, Error> {
        if self.failed {
            return Err(Error::AfterFailure);
        }
        self.tree.finish(&self.attributes)?;
        self.check_cancelled()?;
        self.report.xattrs_left_out = self.attributes.left_out();
        self.staging.publish()?;
        Ok(self.report)
    }
}

/// Unpacks a whole image: the layers from the lowest to the highest, each with the digests it must
/// have, if they are known.
///
/// # Errors
/// [`Error::Layer`] says which layer failed. The target is as it was.
pub fn unpack<R: Read + Send>(
    target: &Path,
    layers: impl IntoIterator<Item = (R, Option<LayerDigests>)>,
    options: Options<'_>,
) -> Result<Report, Error> {
    let mut unpacker = Unpacker::new(target, options)?;
    for (index, (reader, expect)) in layers.into_iter().enumerate() {
        unpacker
            .layer(reader, expect.as_ref())
            .map_err(|source| Error::Layer { index, source: Box::new(source) })?;
    }
    unpacker.finish()
}

#[cfg(test)]
mod tests;
