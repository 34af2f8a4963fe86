//! Rules about the files of the tree that neither the compiler nor clippy looks at.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::rust_text::RustText;

/// Files aim under 500 lines; past this one they are split.
const MAX_LINES: usize = 1000;

/// Rooms in which `unsafe` may stand (docs/architecture.md, "Unsafe code").
const UNSAFE_ROOMS: [&str; 2] = ["crates/linux/", "crates/attach/"];

/// Checks every file that git knows or would take in; one line per finding.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("start git ls-files")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).context("a file name is no UTF-8")?;
    let machine_paths = machine_paths(root);
    let mut complaints = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let path = root.join(name);
        // Deleted but not yet staged, or a symlink to elsewhere: not our text.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        complaints.extend(check_paths(name, &text, &machine_paths));
        if name.ends_with(".rs") {
            complaints.extend(check_rust(name, &text));
        }
    }
    Ok(complaints)
}

/// What would tie the tree to the machine it was written on: where it was checked out, where cargo lives.
fn machine_paths(root: &Path) -> Vec<String> {
    let homes = ["CARGO_HOME", "RUSTUP_HOME"].map(std::env::var_os);
    let mut paths: Vec<_> = homes.into_iter().flatten().map(std::path::PathBuf::from).collect();
    paths.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    paths.push(root.to_owned());
    let long_enough = |path: &String| path.matches('/').count() >= 2;
    paths.into_iter().map(|path| path.to_string_lossy().into_owned()).filter(long_enough).collect()
}

fn check_paths(name: &str, text: &str, machine_paths: &[String]) -> Vec<String> {
    let found = |line: &str| machine_paths.iter().find(|path| line.contains(path.as_str()));
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| {
            Some(format!("{name}:{}: {} is a path of this machine", index + 1, found(line)?))
        })
        .collect()
}

fn check_rust(name: &str, source: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = source.lines().count();
    if lines > MAX_LINES {
        complaints.push(format!("{name}: {lines} lines; split it below {MAX_LINES}"));
    }
    let text = RustText::new(source);
    let (code, comments): (Vec<_>, Vec<_>) = (text.code.lines().collect(), text.comments.lines().collect());
    for (index, line) in code.iter().enumerate() {
        let mut say = |what: &str| complaints.push(format!("{name}:{}: {what}", index + 1));
        for word in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
            if line.contains(word) {
                say(&format!("{word} has no place in a finished change"));
            }
        }
        if !has_word(line, "unsafe") {
            continue;
        }
        if !UNSAFE_ROOMS.iter().any(|room| name.starts_with(room)) {
            say("unsafe outside of the rooms that confine it");
        }
        let declares = has_word(line, "fn") || has_word(line, "trait") || has_word(line, "extern");
        let wanted = if declares { "# Safety" } else { "SAFETY:" };
        if !is_commented(&code, &comments, index, wanted) {
            say(&format!("unsafe without a comment `{wanted}`"));
        }
    }
    complaints
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// Whether `wanted` stands in a comment on the line, or in the comment above the statement it is part of.
fn is_commented(code: &[&str], comments: &[&str], index: usize, wanted: &str) -> bool {
    if comments[index].contains(wanted) {
        return true;
    }
    for above in (0..index).rev() {
        let is_comment_only = code[above].trim().is_empty() && !comments[above].trim().is_empty();
        if is_comment_only && comments[above].contains(wanted) {
            return true;
        }
        // Attributes and the earlier lines of the same statement may stand between.
        let ends_another = code[above].trim_end().ends_with([';', '{', '}']) || code[above].trim().is_empty();
        if ends_another && !is_comment_only {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_confined_and_commented() {
        let commented = "// SAFETY: the pointer is ours\nlet x =\n    unsafe { f() };\n";
        assert_eq!(check_rust("crates/linux/src/a.rs", commented), Vec::<String>::new());
        assert_eq!(
            check_rust("crates/layer/src/a.rs", commented),
            ["crates/layer/src/a.rs:3: unsafe outside of the rooms that confine it"]
        );
        let bare = "// SAFETY: of another\nlet y = 1;\nlet x = unsafe { f() };\n";
        assert_eq!(
            check_rust("crates/linux/src/a.rs", bare),
            ["crates/linux/src/a.rs:3: unsafe without a comment `SAFETY:`"]
        );
        let function = "/// # Safety\n/// Mind.\n#[inline]\nunsafe fn f() {}\nunsafe fn g() {}\n";
        assert_eq!(
            check_rust("crates/linux/src/a.rs", function),
            ["crates/linux/src/a.rs:5: unsafe without a comment `# Safety`"]
        );
        assert_eq!(
            check_rust("crates/layer/src/a.rs", "#![forbid(unsafe_code)] // unsafe\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn unfinished_work_and_giants_are_named() {
        let source = format!("fn f() {{ {}!() }}\n#[{}]\n", "todo", "ignore = \"slow\"");
        assert_eq!(check_rust("a.rs", &source).len(), 2);
        assert_eq!(check_rust("a.rs", "// todo!() is a word here\n"), Vec::<String>::new());
        let giant = "\n".repeat(MAX_LINES + 1);
        assert_eq!(check_rust("a.rs", &giant), ["a.rs: 1001 lines; split it below 1000"]);
    }

    #[test]
    fn paths_of_this_machine_are_named() {
        let paths = ["/here/checkout".to_owned()];
        assert_eq!(
            check_paths("a.md", "see\n/here/checkout/x and /elsewhere\n", &paths),
            ["a.md:2: /here/checkout is a path of this machine"]
        );
    }
}
