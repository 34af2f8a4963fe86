//! A world in which saving is tried: a base, an overlay over it, and a store.
//!
//! The law: for every base and everything done through a real overlay mount, the base image and the own
//! layers, unpacked one over the other, are what the mount shows.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use harness::{OverlayMount, OverlayOptions, Scratch, Tolerance, Tree};
use layer::codec::read::LayerDigests;
use layer::judge::TimePolicy;
use layer::unpack::{self, unpack};
use layer::xattr::XattrPolicy;
use registry::media::Format;
use registry::{Reference, Store};
use save::request::{Compression, Report, Request, Selection, Shape, Silent, Words};
use save::source::{FindOptions, Spec};

/// A base, an overlay over it, and a store.
#[derive(Debug)]
pub struct World {
    mount: Option<OverlayMount>,
    /// Of the store that the saves go to.
    pub store: Store,
    run: PathBuf,
    lowers: Vec<PathBuf>,
    options: Vec<(String, String)>,
    /// Last, so that it is removed last.
    pub scratch: Scratch,
    count: std::cell::Cell<u32>,
}

/// A request with nothing but a source and a name.
#[must_use]
pub fn request(source: Spec, name: &str) -> Request {
    Request {
        source,
        find: FindOptions::default(),
        base: None,
        names: vec![Reference::for_tagging(name).expect("a name")],
        format: Format::Oci,
        compression: Compression::Zstd(1),
        threads: None,
        pause: false,
        shape: Shape::Tiered,
        purge: false,
        verify: false,
        selection: Selection::default(),
        include_mounts: Vec::new(),
        xattrs: XattrPolicy::Full,
        times: TimePolicy::default(),
        strict: false,
        words: Words::default(),
    }
}

impl World {
    /// Makes the lowest layer by `base`, and an overlay over it with these options (`index=off` and so on).
    pub fn new(
        name: &str,
        options: &[(&str, &str)],
        base: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<World> {
        World::new_in(Scratch::new(name)?, options, base)
    }

    /// The same in a given scratch directory.
    pub fn new_in(
        scratch: Scratch,
        options: &[(&str, &str)],
        base: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<World> {
        let lower = scratch.dir("lower0")?;
        base(&lower)?;
        let store = Store::open(&scratch.join("root"))?;
        let run = scratch.dir("run")?;
        let options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let count = std::cell::Cell::new(0);
        let mut world = World { mount: None, store, run, lowers: vec![lower], options, scratch, count };
        world.mount()?;
        Ok(world)
    }

    fn mount(&mut self) -> Result<()> {
        let at = self.lowers.len();
        let (upper, work, target) = (
            self.scratch.dir(format!("upper{at}"))?,
            self.scratch.dir(format!("work{at}"))?,
            self.scratch.dir(format!("merged{at}"))?,
        );
        let mut options = OverlayOptions::new();
        for lower in &self.lowers {
            options = options.lower(lower);
        }
        options = options.upper(upper, work);
        for (key, value) in &self.options {
            options = if value.is_empty() { options.flag(key) } else { options.option(key, value) };
        }
        self.mount = Some(options.mount(&target)?);
        self.base_image(&target)
    }

    /// The base image is what the lowers show, packed by the comparison of two trees.
    fn base_image(&self, merged: &Path) -> Result<()> {
        let empty = self.scratch.dir("empty")?;
        let spec = Spec::Trees { tree: merged.to_owned(), against: empty };
        self.commit(&request(spec, "base"))?;
        Ok(())
    }

    /// What was done so far becomes a lower, and a new upper lies over it.
    pub fn push_lower(&mut self) -> Result<()> {
        let mount = self.mount.take().context("mounted")?;
        let upper = mount.upper().context("upper")?.to_owned();
        drop(mount);
        self.lowers.insert(0, upper);
        self.mount()
    }

    /// The mount point.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.mount.as_ref().expect("mounted").target()
    }

    /// The upper.
    #[must_use]
    pub fn upper(&self) -> &Path {
        self.mount.as_ref().expect("mounted").upper().expect("an overlay with an upper")
    }

    /// A request for the overlay on the base.
    #[must_use]
    pub fn request(&self) -> Request {
        Request { base: Some("base".to_owned()), ..request(Spec::Overlay(self.root().to_owned()), "saved") }
    }

    /// Saves.
    pub fn commit(&self, request: &Request) -> Result<Report> {
        Ok(save::commit(&self.store, request, &self.run, &Silent, &AtomicBool::new(false))?)
    }

    /// Unpacks an image of the store into a fresh directory.
    pub fn unpack(&self, name: &str) -> Result<PathBuf> {
        let image = self.store.resolve(name)?;
        self.count.set(self.count.get() + 1);
        let target = self.scratch.join(format!("out{}", self.count.get()));
        let layers =
            image.manifest.layers.iter().zip(&image.config.rootfs.diff_ids).map(|(layer, diff_id)| {
                let digests = LayerDigests { digest: *layer.digest.as_bytes(), diff_id: *diff_id.as_bytes() };
                Ok((self.store.blob(&layer.digest)?, Some(digests)))
            });
        unpack(&target, layers.collect::<Result<Vec<_>>>()?, unpack::Options::default())?;
        Ok(target)
    }

    /// Whether the image, unpacked, is what the mount shows.
    pub fn check(&self, name: &str) -> Result<()> {
        let out = self.unpack(name)?;
        let (shown, found) = (Tree::read(self.root())?, Tree::read(&out)?);
        let result = shown.must_equal(&found, &tolerance());
        std::fs::remove_dir_all(out)?;
        result
    }

    /// Saves and checks.
    pub fn save(&self, request: &Request) -> Result<Report> {
        let report = self.commit(request)?;
        self.check("saved").with_context(|| format!("{report:#?}"))?;
        Ok(report)
    }
}

/// What an image cannot say: times of directories follow what is done in them, and sockets.
#[must_use]
pub fn tolerance() -> Tolerance {
    Tolerance {
        directory_times: true,
        root: true,
        sockets: true,
        xattr_prefixes: vec!["trusted.", "security.selinux"],
        ..Tolerance::default()
    }
}

/// Bytes that do not compress, the same for the same seed.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
