//! The only room with `unsafe` system calls.
//!
//! One small module per kernel interface. A module wraps calls and says what the kernel promises; it
//! does not know what the calls are for. What `rustix` offers safely is used from there directly.

#![expect(unsafe_code, reason = "this room exists to confine it")]

pub mod clone;
pub mod extents;
pub mod fanotify;
pub mod freezer;
pub mod guard;
pub mod idmap;
pub mod lease;
pub mod mountinfo;
pub mod page;
pub mod process;
pub mod resolve;
pub mod stamp;
