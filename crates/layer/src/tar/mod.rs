//! The tar form of a layer: headers of 512-byte blocks, data padded to them.

pub mod read;
pub mod write;

/// Everything in a tar is a multiple of this many bytes.
pub const BLOCK: u64 = 512;

/// The end of a tar: two blocks of zeros.
pub const TRAILER: u64 = 2 * BLOCK;

/// Zeros that fill `size` bytes of data up to a whole block.
#[must_use]
pub const fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}
