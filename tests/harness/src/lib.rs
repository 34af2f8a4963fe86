//! What tests that touch the kernel stand on: guards that clean up, probes, containers, foreign tools.
//!
//! Every resource is a guard: it is released when it is dropped, on panic too, and locals are dropped
//! in reverse order of their declaration. So a test reads as the list of what it needs:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let scratch = harness::Scratch::new("whiteout")?; // dropped last
//! let overlay = harness::OverlayMount::over_busybox(&scratch)?;
//! let container = harness::Container::builder(overlay.target()).start(&scratch)?; // dropped first
//! container.sh("rm /etc/passwd")?;
//! # Ok(())
//! # }
//! ```
//!
//! # Contract
//!
//! Nothing reads or changes the state of the system: tools get roots, sockets and configuration files
//! of their own inside the [`Scratch`]. Names of mounts, cgroups and containers carry
//! [`Scratch::PREFIX`], so that [`debris`] can find what was left behind.
//!
//! # Not here
//!
//! Anything that product code uses: tests depend on this crate, and benchmarks, and no room does.
#![forbid(unsafe_code)]

mod bundle;
mod capability;
mod command;
mod container;
pub mod debris;
pub mod foreign;
mod headstart;
mod mounts;
mod rootfs;
mod scratch;
mod tree;

pub use capability::{Capability, capability_table, require, why_not};
pub use command::{Ran, run};
pub use container::{Container, ContainerBuilder, Runtime};
pub use headstart::Headstart;
pub use mounts::{FileSystem, LoopDevice, LoopFs, Mount, OverlayMount, OverlayOptions, Tmpfs};
pub use rootfs::busybox_rootfs;
pub use scratch::Scratch;
pub use tree::{Kind, Node, Tolerance, Tree};
