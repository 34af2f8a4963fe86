//! The tar format, as layers use it.

pub mod read;
#[cfg(test)]
pub(crate) mod testing;
