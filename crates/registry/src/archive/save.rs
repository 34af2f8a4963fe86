//! Writing images into one archive.

use std::collections::BTreeSet;
use std::io::Write;

use super::ArchiveError;
use super::docker::DockerEntry;
use super::tar::Writer;
use crate::document::{self, Descriptor, Index, annotation};
use crate::error::{Damage, Error, Result};
use crate::reference::Reference;
use crate::store::{Image, LayoutMarker, Store};

/// Writes `images`, each under the names that are given with it, as an archive that is an OCI layout
/// and a docker archive. Equal images give equal bytes.
///
/// Every layer is read twice: first compared with its digest, so that no damaged blob gets out.
///
/// # Errors
///
/// [`Error::Damaged`] or [`Error::NoBlob`] before any byte of that blob is written;
/// [`ArchiveError::Write`].
pub fn save(store: &Store, images: &[(Image, Vec<Reference>)], out: impl Write) -> Result<()> {
    // Nothing may be collected before it is written.
    let _pins = images.iter().map(|(image, _)| store.pin(&image.digest())).collect::<Result<Vec<_>>>()?;
    let mut index = Index::default();
    let mut docker = Vec::new();
    let mut blobs: Vec<&Descriptor> = Vec::new();
    let mut seen = BTreeSet::new();
    for (image, names) in images {
        index.manifests.extend(entries(&image.descriptor, names));
        docker.push(DockerEntry::of(&image.manifest, names));
        let all = std::iter::once(&image.descriptor).chain(image.manifest.blobs());
        blobs.extend(all.filter(|blob| seen.insert(blob.digest)));
    }
    let failed = |e| Error::Archive(ArchiveError::Write(e));
    let mut tar = Writer::new(out);
    for (name, bytes) in [
        ("oci-layout", LayoutMarker::bytes()),
        ("index.json", document::to_json(&index)),
        ("manifest.json", document::to_json(&docker)),
    ] {
        tar.file(name, bytes.len() as u64, &bytes[..]).map_err(failed)?;
    }
    tar.directory("blobs/").map_err(failed)?;
    tar.directory("blobs/sha256/").map_err(failed)?;
    for blob in blobs {
        let file = store.verified_blob(blob)?;
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        let written = tar.file(&name, blob.size, file).map_err(failed)?;
        if written != blob.size {
            let damage = Damage::Size { expected: blob.size, actual: written };
            return Err(Error::Damaged { digest: blob.digest, damage });
        }
    }
    tar.finish().map_err(failed)
}

/// One entry of the index for each name, as readers expect it; one without if there is none.
fn entries(manifest: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    let plain = Descriptor::new(&manifest.media_type, manifest.digest, manifest.size);
    if names.is_empty() {
        return vec![plain];
    }
    let keys = [annotation::CONTAINERD_NAME, annotation::REF_NAME];
    names
        .iter()
        .map(|name| Descriptor {
            annotations: Some(keys.map(|key| (key.to_owned(), name.to_string())).into()),
            ..plain.clone()
        })
        .collect()
}
