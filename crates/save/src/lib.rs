//! From a running root to an image: find the overlay, pause, pack, name.

#![forbid(unsafe_code)]

pub mod capture;
mod chain;
pub mod clean;
mod commit;
mod compare;
mod diff;
mod error;
mod held;
mod image;
mod job;
mod knowledge;
mod passes;
pub mod pause;
mod read;
pub mod request;
mod saving;
mod select;
pub mod source;
mod standing;
mod walk;
pub mod watch;

pub use chain::sweep;
pub use commit::{commit, dry_run};
pub use diff::diff;
pub use error::{ErrorKind, SaveError};
