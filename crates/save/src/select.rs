//! Which paths belong to a save: `--exclude` and `--only`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use layer::entry::split;
use layer::scan::Select;

use crate::error::SaveError;
use crate::request::Selection;

/// The patterns, compiled.
#[derive(Debug)]
pub(crate) struct Selector {
    exclude: GlobSet,
    only: Option<GlobSet>,
}

impl Selector {
    pub(crate) fn new(selection: &Selection) -> Result<Selector, SaveError> {
        let exclude = compile(&selection.exclude)?;
        let only = if selection.only.is_empty() { None } else { Some(compile(&selection.only)?) };
        Ok(Selector { exclude, only })
    }

    /// Asked of a path whose parents were not skipped.
    pub(crate) fn select(&self, path: &[u8], _is_dir: bool) -> Select {
        if matches_path(&self.exclude, path) {
            return Select::Skip;
        }
        match &self.only {
            Some(only) if !ancestors(path).any(|path| matches_path(only, path)) => Select::Context,
            _ => Select::Take,
        }
    }

    /// Asked of any path: its parents are asked too.
    pub(crate) fn select_alone(&self, path: &[u8], is_dir: bool) -> Select {
        if ancestors(path).any(|path| matches_path(&self.exclude, path)) {
            return Select::Skip;
        }
        self.select(path, is_dir)
    }
}

fn matches_path(set: &GlobSet, path: &[u8]) -> bool {
    set.is_match(Path::new(OsStr::from_bytes(path)))
}

/// The path, then each directory above it.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| Some(split(path).0).filter(|parent| !parent.is_empty()))
}

fn compile(patterns: &[String]) -> Result<GlobSet, SaveError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let failed = |source| SaveError::Pattern { pattern: pattern.clone(), source };
        let trimmed = pattern.trim_matches('/');
        set.add(GlobBuilder::new(trimmed).literal_separator(true).build().map_err(failed)?);
    }
    set.build().map_err(|source| SaveError::Pattern { pattern: patterns.join(" "), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(exclude: &[&str], only: &[&str]) -> Selector {
        let own = |patterns: &[&str]| patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        Selector::new(&Selection { exclude: own(exclude), only: own(only) }).unwrap()
    }

    #[test]
    fn patterns_cover_what_is_below() {
        let selector = selector(&["/tmp", "**/*.o"], &["home/*"]);
        for (path, expected) in [
            ("tmp", Select::Skip),
            ("tmp/x", Select::Skip),
            ("home", Select::Context),
            ("home/dev/main.o", Select::Skip),
            ("home/dev", Select::Take),
            ("home/dev/src/main.rs", Select::Take),
            ("etc/passwd", Select::Context),
        ] {
            assert_eq!(selector.select_alone(path.as_bytes(), false), expected, "{path}");
        }
        assert_eq!(selector.select_alone(b"home/\xff\xfe", false), Select::Take);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let selection = Selection { exclude: vec!["a[".into()], only: vec![] };
        assert!(matches!(Selector::new(&selection), Err(SaveError::Pattern { pattern, .. }) if pattern == "a["));
    }
}
