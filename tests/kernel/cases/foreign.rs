//! The foreign tools unpack an image as it was packed: an image made by umoci from a known tree comes back
//! the same from each of them. So a difference in a later test is ours.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::foreign::{Containerd, ContainersStorage, StorageTool, oci_name, skopeo_copy, umoci_unpack};
use harness::{
    Capability::{Buildah, Busybox, Containerd as ContainerdWorks, Overlay, Podman, Root, Skopeo, Umoci},
    Scratch, Tolerance, Tree, busybox_rootfs, run,
};

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("foreign::umoci_unpacks", &[Root, Busybox, Umoci], || {
            unpacks(|_, layout, check| {
                check(&umoci_unpack(layout, "test", &layout.with_extension("bundle"))?)
            })
        }),
        Case::new("foreign::buildah_unpacks", &[Root, Overlay, Busybox, Umoci, Buildah], || {
            unpacks(|scratch, layout, check| {
                let storage = ContainersStorage::new(scratch, StorageTool::Buildah)?;
                check(storage.mount(&oci_name(layout, "test"))?.path())
            })
        }),
        Case::new("foreign::podman_unpacks", &[Root, Overlay, Busybox, Umoci, Podman], || {
            unpacks(|scratch, layout, check| {
                let storage = ContainersStorage::new(scratch, StorageTool::Podman)?;
                check(storage.mount(&oci_name(layout, "test"))?.path())
            })
        }),
        Case::new(
            "foreign::containerd_unpacks",
            &[Root, Overlay, Busybox, Umoci, Skopeo, ContainerdWorks],
            || {
                unpacks(|scratch, layout, check| {
                    let archive = scratch.join("archive.tar");
                    let mut to = std::ffi::OsString::from("oci-archive:");
                    to.push(&archive);
                    to.push(":test");
                    skopeo_copy(scratch, &oci_name(layout, "test"), &to)?;
                    let containerd = Containerd::start(scratch)?;
                    let images = containerd.import(&archive)?;
                    let image = images.first().context("no image was taken in")?;
                    check(containerd.mount(image, &scratch.join("snapshot"))?.path())
                })
            },
        ),
    ]
}

type Check<'a> = &'a dyn Fn(&Path) -> Result<()>;

fn unpacks(unpack: impl Fn(&Scratch, &Path, Check<'_>) -> Result<()>) -> Result<()> {
    let scratch = Scratch::new("foreign")?;
    let layout = scratch.join("layout");
    let image = format!("{}:test", layout.display());
    let bundle = scratch.join("packed");
    run("umoci", ["init".as_ref(), "--layout".as_ref(), layout.as_os_str()])?;
    run("umoci", ["new", "--image", &image])?;
    run("umoci", ["unpack".as_ref(), "--image".as_ref(), image.as_ref(), bundle.as_os_str()])?;
    let packed = busybox_rootfs(&bundle.join("rootfs"))?;
    fs::hard_link(packed.join("etc/passwd"), packed.join("etc/passwd-"))?;
    run("umoci", ["repack".as_ref(), "--image".as_ref(), image.as_ref(), bundle.as_os_str()])?;
    let expected = Tree::read(&packed)?;
    ensure!(expected.get("etc/passwd-").is_some_and(|node| node.link_to.is_some()), "no hard link was made");
    // umoci writes whole seconds, gives the times of directories to whoever unpacks last, and marks the
    // files that it packed.
    let tolerance = Tolerance {
        directory_times: true,
        whole_seconds: true,
        root: true,
        sockets: false,
        xattr_prefixes: vec!["user.rootlesscontainers"],
    };
    unpack(&scratch, &layout, &|root| {
        // podman makes what a container needs at its start; that is not part of the image.
        let tree = Tree::read(root)?;
        expected.must_equal(&tree, &tolerance)
    })
}
