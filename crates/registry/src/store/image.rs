//! Looking images up.

use super::{Store, layout};
use crate::config::{History, ImageConfig};
use crate::digest::Digest;
use crate::document::{self, Descriptor, Index, Manifest, Platform};
use crate::error::{Error, Result};
use crate::media;
use crate::reference::Reference;

/// Fewer hex digits than this are not taken for an id.
const MIN_PREFIX: usize = 2;

/// An image in the store, its documents read and verified.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its names in the store, whole; in the order they were given.
    pub names: Vec<String>,
    /// The manifest's place in the store.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
}

impl Image {
    /// The digest of the manifest.
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// The digest of the configuration: docker's image id.
    pub fn id(&self) -> Digest {
        self.manifest.config.digest
    }

    /// The history, newest first, each step with the layer it made.
    ///
    /// Layers are matched from the newest: where a history is too short, it is the oldest part that
    /// nobody wrote down.
    pub fn history(&self) -> Vec<HistoryLine<'_>> {
        let mut layers = self.manifest.layers.iter().rev();
        let mut lines: Vec<HistoryLine<'_>> = self
            .config
            .history
            .iter()
            .rev()
            .map(|history| HistoryLine {
                history: Some(history),
                layer: if history.is_empty_layer() { None } else { layers.next() },
            })
            .collect();
        lines.extend(layers.map(|layer| HistoryLine { history: None, layer: Some(layer) }));
        lines
    }
}

/// One step of an image's history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLine<'a> {
    /// What the configuration says of it.
    pub history: Option<&'a History>,
    /// The layer it made, if it made one.
    pub layer: Option<&'a Descriptor>,
}

/// An entry of the store's index, whose image may turn out to be unreadable.
#[derive(Debug)]
pub struct Listed {
    /// Its names, whole; empty for a dangling image.
    pub names: Vec<String>,
    /// The digest that the index has for it.
    pub digest: Digest,
    /// The image, or what is wrong with it.
    pub image: Result<Image>,
}

impl Store {
    /// All images, in the order they came.
    ///
    /// # Errors
    ///
    /// The index cannot be read. A single image that cannot is in its [`Listed::image`].
    pub fn images(&self) -> Result<Vec<Listed>> {
        let index = self.index()?.unwrap_or_default();
        let mut seen = Vec::new();
        for entry in &index.manifests {
            if seen.iter().all(|s: &&Descriptor| s.digest != entry.digest) {
                seen.push(entry);
            }
        }
        Ok(seen
            .into_iter()
            .map(|entry| Listed {
                names: names_of(&index, &entry.digest),
                digest: entry.digest,
                image: self.read(&index, entry),
            })
            .collect())
    }

    /// Finds the image that is meant by a name, a digest (of manifest or configuration), or the
    /// beginning of one.
    ///
    /// # Errors
    ///
    /// [`Error::NoImage`], [`Error::Ambiguous`], or what is wrong with the image that was found.
    pub fn resolve(&self, text: &str) -> Result<Image> {
        let index = self.index()?.unwrap_or_default();
        let entry = self.entry(&index, text)?;
        self.read(&index, &index.manifests[entry])
    }

    /// Where in `index` the image stands that `text` means.
    ///
    /// A name wins over an id, as in docker: `cafe` is an image called so before it is a prefix.
    pub(super) fn entry(&self, index: &Index, text: &str) -> Result<usize> {
        let missing = || Error::NoImage { name: text.to_owned() };
        let position = |wanted: &dyn Fn(&Descriptor) -> bool| index.manifests.iter().position(wanted);
        // A name that a foreign tool wrote need not be one by docker's grammar.
        if let Some(at) = position(&|e| layout::raw_name(e) == Some(text)) {
            return Ok(at);
        }
        let name = text.parse::<Reference>();
        if let Ok(name) = &name {
            let found = match name.digest() {
                Some(digest) => position(&|e| e.digest == digest),
                None => position(&|e| layout::is_named(e, name)),
            };
            if let Some(at) = found {
                return Ok(at);
            }
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = (MIN_PREFIX..=64).contains(&prefix.len())
            && prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !is_id {
            return Err(name.err().unwrap_or_else(missing));
        }
        // A whole manifest digest needs no look into the images: how a commit finds its base.
        if let Some(at) = position(&|e| e.digest.hex() == prefix) {
            return Ok(at);
        }
        let mut found: Vec<usize> = Vec::new();
        for (at, entry) in index.manifests.iter().enumerate() {
            let known = found.iter().any(|f| index.manifests[*f].digest == entry.digest);
            if !known && self.has_id(index, entry, prefix) {
                found.push(at);
            }
        }
        match found[..] {
            [] => Err(missing()),
            [at] => Ok(at),
            _ => Err(Error::Ambiguous { prefix: text.to_owned(), count: found.len() }),
        }
    }

    fn has_id(&self, index: &Index, entry: &Descriptor, prefix: &str) -> bool {
        // An unreadable image still has the digest that the index gives it.
        entry.digest.hex().starts_with(prefix)
            || self.read(index, entry).is_ok_and(|image| image.id().hex().starts_with(prefix))
    }

    fn read(&self, index: &Index, entry: &Descriptor) -> Result<Image> {
        let descriptor = self.manifest_of(entry)?;
        let manifest = self.manifest(&descriptor.digest)?;
        let config =
            ImageConfig::from_json(manifest.config.digest, &self.document(&manifest.config.digest)?)?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(Error::LayerCount { digest: descriptor.digest, layers, diff_ids });
        }
        Ok(Image { names: names_of(index, &entry.digest), descriptor, manifest, config })
    }

    /// Follows an index within the store to this machine's manifest; we write none, other tools do.
    fn manifest_of(&self, entry: &Descriptor) -> Result<Descriptor> {
        if !media::is_index(&entry.media_type) {
            return Ok(entry.clone());
        }
        let digest = entry.digest;
        let list: Index = document::parse(|| format!("index {digest}"), &self.document(&digest)?)?;
        let machine = Platform::host();
        match list.for_machine(&machine) {
            Some(manifest) => Ok(manifest.clone()),
            None => Err(Error::Platform { digest, platform: machine.to_string() }),
        }
    }

    /// Reads and verifies a manifest.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Manifest> {
        document::parse(|| format!("manifest {digest}"), &self.document(digest)?)
    }
}

fn names_of(index: &Index, digest: &Digest) -> Vec<String> {
    index
        .manifests
        .iter()
        .filter(|entry| entry.digest == *digest)
        .filter_map(layout::raw_name)
        .map(str::to_owned)
        .collect()
}
