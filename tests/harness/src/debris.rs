//! What tests left behind: mounts, loop devices, cgroups, child processes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::mounts::mount_points;
use crate::scratch::Scratch;

/// One line for each thing that a test of ours made and nobody took away.
///
/// "Of ours" is known by [`Scratch::PREFIX`] and this process's id in the name, so that two suites can
/// run beside each other; children are those of this process.
pub fn find() -> Result<Vec<String>> {
    let ours = format!("{}{}-", Scratch::PREFIX, std::process::id());
    let mut found = Vec::new();
    let named = |path: &Path| path.to_string_lossy().contains(&ours);
    found.extend(
        mount_points()?.iter().filter(|path| named(path)).map(|path| format!("mount {}", path.display())),
    );
    for device in entries(Path::new("/sys/block"))? {
        let backing = fs::read_to_string(Path::new("/sys/block").join(&device).join("loop/backing_file"));
        if let Ok(file) = backing.as_deref().map(str::trim)
            && named(Path::new(file))
        {
            found.push(format!("loop device {device} on {file}"));
        }
    }
    find_cgroups(Path::new("/sys/fs/cgroup"), 0, &ours, &mut found)?;
    for name in entries(&std::env::temp_dir())?.iter().filter(|name| name.starts_with(&ours)) {
        found.push(format!("directory {}", std::env::temp_dir().join(name).display()));
    }
    for task in entries(Path::new("/proc/self/task"))? {
        let children = fs::read_to_string(format!("/proc/self/task/{task}/children")).unwrap_or_default();
        for pid in children.split_whitespace() {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.push(format!("child {pid} ({})", command.trim()));
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<String>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .map(|entry| {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// Containers are children of the root of each hierarchy, which on version 1 lies one level deeper.
fn find_cgroups(dir: &Path, depth: usize, ours: &str, found: &mut Vec<String>) -> Result<()> {
    for name in entries(dir)? {
        let path = dir.join(&name);
        if name.starts_with(ours) {
            found.push(format!("cgroup {}", path.display()));
        } else if depth == 0 && path.is_dir() && !path.is_symlink() {
            find_cgroups(&path, depth + 1, ours, found)?;
        }
    }
    Ok(())
}
