//! The JSON documents of an image: descriptor, manifest, index.
//!
//! Every document keeps the fields it does not know (`extra`), so that reading and writing one loses
//! nothing that another tool, or a later version of the standard, put there.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::media::{self, Compression, Format};

/// Annotations of a document.
pub type Annotations = BTreeMap<String, String>;

/// No honest manifest, index or configuration is larger; registries draw the line at 4 MiB for
/// manifests, and a configuration of 8 MiB would have 20,000 history entries.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;

/// Annotation keys in `index.json`.
pub mod annotation {
    /// The name of an image; we write the whole normalised name, so that it means one thing only.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// The name under which containerd imports an image.
    pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
}

/// A typed reference to a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What its referrer says about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// The machine it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor without annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: None,
            platform: None,
            extra: Map::new(),
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// How the layer that this describes is compressed.
    ///
    /// # Errors
    ///
    /// [`Error::MediaType`] when it is no layer.
    pub fn compression(&self) -> Result<Compression> {
        Compression::of_layer(&self.media_type)
            .ok_or_else(|| Error::MediaType { digest: self.digest, media_type: self.media_type.clone() })
    }

    /// The same layer under the media type of `format`.
    fn in_format(mut self, format: Format) -> Result<Self> {
        self.media_type = format.layer(self.compression()?)?.to_owned();
        Ok(self)
    }
}

/// The machine a manifest is for, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `GOARCH`.
    pub architecture: String,
    /// `GOOS`.
    pub os: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Platform {
    /// The machine this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            architecture: architecture.to_owned(),
            os: std::env::consts::OS.to_owned(),
            variant: variant.map(str::to_owned),
            extra: Map::new(),
        }
    }

    /// Whether an image for `self` runs on `machine`. A variant counts only where both name one.
    pub fn runs_on(&self, machine: &Self) -> bool {
        self.os == machine.os
            && self.architecture == machine.architecture
            && (self.variant == machine.variant || self.variant.is_none() || machine.variant.is_none())
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Optional in OCI, required by docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What the author says about the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Manifest {
    /// Writes the manifest of a new image: the base's layers under `format`'s media types, then the
    /// new ones. The base's annotations are not taken over: they describe the base.
    ///
    /// # Errors
    ///
    /// [`Error::MediaType`] or [`Error::DockerFormat`] when a layer cannot stand in this format.
    pub fn compose(format: Format, config: &[u8], base: &[Descriptor], new: Vec<Descriptor>) -> Result<Self> {
        Ok(Self {
            schema_version: 2,
            media_type: Some(format.manifest().to_owned()),
            config: Descriptor::of(format.config(), config),
            layers: base.iter().cloned().chain(new).map(|l| l.in_format(format)).collect::<Result<_>>()?,
            annotations: None,
            extra: Map::new(),
        })
    }

    /// Whose media types it carries.
    pub fn format(&self) -> Format {
        if self.config.media_type == media::DOCKER_CONFIG { Format::Docker } else { Format::Oci }
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// The bytes of configuration and layers as stored.
    pub fn size(&self) -> u64 {
        self.blobs().fold(0, |sum, blob| sum.saturating_add(blob.size))
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// A list of manifests: for several machines, or of several images in a layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Fields unknown to us.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media::OCI_INDEX.to_owned()),
            manifests: Vec::new(),
            extra: Map::new(),
        }
    }
}

impl Index {
    /// The manifest for `machine`; of several the first, as containerd and docker choose.
    pub fn for_machine(&self, machine: &Platform) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.runs_on(machine));
        let unmarked = |d: &&Descriptor| d.platform.is_none() && media::is_manifest(&d.media_type);
        self.manifests.iter().find(fits).or_else(|| self.manifests.iter().find(unmarked))
    }
}

/// Parses a document; `name` says which one, for the error.
pub(crate) fn parse<T: DeserializeOwned>(name: impl FnOnce() -> String, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Document { document: name(), source })
}

/// Compact JSON; field order is that of the type, so equal values give equal bytes.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our documents have string keys and cannot fail to serialise")
}

/// Reads `null` as the default: Go writes it for empty lists and maps.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
