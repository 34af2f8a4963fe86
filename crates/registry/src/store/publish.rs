//! Putting a new image into the store.

use std::io::Write;
use std::path::PathBuf;

use super::{Ingest, Step, Store, files, layout};
use crate::digest::Digest;
use crate::document::{self, Descriptor, Manifest};
use crate::error::{Damage, Error, Result};
use crate::media::Format;
use crate::reference::Reference;

/// A blob whose bytes are all written, with what the writer computed about them.
#[derive(Debug)]
pub struct Packed {
    /// Where the bytes are.
    pub ingest: Ingest,
    /// What they hash to.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// An image to be published: its new layers and its documents.
#[derive(Debug)]
pub struct NewImage {
    /// The layers that are not in the store yet. One that turns out to be there is replaced: the bytes
    /// are the same.
    pub layers: Vec<Packed>,
    /// The configuration, as [`crate::config::ImageConfig::to_json`] gives it.
    pub config: Vec<u8>,
    /// The manifest, as [`Manifest::compose`] and [`Manifest::to_json`] give it.
    pub manifest: Vec<u8>,
    /// What the image is to be called; without a name it is known by its id until it is pruned.
    pub names: Vec<Reference>,
}

/// What [`Store::publish`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The manifest, durable and referenced.
    pub manifest: Descriptor,
    /// The digest of the configuration: docker's image id.
    pub id: Digest,
    /// Bytes of layers that the manifest names and that were there already.
    pub reused: u64,
}

/// An image whose blobs arrive together with others': the entry of the index, and its names.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) manifest: Descriptor,
    pub(crate) needs: Vec<Descriptor>,
    pub(crate) names: Vec<Reference>,
}

impl Store {
    /// Makes a new image durable and gives it its names.
    ///
    /// When this returns, the image survives a power cut. When it fails, or the machine dies in it, the
    /// names point to what they did before, and nothing that they point to has changed.
    ///
    /// # Errors
    ///
    /// [`Error::NoBlob`] when the manifest names a layer that is neither new nor in the store (pin a
    /// base while working on it: [`Store::pin`]); [`Error::Damaged`] when a size is not as said.
    pub fn publish(&self, image: NewImage) -> Result<Published> {
        let NewImage { layers, config, manifest: bytes, names } = image;
        let manifest: Manifest = document::parse(|| "the new manifest".to_owned(), &bytes)?;
        let format = manifest.format();
        expect(&manifest.config, &config)?;
        let reused = manifest
            .layers
            .iter()
            .filter(|layer| layers.iter().all(|new| new.digest != layer.digest))
            .fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        let descriptor = describe(format, &manifest, &bytes);
        let mut blobs = layers;
        for document in [&config, &bytes] {
            blobs.push(self.stage(document)?);
        }
        let id = manifest.config.digest;
        let needs = manifest.blobs().cloned().collect();
        self.admit(blobs, vec![Entry { manifest: descriptor.clone(), needs, names }])?;
        Ok(Published { manifest: descriptor, id, reused })
    }

    /// Writes a document to an ingest.
    pub(crate) fn stage(&self, bytes: &[u8]) -> Result<Packed> {
        let ingest = self.ingest()?;
        ingest.file().write_all(bytes).map_err(Error::io("write", ingest.path()))?;
        self.step(Step::DocumentWritten)?;
        Ok(Packed { ingest, digest: Digest::of(bytes), size: bytes.len() as u64 })
    }

    /// Makes blobs and the images that need them durable: all of them, or none.
    ///
    /// First the bytes, outside the lock, for they may be many; a collection spares them, because we
    /// hold their ingests. Then, with the lock, the names of the blobs; then the index. A crash before
    /// the index is replaced leaves blobs that nothing refers to. None can be half there: each gets its
    /// name by a rename after its bytes are durable.
    pub(crate) fn admit(&self, blobs: Vec<Packed>, entries: Vec<Entry>) -> Result<()> {
        entries.iter().flat_map(|entry| &entry.names).try_for_each(Reference::check_taggable)?;
        for blob in &blobs {
            let actual = blob.ingest.len()?;
            if actual != blob.size {
                let damage = Damage::Size { expected: blob.size, actual };
                return Err(Error::Damaged { digest: blob.digest, damage });
            }
        }
        files::all_at_once(blobs.iter().map(|blob| || blob.ingest.sync()).collect())?;
        self.step(Step::BytesDurable)?;

        let _lock = self.lock()?;
        let mut placed = Vec::new();
        self.place(blobs, &entries, &mut placed).inspect_err(|error| {
            // What we have just placed still takes the room that may be missing. Nobody else can have
            // come to need it, for we hold the lock; but the new index may be there, not yet durable,
            // so it is asked. If that fails too, the blobs are left to `prune`.
            if !matches!(error, Error::Stopped(_)) {
                let _ = self.index().and_then(|index| self.collect(&index.unwrap_or_default(), placed));
            }
        })
    }

    /// The part of [`Store::admit`] under the lock; tells in `placed` which blobs are new.
    fn place(&self, blobs: Vec<Packed>, entries: &[Entry], placed: &mut Vec<Digest>) -> Result<()> {
        for mut blob in blobs {
            // An equal blob that is there already is replaced: that costs nothing, since the new bytes
            // are durable, and it mends one that is damaged. Who reads the old one can go on.
            let is_new = self.length(&blob.digest)?.is_none();
            blob.ingest.place(&self.blob_path(&blob.digest))?;
            placed.extend(is_new.then_some(blob.digest));
            self.step(Step::BlobPlaced)?;
        }
        // Nothing can be collected from here on, so what is there now is there when the index says so.
        for needed in entries.iter().flat_map(|entry| &entry.needs) {
            match self.length(&needed.digest)? {
                None => return Err(Error::NoBlob { digest: needed.digest }),
                Some(actual) if actual != needed.size => {
                    let damage = Damage::Size { expected: needed.size, actual };
                    return Err(Error::Damaged { digest: needed.digest, damage });
                }
                Some(_) => {}
            }
        }
        let mut index = self.index()?.unwrap_or_default();
        for Entry { manifest, names, .. } in entries {
            if names.is_empty() {
                layout::point(&mut index, None, manifest);
            }
            names.iter().for_each(|name| layout::point(&mut index, Some(name), manifest));
        }
        // Also when every blob was there already: whoever placed one may have died before this sync.
        self.replace_index(&index, Some(self.blobs()))
    }

    /// The length of a blob in bytes, or `None` when it is absent.
    pub(super) fn length(&self, digest: &Digest) -> Result<Option<u64>> {
        let path: PathBuf = self.blob_path(digest);
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("stat", &path)(e)),
        }
    }
}

fn expect(descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    match Digest::of(bytes) {
        actual if actual != descriptor.digest => {
            Err(Error::Damaged { digest: descriptor.digest, damage: Damage::Digest { actual } })
        }
        _ => Ok(()),
    }
}

/// The entry of the index for a manifest.
fn describe(format: Format, manifest: &Manifest, bytes: &[u8]) -> Descriptor {
    Descriptor::of(manifest.media_type.as_deref().unwrap_or(format.manifest()), bytes)
}
