//! From a running root to an image.

#![forbid(unsafe_code)]

pub mod capture;
pub mod clean;
pub mod pause;
pub mod watch;
