//! The guards clean up, on panic too, and an overlay behaves as the other cases take for granted.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Btrfs, Ext4, Overlay, Root, Tmpfs as TmpfsWorks, Xfs},
    FileSystem, LoopFs, OverlayOptions, Scratch, Tmpfs,
};

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("guards::scratch_goes_away_on_panic", &[], scratch_goes_away_on_panic),
        Case::new("guards::scratch_undoes_forgotten_mounts", &[Root, TmpfsWorks], forgotten_mounts),
        Case::new("guards::debris_is_found", &[Root, TmpfsWorks], debris_is_found),
        Case::new("guards::overlay_records_changes", &[Root, Overlay], overlay_records_changes),
        Case::new("guards::overlay_by_fsconfig", &[Root, Overlay], overlay_by_fsconfig),
        Case::new("guards::overlay_escapes_paths", &[Root, Overlay], overlay_escapes_paths),
        Case::new("guards::ext4_on_loop", &[Root, Ext4], || on_loop(FileSystem::Ext4)),
        Case::new("guards::xfs_on_loop", &[Root, Xfs], || on_loop(FileSystem::Xfs)),
        Case::new("guards::btrfs_on_loop", &[Root, Btrfs], || on_loop(FileSystem::Btrfs)),
    ]
}

fn scratch_goes_away_on_panic() -> Result<()> {
    let scratch = Scratch::new("panic")?;
    let path = scratch.path().to_owned();
    fs::write(scratch.join("file"), "x")?;
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        let _held = scratch;
        // No panic!(): its message would look like a failure in the output.
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    ensure!(outcome.is_err(), "the closure did not panic");
    ensure!(!path.exists(), "{} is still there", path.display());
    Ok(())
}

fn forgotten_mounts() -> Result<()> {
    let outside = Scratch::new("outside")?;
    fs::write(outside.join("precious"), "x")?;
    {
        let scratch = Scratch::new("forgotten")?;
        let target = scratch.dir("bind")?;
        std::mem::forget(harness::Mount::bind(outside.path(), &target)?);
        ensure!(target.join("precious").exists(), "the bind mount does not show its source");
    }
    ensure!(outside.join("precious").exists(), "removing the scratch directory reached through a mount");
    Ok(())
}

fn debris_is_found() -> Result<()> {
    let scratch = Scratch::new("debris")?;
    let tmpfs = Tmpfs::new(&scratch.dir("tmpfs")?, 1 << 20)?;
    let wanted = format!("mount {}", tmpfs.target().display());
    ensure!(harness::debris::find()?.contains(&wanted), "{wanted} is not reported");
    drop(tmpfs);
    ensure!(!harness::debris::find()?.contains(&wanted), "{wanted} is reported after it went away");
    Ok(())
}

fn overlay_records_changes() -> Result<()> {
    let scratch = Scratch::new("overlay")?;
    let lower = scratch.dir("lower")?;
    fs::write(lower.join("kept"), "1")?;
    fs::write(lower.join("removed"), "1")?;
    let options = OverlayOptions::new().lower(lower).upper(scratch.dir("upper")?, scratch.dir("work")?);
    let overlay = options.option("metacopy", "off").mount(&scratch.dir("root")?)?;
    fs::write(overlay.target().join("new"), "2")?;
    fs::remove_file(overlay.target().join("removed"))?;
    let upper = overlay.upper().context("no upper")?;
    ensure!(fs::read(upper.join("new"))? == b"2", "the new file is not in the upper");
    let whiteout = fs::symlink_metadata(upper.join("removed"))?;
    ensure!(whiteout.file_type().is_char_device(), "the removed file left no whiteout");
    ensure!(!upper.join("kept").exists(), "an untouched file was copied up");
    Ok(())
}

fn overlay_by_fsconfig() -> Result<()> {
    let scratch = Scratch::new("fsconfig")?;
    let (top, bottom) = (scratch.dir("top")?, scratch.dir("bottom")?);
    fs::write(top.join("file"), "top")?;
    fs::write(bottom.join("file"), "bottom")?;
    let options = OverlayOptions::new().lower(top).lower(bottom);
    let options = options.upper(scratch.dir("upper")?, scratch.dir("work")?).flag("userxattr");
    let overlay = match options.mount_by_fsconfig(&scratch.dir("root")?) {
        // Before Linux 6.5 there is no `lowerdir+`.
        Err(error) if error.to_string().contains("lowerdir+") => return Ok(()),
        other => other?,
    };
    ensure!(fs::read(overlay.target().join("file"))? == b"top", "the first lower is not the topmost");
    Ok(())
}

fn overlay_escapes_paths() -> Result<()> {
    let scratch = Scratch::new("escapes")?;
    let lower = scratch.dir("a:b,c\\d e")?;
    fs::write(lower.join("file"), "x")?;
    let options = OverlayOptions::new().lower(&lower).upper(scratch.dir("u,p")?, scratch.dir("w,k")?);
    let target = scratch.dir("r o\\ot")?;
    let overlay = options.mount(&target)?;
    ensure!(fs::read(overlay.target().join("file"))? == b"x", "the lower is not visible");
    let wanted = format!("mount {}", target.display());
    ensure!(harness::debris::find()?.contains(&wanted), "mountinfo's escapes are not undone");
    Ok(())
}

fn on_loop(kind: FileSystem) -> Result<()> {
    let scratch = Scratch::new(kind.name())?;
    let file_system = LoopFs::new(kind, &scratch.join("fs"), kind.small())?;
    let device = file_system.device().to_owned();
    fs::write(file_system.target().join("file"), "x")?;
    let backing = |device: &std::path::Path| {
        let name = device.file_name().unwrap_or_default();
        std::path::Path::new("/sys/block").join(name).join("loop/backing_file")
    };
    let text = fs::read_to_string(backing(&device))?;
    ensure!(text.contains(scratch.name()), "{} has another backing file: {text}", device.display());
    drop(file_system);
    let after = fs::read_to_string(backing(&device)).unwrap_or_default();
    ensure!(!after.contains(scratch.name()), "{} is still attached", device.display());
    Ok(())
}
