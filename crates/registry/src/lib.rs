//! OCI images at rest: the local store, image configuration, and archives.
//!
//! An image is a manifest that names a configuration and layers by digest. The [`Store`] keeps them in
//! an OCI image layout that any other tool can read in place; [`config`] builds the configuration of a
//! new image from its base's; [`archive`] carries images to and from a single file.
//!
//! # Not here
//!
//! What is inside a layer (crate `layer`), and how a running container becomes one (crate `save`).

#![forbid(unsafe_code)]

pub mod archive;
pub mod config;
mod digest;
mod document;
mod error;
pub mod media;
mod reference;
pub mod store;

pub use digest::{Digest, DigestError, Hashing};
pub use document::{Annotations, Descriptor, Index, Manifest, Platform, annotation};
pub use error::{Damage, Error, Kind, Result};
pub use reference::{NameError, Reference};
pub use store::{Image, Ingest, NewImage, Packed, Published, Store};
