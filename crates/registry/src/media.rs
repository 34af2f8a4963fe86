//! Media types of manifests, configurations and layers, OCI's and docker's.

use crate::error::{Error, Result};

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, an uncompressed tar; compressed ones have a suffix.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list: an index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, an uncompressed tar.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd: no standard, but BuildKit and containerd write and read it.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// Whose media types an image carries. The documents are otherwise the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// OCI image 1.x.
    #[default]
    Oci,
    /// Docker image manifest, version 2, schema 2.
    Docker,
}

/// How the tar of a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Format {
    /// The media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => OCI_MANIFEST,
            Self::Docker => DOCKER_MANIFEST,
        }
    }

    /// The media type of a configuration.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => OCI_CONFIG,
            Self::Docker => DOCKER_CONFIG,
        }
    }

    /// The media type of a layer.
    ///
    /// # Errors
    ///
    /// [`Error::DockerFormat`]: docker's format has no zstd that its readers agree on.
    pub fn layer(self, compression: Compression) -> Result<&'static str> {
        Ok(match (self, compression) {
            (Self::Oci, Compression::None) => OCI_LAYER,
            (Self::Oci, Compression::Gzip) => OCI_LAYER_GZIP,
            (Self::Oci, Compression::Zstd) => OCI_LAYER_ZSTD,
            (Self::Docker, Compression::None) => DOCKER_LAYER,
            (Self::Docker, Compression::Gzip) => DOCKER_LAYER_GZIP,
            (Self::Docker, Compression::Zstd) => return Err(Error::DockerFormat("zstd")),
        })
    }
}

impl Compression {
    /// What the media type of a layer says; `None` when it is no layer of a container image.
    pub fn of_layer(media_type: &str) -> Option<Self> {
        // "Nondistributable" and "foreign" layers are the same bytes under an older name.
        let media_type = media_type.replace("nondistributable.", "").replace(".foreign.", ".");
        Some(match media_type.as_str() {
            OCI_LAYER | DOCKER_LAYER => Self::None,
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Self::Gzip,
            OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Self::Zstd,
            _ => return None,
        })
    }

    /// What the first bytes of a stream say.
    pub fn of_magic(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame may come first; zstd:chunked has them.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Whether the media type is that of a manifest of one image.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether the media type is that of a list of manifests.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether the media type is that of the configuration of a container image, and not of an artifact
/// that is kept in the same way (a chart, a signature).
pub fn is_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}
