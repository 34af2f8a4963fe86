//! File layers: from an OverlayFS upper to an OCI tar, and back.

#![forbid(unsafe_code)]

pub mod codec;
pub mod compose;
pub mod entry;
pub mod frames;
pub mod ids;
pub mod judge;
pub mod lowers;
pub mod node;
pub mod pack;
pub mod plan;
pub mod record_file;
pub mod scan;
pub mod spool;
pub mod table;
pub mod tar;
mod tiers;
pub mod unpack;
pub mod wire;
pub mod xattr;
