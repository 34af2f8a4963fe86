//! Reading the images of an archive into the store.
//!
//! The archive is read once, front to back: standard input will do. Every file is staged as it comes
//! and hashed on the way, because what it is for often stands at the end (`members.rs`). Then the
//! documents are followed from the table of contents down, every blob compared with the digest that its
//! referrer gives; and only when all of that holds do the blobs get their names, and the images theirs,
//! in one step of the store.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;

use super::ArchiveError;
use super::docker::DockerEntry;
use super::members::Members;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::document::{Descriptor, Index, Manifest, Platform, annotation};
use crate::error::{Error, Result};
use crate::media::{self, Compression, Format};
use crate::reference::Reference;
use crate::store::{Entry, LayoutMarker, Packed, Store};

/// Indexes within indexes, deeper than anybody nests them.
const MAX_NESTING: usize = 8;

/// What an archive may cost us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files together, as they lie in the archive (after it was decompressed). What does
    /// not fit on the store's disk is refused before it is read, whatever stands here.
    pub bytes: u64,
    /// Members of any kind.
    pub members: u64,
}

impl Default for Limits {
    /// No limit but the disk's on bytes; ten thousand images of ten layers.
    fn default() -> Self {
        Self { bytes: u64::MAX, members: 100_000 }
    }
}

/// An image that was in the archive and is now in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// Its manifest in the store.
    pub manifest: Descriptor,
    /// The digest of its configuration: docker's image id.
    pub id: Digest,
    /// The names it got.
    pub names: Vec<Reference>,
    /// What the archive calls it, when that is no name of its own (`latest`), or no valid one.
    pub unnamed: Option<String>,
}

/// Stores the images of an OCI or docker archive, uncompressed, and gives them their names.
///
/// Of an image index, the manifest for this machine is taken. Where the archive is both kinds, the OCI
/// part counts. Layers of docker archives have no digest of their own but that of their plain tar: it
/// is compared here if they are plain, and when they are unpacked if they are compressed.
///
/// # Errors
///
/// [`ArchiveError`] for anything the archive lacks, contradicts or hides; the store is as it was then.
pub fn load(store: &Store, archive: impl Read, limits: Limits) -> Result<Vec<Loaded>> {
    let members = Members::stage(store, archive, limits)?;
    let mut found = Found::default();
    if members.has("index.json") {
        found.oci(&members)?;
    } else if members.has("manifest.json") {
        found.docker(&members)?;
    }
    if found.loaded.is_empty() {
        return Err(match found.foreign {
            true => ArchiveError::Platform { platform: Platform::host().to_string() },
            false => ArchiveError::NoImages,
        }
        .into());
    }
    let mut blobs = members.into_blobs(store, found.blobs)?;
    for manifest in &found.made {
        blobs.push(store.stage(manifest)?);
    }
    // Equal blobs under two names of a docker archive would race for one file.
    let mut seen = BTreeSet::new();
    blobs.retain(|blob: &Packed| seen.insert(blob.digest));
    store.admit(blobs, found.entries)?;
    Ok(found.loaded)
}

/// What is to go into the store.
#[derive(Debug, Default)]
struct Found {
    /// Names of members; images share them.
    blobs: BTreeSet<String>,
    /// Manifests that we write for images of docker archives, which have none.
    made: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    loaded: Vec<Loaded>,
    /// Whether an image was left out because it is for another machine.
    foreign: bool,
}

impl Found {
    fn oci(&mut self, members: &Members) -> Result<()> {
        let marker = members.document("oci-layout")?;
        if let Some(version) = LayoutMarker::unsupported(&marker, || "oci-layout in the archive".to_owned())?
        {
            return Err(Error::Layout { path: "the archive".into(), version });
        }
        let index: Index = members.json("index.json")?;
        let repo_tags = repo_tags(members)?;
        for entry in &index.manifests {
            let Some(descriptor) = self.for_machine(members, entry)? else { continue };
            let Some(manifest) = self.oci_image(members, &descriptor)? else { continue };
            let id = manifest.config.digest;
            let name = entry.annotation(annotation::CONTAINERD_NAME);
            let (names, unnamed) = match (name, entry.annotation(annotation::REF_NAME)) {
                (Some(name), _) => named([name]),
                (None, Some(name)) if name.contains(['/', ':']) => named([name]),
                (None, bare) => match repo_tags.get(&id) {
                    Some(tags) => named(tags.iter().map(String::as_str)),
                    None => (Vec::new(), bare.map(str::to_owned)),
                },
            };
            self.add(descriptor, &manifest, names, unnamed);
        }
        Ok(())
    }

    /// Follows indexes to the manifest for this machine.
    fn for_machine(&mut self, members: &Members, entry: &Descriptor) -> Result<Option<Descriptor>> {
        let mut at = entry.clone();
        for _ in 0..MAX_NESTING {
            if !media::is_index(&at.media_type) {
                break;
            }
            let list: Index = members.json(&members.blob(&at.digest)?)?;
            match list.for_machine(&Platform::host()) {
                Some(next) => at = next.clone(),
                None => {
                    self.foreign = true;
                    return Ok(None);
                }
            }
        }
        let is_image = media::is_manifest(&at.media_type);
        Ok(is_image.then(|| Descriptor::new(&at.media_type, at.digest, at.size)))
    }

    /// Finds the blobs of an image; `None` when the manifest is of something else.
    fn oci_image(&mut self, members: &Members, descriptor: &Descriptor) -> Result<Option<Manifest>> {
        let name = members.blob(&descriptor.digest)?;
        let manifest: Manifest = members.json(&name)?;
        if !media::is_config(&manifest.config.media_type) {
            return Ok(None);
        }
        self.blobs.insert(name);
        for blob in manifest.blobs() {
            self.blobs.insert(members.blob(&blob.digest)?);
        }
        let config = members.document(&members.blob(&manifest.config.digest)?)?;
        let config = ImageConfig::from_json(manifest.config.digest, &config)?;
        check_count(descriptor.digest, manifest.layers.len(), &config)?;
        for (layer, expected) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            if layer.compression()? == Compression::None && layer.digest != *expected {
                let name = layer.digest.to_string();
                return Err(ArchiveError::DiffId { name, expected: *expected, actual: layer.digest }.into());
            }
        }
        Ok(Some(manifest))
    }

    fn docker(&mut self, members: &Members) -> Result<()> {
        let entries: Vec<DockerEntry> = members.json("manifest.json")?;
        for entry in entries {
            let (config_name, file) = members.follow(&entry.config)?;
            let id = file.digest;
            // `<hex>.json`: the name says what the content must hash to.
            let stem = config_name.rsplit('/').next().unwrap_or_default();
            let stem = stem.strip_suffix(".json").unwrap_or(stem);
            if Digest::from_hex(stem).is_ok_and(|named| named != id) {
                return Err(ArchiveError::Damaged { name: config_name, actual: id }.into());
            }
            let bytes = members.document(&config_name)?;
            let config = ImageConfig::from_json(id, &bytes)?;
            check_count(id, entry.layers.len(), &config)?;
            let mut layers = Vec::new();
            for (name, diff_id) in entry.layers.iter().zip(&config.rootfs.diff_ids) {
                layers.push(self.docker_layer(members, name, *diff_id)?);
            }
            self.blobs.insert(config_name);
            // Docker's own media types, unless a layer has none among them.
            let zstd = layers.iter().any(|layer| layer.media_type == media::OCI_LAYER_ZSTD);
            let format = if zstd { Format::Oci } else { Format::Docker };
            let manifest = Manifest::compose(format, &bytes, &[], layers)?;
            let json = manifest.to_json();
            let descriptor = Descriptor::of(format.manifest(), &json);
            self.made.push(json);
            let (names, unnamed) = named(entry.repo_tags.iter().map(String::as_str));
            self.add(descriptor, &manifest, names, unnamed);
        }
        Ok(())
    }

    fn docker_layer(&mut self, members: &Members, name: &str, expected: Digest) -> Result<Descriptor> {
        let (name, file) = members.follow(name)?;
        let compression = Compression::of_magic(&file.head(4)?);
        let (actual, size) = (file.digest, file.size);
        if compression == Compression::None && actual != expected {
            return Err(ArchiveError::DiffId { name, expected, actual }.into());
        }
        self.blobs.insert(name);
        Ok(Descriptor::new(Format::Oci.layer(compression)?, actual, size))
    }

    fn add(
        &mut self,
        manifest: Descriptor,
        document: &Manifest,
        names: Vec<Reference>,
        unnamed: Option<String>,
    ) {
        let needs = std::iter::once(&manifest).chain(document.blobs()).cloned().collect();
        self.entries.push(Entry { manifest: manifest.clone(), needs, names: names.clone() });
        // Several entries for one image are several names of it.
        match self.loaded.iter_mut().find(|loaded| loaded.manifest.digest == manifest.digest) {
            Some(loaded) => loaded.names.extend(names),
            None => self.loaded.push(Loaded { manifest, id: document.config.digest, names, unnamed }),
        }
    }
}

/// The names that the docker part of an archive gives to configurations.
fn repo_tags(members: &Members) -> Result<HashMap<Digest, Vec<String>>> {
    if !members.has("manifest.json") {
        return Ok(HashMap::new());
    }
    let entries: Vec<DockerEntry> = members.json("manifest.json")?;
    entries.into_iter().map(|entry| Ok((members.follow(&entry.config)?.1.digest, entry.repo_tags))).collect()
}

fn check_count(digest: Digest, layers: usize, config: &ImageConfig) -> Result<()> {
    match config.rootfs.diff_ids.len() {
        diff_ids if diff_ids == layers => Ok(()),
        diff_ids => Err(Error::LayerCount { digest, layers, diff_ids }),
    }
}

/// The valid names among these, and the first that is none.
fn named<'a>(texts: impl IntoIterator<Item = &'a str>) -> (Vec<Reference>, Option<String>) {
    let mut names = Vec::new();
    let mut unnamed = None;
    for text in texts {
        match Reference::for_tagging(text) {
            Ok(name) => names.push(name),
            Err(_) => unnamed = unnamed.or_else(|| Some(text.to_owned())),
        }
    }
    (names, unnamed)
}
