//! File layers: from an OverlayFS upper to an OCI tar, and back.

#![forbid(unsafe_code)]

pub mod codec;
pub mod entry;
pub mod frames;
pub mod pack;
pub mod tar;
