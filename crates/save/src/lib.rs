//! From a running root to an image: find the overlay, pause, pack, name.

#![forbid(unsafe_code)]

pub mod capture;
mod chain;
pub mod clean;
mod commit;
mod compare;
mod error;
mod held;
mod image;
mod job;
mod knowledge;
pub mod pause;
mod read;
pub mod request;
mod select;
pub mod source;
mod walk;
pub mod watch;

pub use chain::sweep;
pub use commit::{commit, diff, dry_run};
pub use error::{ErrorKind, SaveError};
