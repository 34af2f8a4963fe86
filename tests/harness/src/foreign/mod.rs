//! Tools that others wrote, each with a state of its own, for unpacking an image with them.
//!
//! Each takes an OCI image layout directory and gives a tree, so that a test can hold our unpacker
//! against theirs.

mod containerd;
mod containers_storage;
mod podman;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use containerd::{Containerd, MountedSnapshot};
pub use containers_storage::{ContainersStorage, MountedContainer, StorageTool};
pub use podman::PodmanContainer;

use crate::{Ran, Scratch, run};

/// Copies an image between places in skopeo's words, for example `oci:DIR:TAG` to `docker-archive:FILE`.
pub fn skopeo_copy(scratch: &Scratch, from: &OsStr, to: &OsStr) -> Result<Ran> {
    let temporary = scratch.dir("skopeo-tmp")?;
    let words = [
        OsStr::new("--insecure-policy"),
        OsStr::new("--tmpdir"),
        temporary.as_os_str(),
        OsStr::new("copy"),
        OsStr::new("--quiet"),
        from,
        to,
    ];
    run("skopeo", words)
}

/// Makes a layout with one image of one layer, tagged `test`, from what `fill` puts into a directory. Returns
/// the layout and that directory, which umoci's bundle keeps.
pub fn umoci_pack(scratch: &Scratch, fill: impl FnOnce(&Path) -> Result<()>) -> Result<(PathBuf, PathBuf)> {
    let (layout, bundle) = (scratch.join("layout"), scratch.join("packed"));
    let image = words(&layout, ":", "test");
    run("umoci", ["init".as_ref(), "--layout".as_ref(), layout.as_os_str()])?;
    run("umoci", ["new".as_ref(), "--image".as_ref(), image.as_os_str()])?;
    let image_and_bundle = ["--image".as_ref(), image.as_os_str(), bundle.as_os_str()];
    run("umoci", [OsStr::new("unpack")].into_iter().chain(image_and_bundle))?;
    let root = bundle.join("rootfs");
    fill(&root)?;
    run("umoci", [OsStr::new("repack")].into_iter().chain(image_and_bundle))?;
    Ok((layout, root))
}

/// Unpacks an image with umoci and returns the root file system. umoci 0.4.7 reads no zstd.
pub fn umoci_unpack(layout: &Path, tag: &str, bundle: &Path) -> Result<PathBuf> {
    let image = words(layout, ":", tag);
    let args = [OsStr::new("unpack"), OsStr::new("--image"), &image, bundle.as_os_str()];
    run("umoci", args)?;
    Ok(bundle.join("rootfs"))
}

/// `oci:LAYOUT:TAG`, the word that skopeo, buildah and podman know.
pub fn oci_name(layout: &Path, tag: &str) -> OsString {
    let mut name = OsString::from("oci:");
    name.push(words(layout, ":", tag));
    name
}

fn words(path: &Path, separator: &str, tag: &str) -> OsString {
    let mut name = path.as_os_str().to_owned();
    name.push(separator);
    name.push(tag);
    name
}

/// A signature policy that accepts everything: the images are ours, and the machine's own policy is
/// none of a test's business.
fn accept_everything(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("policy.json");
    fs::write(&path, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
