//! File layers: from an OverlayFS upper to an OCI tar, and back.

#![forbid(unsafe_code)]

pub mod entry;
