//! What an overlay mount says of itself: the option string of mountinfo, parsed and completed.
//!
//! [`parse_overlay_options`] is a pure function over bytes. Options are found by key, never by position;
//! the list of keys is closed, because an option that is not known may change what the layers mean
//! (commit-semantics 2.1, 4.2). [`Effective`] adds what the string does not say: the kernel shows an
//! option only where it differs from the module's parameter at the time of reading.
//!
//! # Escapes
//! Three layers lie over each other. mountinfo writes bytes that would break its lines as `\054`. Beneath
//! that is the string that the mounter gave: in `lowerdir=`, `upperdir=` and `workdir=` overlayfs takes
//! a backslash as "the next byte is itself", so `\:` is a colon that does not separate. `lowerdir+=` and
//! `datadir+=` know no escape. Linux 6.5 wrote the colons of resolved names as `\072`, which no other
//! version does: such a byte never separates.

use linux::mountinfo::{octal_escape, unescape};

use super::error::SourceError;

/// Which extended attributes carry the overlay's marks; those of the other namespace are user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum XattrNamespace {
    /// `trusted.overlay.*`.
    #[default]
    Trusted,
    /// `user.overlay.*`, mount option `userxattr`.
    User,
}

impl XattrNamespace {
    /// The prefix of the marks.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }
}

/// `redirect_dir`: what a renamed directory leaves behind, and whether such marks are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Redirect {
    /// Redirects are made and followed.
    On,
    /// Redirects are followed, not made.
    Follow,
    /// Redirects mean nothing.
    NoFollow,
}

/// `xino`: whether inode numbers carry the number of their file system in the upper bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Xino {
    /// Always.
    On,
    /// Never.
    Off,
    /// Where there is room.
    Auto,
}

/// `verity`: whether a metacopy file pins the digest of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verity {
    /// Ignored.
    Off,
    /// Checked where there is one.
    On,
    /// Demanded.
    Require,
}

/// The option string of one overlay; `None` where it is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverlayOptions {
    /// Lower directories, topmost first, as the mounter named them.
    pub lowers: Vec<Vec<u8>>,
    /// Data-only lowers, topmost first.
    pub data_lowers: Vec<Vec<u8>>,
    /// The upper, as it was given: escaped, unless it was given as a descriptor.
    pub upper: Option<Vec<u8>>,
    /// The workdir, like `upper`.
    pub work: Option<Vec<u8>>,
    /// `index=`
    pub index: Option<bool>,
    /// `nfs_export=`
    pub nfs_export: Option<bool>,
    /// `metacopy=`
    pub metacopy: Option<bool>,
    /// `redirect_dir=`; `Some(None)` is `off`, which means what the module says.
    pub redirect: Option<Option<Redirect>>,
    /// `xino=`
    pub xino: Option<Xino>,
    /// `verity=`
    pub verity: Option<Verity>,
    /// `userxattr`
    pub userxattr: bool,
    /// `volatile`
    pub volatile: bool,
}

/// The parameters of the overlay module that stand in for silent options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleDefaults {
    /// `index`
    pub index: bool,
    /// `nfs_export`
    pub nfs_export: bool,
    /// `metacopy`
    pub metacopy: bool,
    /// `redirect_dir`
    pub redirect_dir: bool,
    /// `redirect_always_follow`
    pub redirect_always_follow: bool,
    /// `xino_auto`
    pub xino_auto: bool,
}

impl ModuleDefaults {
    /// Reads `/sys/module/overlay/parameters`. What cannot be read counts as the value that makes saving
    /// more careful (redirects and metacopy are looked for); the index is then judged by its directory.
    #[must_use]
    pub fn read() -> Self {
        let read = |name: &str, unknown: bool| {
            std::fs::read(format!("/sys/module/overlay/parameters/{name}"))
                .map_or(unknown, |text| matches!(text.first(), Some(b'Y' | b'y' | b'1')))
        };
        Self {
            index: read("index", false),
            nfs_export: read("nfs_export", false),
            metacopy: read("metacopy", true),
            redirect_dir: read("redirect_dir", false),
            redirect_always_follow: read("redirect_always_follow", true),
            xino_auto: read("xino_auto", true),
        }
    }
}

/// What a mount really does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Effective {
    /// Where the marks are.
    pub xattr_namespace: XattrNamespace,
    /// See [`Redirect`].
    pub redirect: Redirect,
    /// Whether a file of the upper may have only metadata.
    pub metacopy: bool,
    /// See [`Xino`].
    pub xino: Xino,
    /// See [`Verity`].
    pub verity: Verity,
    /// Whether the mount leaves out syncs: harmless to a reader while it is mounted.
    pub volatile: bool,
    /// Whether hard links are tracked in an index.
    pub index: bool,
    /// Whether file handles are.
    pub nfs_export: bool,
}

impl OverlayOptions {
    /// Completes the options with the module's parameters.
    #[must_use]
    pub fn effective(&self, defaults: ModuleDefaults) -> Effective {
        let off = if defaults.redirect_always_follow { Redirect::Follow } else { Redirect::NoFollow };
        let silent = if defaults.redirect_dir { Redirect::On } else { off };
        Effective {
            xattr_namespace: if self.userxattr { XattrNamespace::User } else { XattrNamespace::Trusted },
            redirect: self.redirect.map_or(silent, |redirect| redirect.unwrap_or(off)),
            metacopy: self.metacopy.unwrap_or(defaults.metacopy),
            xino: self.xino.unwrap_or(if defaults.xino_auto { Xino::Auto } else { Xino::Off }),
            verity: self.verity.unwrap_or(Verity::Off),
            volatile: self.volatile,
            index: self.index.unwrap_or(defaults.index),
            nfs_export: self.nfs_export.unwrap_or(defaults.nfs_export),
        }
    }
}

/// Parses the superblock options of an overlay as mountinfo shows them, octal escapes included.
///
/// # Errors
/// [`SourceError::UnknownOption`], [`SourceError::OptionValue`], [`SourceError::RepeatedOption`].
pub fn parse_overlay_options(raw: &[u8]) -> Result<OverlayOptions, SourceError> {
    let mut options = OverlayOptions::default();
    let mut joined = None;
    for option in split_options(raw) {
        if option.is_empty() {
            continue;
        }
        let equals = option.iter().position(|&b| b == b'=');
        let (key, value) = match equals {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        match (key, value) {
            (b"lowerdir", Some(value)) => once("lowerdir", &mut joined, value)?,
            (b"lowerdir+", Some(value)) => options.lowers.push(unescape(value)),
            (b"datadir+", Some(value)) => options.data_lowers.push(unescape(value)),
            (b"upperdir", Some(value)) => once("upperdir", &mut options.upper, unescape(value))?,
            (b"workdir", Some(value)) => once("workdir", &mut options.work, unescape(value))?,
            (b"index", Some(value)) => once("index", &mut options.index, on_off("index", value)?)?,
            (b"nfs_export", Some(value)) => {
                once("nfs_export", &mut options.nfs_export, on_off("nfs_export", value)?)?;
            }
            (b"metacopy", Some(value)) => {
                once("metacopy", &mut options.metacopy, on_off("metacopy", value)?)?;
            }
            (b"redirect_dir", Some(value)) => {
                let redirect = match value {
                    b"on" => Some(Redirect::On),
                    b"follow" => Some(Redirect::Follow),
                    b"nofollow" => Some(Redirect::NoFollow),
                    b"off" => None,
                    _ => return Err(bad_value("redirect_dir", value)),
                };
                once("redirect_dir", &mut options.redirect, redirect)?;
            }
            (b"xino", Some(value)) => {
                let xino = match value {
                    b"on" => Xino::On,
                    b"off" => Xino::Off,
                    b"auto" => Xino::Auto,
                    _ => return Err(bad_value("xino", value)),
                };
                once("xino", &mut options.xino, xino)?;
            }
            (b"verity", Some(value)) => {
                let verity = match value {
                    b"off" => Verity::Off,
                    b"on" => Verity::On,
                    b"require" => Verity::Require,
                    _ => return Err(bad_value("verity", value)),
                };
                once("verity", &mut options.verity, verity)?;
            }
            // Later kernels' word for `volatile` and its opposites.
            (b"fsync", Some(value)) => match value {
                b"volatile" => options.volatile = true,
                b"auto" | b"strict" | b"ordered" => {}
                _ => return Err(bad_value("fsync", value)),
            },
            // How the superblock's UUID is made: nothing that a layer shows.
            (b"uuid", Some(value)) => match value {
                b"null" | b"off" | b"on" | b"auto" => {}
                _ => return Err(bad_value("uuid", value)),
            },
            (b"userxattr", None) => options.userxattr = true,
            (b"volatile", None) => options.volatile = true,
            // Who is asked for permission, and what every file system or security module may add.
            (
                b"default_permissions"
                | b"override_creds"
                | b"nooverride_creds"
                | b"rw"
                | b"ro"
                | b"sync"
                | b"dirsync"
                | b"mand"
                | b"lazytime"
                | b"seclabel",
                None,
            ) => {}
            (key, Some(_)) if CONTEXTS.contains(&key) => {}
            _ => return Err(SourceError::UnknownOption { name: text(&unescape(key)) }),
        }
    }
    if let Some(value) = joined {
        if !options.lowers.is_empty() || !options.data_lowers.is_empty() {
            return Err(SourceError::RepeatedOption { name: "lowerdir" });
        }
        split_lowers(value, &mut options)?;
    }
    Ok(options)
}

/// Splits at commas. One within a path is always written as an octal escape; SELinux puts the categories
/// of a context, which are separated by commas, in double quotes.
fn split_options(mut raw: &[u8]) -> Vec<&[u8]> {
    let mut options = Vec::new();
    loop {
        let quoted =
            CONTEXTS.iter().find_map(|key| raw.strip_prefix(*key)?.strip_prefix(b"=\"")).and_then(|value| {
                let start = raw.len() - value.len();
                Some(start + value.iter().position(|&b| b == b'"')?)
            });
        let from = quoted.unwrap_or(0);
        let Some(comma) = raw[from..].iter().position(|&b| b == b',') else {
            options.push(raw);
            return options;
        };
        options.push(&raw[..from + comma]);
        raw = &raw[from + comma + 1..];
    }
}

/// What a security module says of any mount.
const CONTEXTS: [&[u8]; 4] = [b"context", b"fscontext", b"defcontext", b"rootcontext"];

fn once<T>(name: &'static str, slot: &mut Option<T>, value: T) -> Result<(), SourceError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(SourceError::RepeatedOption { name }),
    }
}

fn on_off(name: &'static str, value: &[u8]) -> Result<bool, SourceError> {
    match value {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(bad_value(name, value)),
    }
}

fn bad_value(name: &'static str, value: &[u8]) -> SourceError {
    SourceError::OptionValue { name, value: text(&unescape(value)) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Splits `lowerdir=`: `:` between layers, `::` before each data-only layer; see the module for escapes.
fn split_lowers(mut raw: &[u8], options: &mut OverlayOptions) -> Result<(), SourceError> {
    let whole = raw;
    let mut current = Vec::new();
    let mut data = false;
    let mut after_backslash = false;
    loop {
        let escaped = octal_escape(raw);
        let byte = escaped.or_else(|| raw.first().copied());
        let separates = byte == Some(b':') && escaped.is_none() && !after_backslash;
        if byte.is_none() || separates {
            if after_backslash {
                current.push(b'\\');
            }
            if current.is_empty() {
                return Err(bad_value("lowerdir", whole));
            }
            let list = if data { &mut options.data_lowers } else { &mut options.lowers };
            list.push(std::mem::take(&mut current));
            if byte.is_none() {
                return Ok(());
            }
            raw = &raw[1..];
            // Once a layer is data-only, all below it are.
            match raw.strip_prefix(b":") {
                Some(rest) => (raw, data) = (rest, true),
                None if data => return Err(bad_value("lowerdir", whole)),
                None => {}
            }
            continue;
        }
        let Some(byte) = byte else { return Ok(()) };
        raw = &raw[if escaped.is_some() { 4 } else { 1 }..];
        if byte == b'\\' && !after_backslash {
            after_backslash = true;
        } else {
            after_backslash = false;
            current.push(byte);
        }
    }
}

/// Undoes overlayfs's own escapes: a backslash makes the next byte stand for itself.
#[must_use]
pub fn unescape_path(path: &[u8]) -> Vec<u8> {
    let mut bytes = path.iter();
    let mut plain = Vec::with_capacity(path.len());
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => plain.push(*bytes.next().unwrap_or(&b'\\')),
            _ => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests;
