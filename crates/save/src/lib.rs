//! From a running root to an image: find the overlay, pause, pack, name.

#![forbid(unsafe_code)]

pub mod source;
