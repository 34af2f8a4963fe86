//! From a running root to an image: find the overlay, pause, pack, name.

#![forbid(unsafe_code)]

pub mod capture;
pub mod clean;
mod error;
mod held;
mod knowledge;
mod read;
pub mod pause;
pub mod request;
pub mod source;
mod walk;
pub mod watch;

pub use error::{ErrorKind, SaveError};
