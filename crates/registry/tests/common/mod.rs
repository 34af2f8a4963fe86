//! Small images to fill stores with.

use std::io::Write;

use jiff::Timestamp;
use registry::config::{ImageConfig, Step};
use registry::media::{Compression, Format};
use registry::{Descriptor, Digest, Manifest, NewImage, Packed, Published, Reference, Result, Store};

/// A tar with one file.
pub(crate) fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

/// Publishes an image with one more plain layer on `base`.
pub(crate) fn publish(store: &Store, base: Option<&str>, tar: &[u8], names: &[&str]) -> Result<Published> {
    publish_as(store, Format::Oci, base, tar, names)
}

pub(crate) fn publish_as(
    store: &Store,
    format: Format,
    base: Option<&str>,
    tar: &[u8],
    names: &[&str],
) -> Result<Published> {
    publish_packed(store, (format, Compression::None), base, (tar, tar), names)
}

/// Publishes a layer that is `tar` in plain and `packed` in the store.
pub(crate) fn publish_packed(
    store: &Store,
    (format, compression): (Format, Compression),
    base: Option<&str>,
    (tar, packed): (&[u8], &[u8]),
    names: &[&str],
) -> Result<Published> {
    let base = base.map(|name| store.resolve(name)).transpose()?;
    let ingest = store.ingest()?;
    ingest.file().write_all(packed).map_err(|source| registry::Error::Io {
        action: "write",
        path: ingest.path().to_owned(),
        source,
    })?;
    let (digest, size) = (Digest::of(packed), packed.len() as u64);
    let mut config = base.as_ref().map_or_else(ImageConfig::default, |base| base.config.clone());
    let step = Step {
        created: Timestamp::from_second(1_700_000_000).unwrap(),
        created_by: "test".into(),
        author: None,
        comment: Some("a message".into()),
    };
    config.record(&step, &[Digest::of(tar)]);
    let config = config.to_json();
    let lower = base.as_ref().map_or(&[][..], |base| &base.manifest.layers);
    let new = Descriptor::new(format.layer(compression)?, digest, size);
    let manifest = Manifest::compose(format, &config, lower, vec![new])?.to_json();
    let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
    store.publish(NewImage { layers: vec![Packed { ingest, digest, size }], config, manifest, names })
}

/// Everything that the index refers to is there and whole.
pub(crate) fn assert_consistent(store: &Store) {
    for listed in store.images().unwrap() {
        let image = listed.image.unwrap_or_else(|e| panic!("{:?}: {e}", listed.names));
        store.verify(&image.digest()).unwrap();
        for blob in image.manifest.blobs() {
            store.verified_blob(blob).unwrap();
        }
    }
}
