//! File layers: from an OverlayFS upper to an OCI tar, and back.

#![forbid(unsafe_code)]

pub mod entry;
pub mod ids;
pub mod node;
mod record;
pub mod scan;
pub mod spool;
pub mod xattr;

pub use record::Malformed;
