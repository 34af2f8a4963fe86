//! From a running root to an image: find the overlay, pause, pack, name.

#![forbid(unsafe_code)]

pub mod capture;
pub mod clean;
pub mod pause;
pub mod source;
pub mod watch;
//!
