//! `--compression HOW[:LEVEL]`.

use std::str::FromStr;

use registry::media::Format;

use crate::failure::Failure;
use crate::saving::Compression;

/// As written; what no level was given for gets the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompressionArg(Compression);

/// zstd's fastest ordinary level: twice the speed of its own default for a few percent of size.
const ZSTD: i32 = 1;
/// gzip's own default, and that of containerd and docker.
const GZIP: u32 = 6;

#[derive(Debug, thiserror::Error)]
pub(super) enum NotCompression {
    #[error("none, gzip, zstd or auto, and a level where it has one: zstd:3")]
    How,
    #[error("gzip has the levels 1 to 9")]
    GzipLevel,
    #[error("zstd has the levels 1 to 19")]
    ZstdLevel,
}

impl FromStr for CompressionArg {
    type Err = NotCompression;

    fn from_str(text: &str) -> Result<Self, NotCompression> {
        let (how, level) = match text.split_once(':') {
            Some((how, level)) => (how, Some(level)),
            None => (text, None),
        };
        let zstd = || match level.map(str::parse) {
            None => Ok(ZSTD),
            Some(Ok(level @ 1..=19)) => Ok(level),
            Some(_) => Err(NotCompression::ZstdLevel),
        };
        Ok(Self(match (how, level) {
            ("none", None) => Compression::None,
            ("gzip", None) => Compression::Gzip(GZIP),
            ("gzip", Some(level)) => match level.parse() {
                Ok(level @ 1..=9) => Compression::Gzip(level),
                _ => return Err(NotCompression::GzipLevel),
            },
            ("zstd", _) => Compression::Zstd(zstd()?),
            ("auto", _) => Compression::Auto(zstd()?),
            _ => return Err(NotCompression::How),
        }))
    }
}

/// What was asked for, or the default of the format.
pub(super) fn choose(asked: Option<CompressionArg>, format: Format) -> Result<Compression, Failure> {
    match (asked, format) {
        (None, Format::Oci) => Ok(Compression::Zstd(ZSTD)),
        (None, Format::Docker) => Ok(Compression::Gzip(GZIP)),
        (Some(CompressionArg(Compression::Zstd(_) | Compression::Auto(_))), Format::Docker) => {
            Err(registry::Error::DockerFormat("zstd").into())
        }
        (Some(CompressionArg(compression)), _) => Ok(compression),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_levels() {
        for (text, expected) in [
            ("none", Compression::None),
            ("gzip", Compression::Gzip(6)),
            ("gzip:1", Compression::Gzip(1)),
            ("zstd", Compression::Zstd(1)),
            ("zstd:19", Compression::Zstd(19)),
            ("auto:3", Compression::Auto(3)),
        ] {
            assert_eq!(text.parse::<CompressionArg>().unwrap().0, expected, "{text}");
        }
        for text in ["", "none:1", "gzip:0", "gzip:10", "zstd:20", "zstd:", "auto:x", "xz"] {
            assert!(text.parse::<CompressionArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn docker_gets_gzip_and_never_zstd() {
        assert_eq!(choose(None, Format::Docker).unwrap(), Compression::Gzip(6));
        assert_eq!(choose(None, Format::Oci).unwrap(), Compression::Zstd(1));
        assert!(choose(Some("zstd".parse().unwrap()), Format::Docker).is_err());
        assert!(choose(Some("none".parse().unwrap()), Format::Docker).is_ok());
    }
}
