//! `manifest.json`, the table of contents of a docker archive.

use serde::{Deserialize, Serialize};

use crate::document::{Manifest, null_is_default};
use crate::reference::Reference;

/// One image of a docker archive; the paths are names of members.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerEntry {
    pub(super) config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) layers: Vec<String>,
}

impl DockerEntry {
    /// The entry of an image whose blobs lie where an OCI layout has them.
    pub(super) fn of(manifest: &Manifest, names: &[Reference]) -> Self {
        let path = |digest: &crate::Digest| format!("blobs/sha256/{}", digest.hex());
        Self {
            config: path(&manifest.config.digest),
            // Docker's readers want the short form, as docker writes it.
            repo_tags: names.iter().map(Reference::familiar).collect(),
            layers: manifest.layers.iter().map(|layer| path(&layer.digest)).collect(),
        }
    }
}
