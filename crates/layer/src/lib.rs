//! File layers: from an OverlayFS upper to an OCI tar, and back.

#![forbid(unsafe_code)]

pub mod codec;
pub mod entry;
pub mod tar;
pub mod unpack;
