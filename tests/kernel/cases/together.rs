//! Two saves at once, and saves beside commands that remove.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::{
    Capability::{Busybox, Freezer, Overlay, Root},
    Container, Headstart, OverlayMount, Scratch,
};

use crate::Case;
use crate::words::noise;

pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Root, Overlay, Busybox, Freezer];
    vec![
        Case::new("together::one_container_one_tag", needs, || saves(["saved:1", "saved:1"])),
        Case::new("together::one_container_two_tags", needs, || saves(["saved:1", "saved:2"])),
        Case::new("together::saves_and_prunes", needs, saves_and_prunes),
    ]
}

fn start(command: &mut Command) -> Result<Child> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("start headstart")
}

fn end(child: Child, allowed: &[i32]) -> Result<String> {
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code().is_some_and(|code| allowed.contains(&code)), "{}: {text}", output.status);
    Ok(text)
}

/// Each waits for the other's pause, both save, and both names are of whole images.
fn saves(names: [&str; 2]) -> Result<()> {
    let scratch = Scratch::new("together")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let container = Container::builder(overlay.target()).start(&scratch)?;
    let pid = container.pid().to_string();
    for round in 0..3u64 {
        fs::write(overlay.target().join(format!("file{round}")), noise(round, 1 << 20))?;
        let children = names.map(|name| start(headstart.command().args(["commit", "--pid", &pid, name])));
        for child in children {
            let text = end(child?, &[0])?;
            ensure!(!text.contains("without a pause"), "{text}");
        }
        for name in names {
            let out = scratch.join("out");
            headstart.ok(["unpack".as_ref(), name.as_ref(), out.as_os_str()])?;
            for file in 0..=round {
                ensure!(fs::read(out.join(format!("file{file}")))? == noise(file, 1 << 20), "file{file}");
            }
            fs::remove_dir_all(out)?;
        }
    }
    container.sh("true").map(drop)
}

/// What a save needs is never removed under it; what it names is whole.
fn saves_and_prunes() -> Result<()> {
    let scratch = Scratch::new("prunes")?;
    let headstart = Headstart::new(&scratch)?;
    let overlay = OverlayMount::over_busybox(&scratch)?;
    let container = Container::builder(overlay.target()).start(&scratch)?;
    let pid = container.pid().to_string();
    headstart.ok(["commit", "--pid", &pid, "saved:1"])?;
    for round in 0..3u64 {
        fs::write(overlay.target().join("file"), noise(round, 2 << 20))?;
        let save = start(headstart.command().args(["commit", "--pid", &pid, "saved:1"]))?;
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(start(headstart.command().args(["system", "prune", "--all", "--force"]))?);
            others.push(start(headstart.command().args(["rmi", "--force", "saved:1"]))?);
        }
        for other in others {
            // the name may be gone already
            end(other, &[0, 3])?;
        }
        end(save, &[0])?;
        // the last word may have been the removal
        if headstart.run(["inspect", "saved:1"])?.code() == 0 {
            let out = scratch.join("out");
            headstart.ok(["unpack".as_ref(), "saved:1".as_ref(), out.as_os_str()])?;
            ensure!(fs::read(out.join("file"))? == noise(round, 2 << 20), "the file is another");
            fs::remove_dir_all(out)?;
        }
    }
    headstart.ok(["commit", "--pid", &pid, "saved:1"]).map(drop)
}
