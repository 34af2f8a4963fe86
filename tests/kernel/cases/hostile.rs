//! Containers that lie or plant, and callers without rights: what the program says, and that it does no harm.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Busybox, Freezer, Overlay, Root, Userns},
    Container, Headstart, OverlayMount, OverlayOptions, Ran, Scratch, busybox_rootfs, run,
};

use crate::Case;
use crate::words::Says;

pub(crate) fn cases() -> Vec<Case> {
    let container = &[Root, Overlay, Busybox, Freezer];
    vec![
        Case::new("hostile::reserved_names", container, reserved_names),
        Case::new("hostile::planted_marks", container, planted_marks),
        Case::new("hostile::gvisor", &[Root, Overlay, Busybox], gvisor),
        Case::new("hostile::not_a_container", &[Root], not_a_container),
        Case::new("hostile::lying_mount", &[Root, Overlay, Busybox, Userns], lying_mount),
        Case::new("hostile::not_root", &[Root, Overlay, Busybox], not_root),
    ]
}

fn upper(overlay: &OverlayMount) -> Result<&Path> {
    overlay.upper().context("an upper")
}

/// No image can hold names that begin with `.wh.`: named, left out, status 7; the rest is saved.
fn reserved_names() -> Result<()> {
    let scratch = Scratch::new("reserved")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let container = Container::builder(overlay.target()).start(&scratch)?;
    container
        .sh("echo x > /.wh.etc; mkdir -p /tmp/d/.wh..wh..opq; echo y > /tmp/d/kept; echo z > /tmp/d/.wh.")?;
    let pid = container.pid().to_string();
    let ran = headstart.run(["commit", "--pid", &pid, "saved:1"])?;
    let text = ran.stderr_text();
    ensure!(ran.code() == 7, "it ended with {}: {text}", ran.status);
    for name in ["/.wh.etc", "/tmp/d/.wh..wh..opq", "/tmp/d/.wh."] {
        ensure!(text.contains(name), "{name} is not named: {text}");
    }
    let json = headstart.run(["commit", "--pid", &pid, "-o", "json", "saved:1"])?;
    ensure!(json.code() == 7 && json.stdout_text().contains(".wh.etc"), "{}", json.stdout_text());
    let out = scratch.join("out");
    headstart.ok(["unpack".as_ref(), "saved:1".as_ref(), out.as_os_str()])?;
    ensure!(fs::read(out.join("tmp/d/kept"))? == b"y\n", "the rest is not saved");
    headstart.run(["commit", "--strict", "--pid", &pid, "strict:1"])?.says(1, &[".wh.", "--strict"])?;
    ensure!(headstart.run(["inspect", "strict:1"])?.code() == 3, "--strict made an image");
    Ok(())
}

/// `user.overlay.*` means nothing in a mount of the other namespace.
fn planted_marks() -> Result<()> {
    let scratch = Scratch::new("planted")?;
    let headstart = Headstart::new(&scratch)?;
    let base = busybox_rootfs(&scratch.dir("base")?)?;
    fs::create_dir_all(base.join("data"))?;
    fs::write(base.join("data/precious"), "x")?;
    let empty = scratch.dir("empty")?;
    let tree = ["commit".as_ref(), "--tree".as_ref(), base.as_os_str(), "--against".as_ref()];
    headstart.ok(tree.into_iter().chain([empty.as_os_str(), "base:1".as_ref()]))?;
    let options = OverlayOptions::new().lower(&base).upper(scratch.dir("upper")?, scratch.dir("work")?);
    let overlay = options.mount(&scratch.dir("root")?)?;
    let container = Container::builder(overlay.target()).start(&scratch)?;
    container.sh("echo new > /data/new; : > /data/empty")?;
    // as a process of the container can: user attributes are free
    let data = overlay.target().join("data");
    for (name, value) in [("user.overlay.opaque", "y"), ("user.overlay.redirect", "/etc")] {
        rustix::fs::setxattr(&data, name, value.as_bytes(), rustix::fs::XattrFlags::empty())?;
    }
    for name in ["user.overlay.whiteout", "user.overlay.metacopy"] {
        rustix::fs::setxattr(data.join("empty"), name, b"", rustix::fs::XattrFlags::empty())?;
    }
    let pid = container.pid().to_string();
    headstart.ok(["commit", "--pid", &pid, "--base", "base:1", "saved:1"])?;
    let out = scratch.join("out");
    headstart.ok(["unpack".as_ref(), "saved:1".as_ref(), out.as_os_str()])?;
    ensure!(fs::read(out.join("data/precious"))? == b"x", "a planted mark hid a file of the base");
    ensure!(out.join("data/empty").exists(), "a planted mark removed a file");
    Ok(())
}

fn gvisor() -> Result<()> {
    let scratch = Scratch::new("gvisor")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    fs::write(overlay.target().join(".gvisor.filestore.abc"), "opaque")?;
    let words = ["commit".as_ref(), "--overlay".as_ref(), overlay.target().as_os_str(), "saved:1".as_ref()];
    headstart.run(words)?.says(5, &["gVisor", "outside this overlay", "try: ", "--overlay2=none"])?;
    ensure!(upper(&overlay)?.join(".gvisor.filestore.abc").exists(), "the upper was changed");
    headstart.ok(words.into_iter().chain(["--not-gvisor".as_ref()])).map(drop)
}

fn not_a_container() -> Result<()> {
    let scratch = Scratch::new("no-container")?;
    let headstart = Headstart::new(&scratch)?;
    let own = std::process::id().to_string();
    headstart.run(["commit", "--pid", &own, "x:1"])?.says(5, &["is in no container", "try: "])?;
    headstart.run(["commit", "--pid", "2147483647", "x:1"])?.says(3, &["2147483647"])
}

/// Root of a user namespace mounts an overlay whose words mean directories of the host.
fn lying_mount() -> Result<()> {
    let scratch = Scratch::new("lying")?;
    let headstart = Headstart::new(&scratch)?;
    let base = busybox_rootfs(&scratch.dir("base")?)?;
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
    let ready = scratch.join("ready");
    fs::write(&ready, "")?;
    fs::set_permissions(&ready, fs::Permissions::from_mode(0o666))?;
    let script = format!(
        "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/m && \
         mount -t overlay overlay -o userxattr,lowerdir={},upperdir=/mnt/u,workdir=/mnt/w /mnt/m && \
         echo $$ > {} && exec chroot /mnt/m /bin/sleep 1000",
        base.display(),
        ready.display()
    );
    let mut liar = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm", "sh", "-c", &script])
        .spawn()
        .context("start the liar")?;
    let lie = || -> Result<()> {
        let pid = liar.id().to_string();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while fs::read_link(format!("/proc/{pid}/root")).map_or(true, |root| root == Path::new("/")) {
            ensure!(std::time::Instant::now() < limit, "the mount did not come");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        headstart
            .run(["commit", "--pid", &pid, "x:1"])?
            .says(5, &["mounted in another mount namespace", "try: "])
    };
    let result = lie();
    liar.kill()?;
    liar.wait()?;
    result
}

/// A user with a store of his own: images work, a container of root's is refused with the way out.
fn not_root() -> Result<()> {
    let scratch = Scratch::new("not-root")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let container = Container::builder(overlay.target()).start(&scratch)?;
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
    let home = scratch.dir("nobody")?;
    run("chown", ["65534:65534".as_ref(), home.as_os_str()])?;
    // the target directory of the build need not be open to everybody
    let program = scratch.join("headstart-copy");
    fs::copy(Headstart::program()?, &program)?;
    let nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        command.env("HOME", &home).env("HEADSTART_ROOT", home.join("root")).env("LC_ALL", "C");
        Ran::capture(command.env("HEADSTART_RUN", home.join("run")))
    };
    nobody(&["images"])?.success()?;
    let pid = container.pid().to_string();
    nobody(&["commit", "--pid", &pid, "x:1"])?.says(5, &["only root", "podman unshare", "try: sudo"])?;
    nobody(&["diff", "--pid", &pid])?.says(5, &["only root", "try: sudo"])?;
    // somebody else's store
    let theirs = headstart.root().to_str().context("a path in UTF-8")?;
    headstart.ok(["commit", "--pid", &pid, "saved:1"])?;
    nobody(&["--root", theirs, "images"])?.says(5, &["error: ", theirs])
}
