//! Any bytes as the documents of an image, as the words of a `--change`, and as a name.
//!
//! # Oracle
//! * No panic; a document is refused or read.
//! * What was read and is written again reads as the same: no field is lost.
//! * A configuration can take any change that parses, and still reads back.
//! * The familiar form of a name means the same name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registry::config::{Change, ImageConfig};
use registry::{Descriptor, Digest, Index, Manifest, Reference};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let again: Manifest = serde_json::from_slice(&manifest.to_json()).expect("our own manifest");
        assert_eq!(again, manifest);
        let _ = (manifest.format(), manifest.size(), manifest.blobs().count());
        let _ = manifest.layers.iter().map(Descriptor::compression).count();
    }
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        let text = serde_json::to_vec(&index).expect("an index can be written");
        assert_eq!(serde_json::from_slice::<Index>(&text).expect("our own index"), index);
        let _ = index.for_machine(&registry::Platform::host());
    }
    // the first line may be a change, for the configuration that follows
    let (change, config) = match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, bytes),
    };
    let text = std::str::from_utf8(change).unwrap_or_default();
    let changes = Change::parse(text).ok();
    if let Ok(mut config) = ImageConfig::from_json(Digest::of(config), config) {
        read_back(&config);
        if changes.as_ref().is_some_and(|changes| config.apply(changes).is_ok()) {
            read_back(&config);
        }
    } else if let Some(changes) = changes {
        let mut config = ImageConfig::default();
        if config.apply(&changes).is_ok() {
            read_back(&config);
        }
    }
    if let Ok(name) = text.parse::<Reference>() {
        assert_eq!(name.familiar().parse::<Reference>().expect("our own name"), name);
        assert_eq!(name.to_string().parse::<Reference>().expect("our own name"), name);
    }
});

fn read_back(config: &ImageConfig) {
    let text = config.to_json();
    let again = ImageConfig::from_json(Digest::of(&text), &text).expect("our own configuration");
    assert_eq!(&again, config);
}
