//! Compression of layers, and the digests of both sides of it.

pub mod read;
