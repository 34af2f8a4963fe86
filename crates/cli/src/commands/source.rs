//! Where the change is that `commit` and `diff` read: the options that both have.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, ValueEnum};
use linux::process::IdRange;

use crate::complete;
use crate::context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::saving::{FindOptions, Selection, Spec, XattrPolicy};

/// One of four ways to name a change.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["pid", "overlay", "upper", "tree"])))]
#[command(next_help_heading = "Source")]
pub(super) struct SourceArgs {
    /// The root of this process: any container, docker's and podman's too
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,

    /// The overlay that is mounted here
    #[arg(long, value_name = "MOUNTPOINT", value_hint = clap::ValueHint::DirPath)]
    overlay: Option<PathBuf>,

    /// The writable directory of an overlay …
    #[arg(long, value_name = "DIR", requires = "lower", value_hint = clap::ValueHint::DirPath)]
    upper: Option<PathBuf>,

    /// … and those below it, the topmost first, as mount(8) takes them
    #[arg(long, value_name = "DIR[:DIR…]", requires = "upper", value_hint = clap::ValueHint::DirPath)]
    lower: Vec<OsString>,

    /// A changed directory, for what is no overlay (slower) …
    #[arg(long, value_name = "DIR", requires = "against", value_hint = clap::ValueHint::DirPath)]
    tree: Option<PathBuf>,

    /// … and what it is compared with
    #[arg(long, value_name = "DIR", requires = "tree", value_hint = clap::ValueHint::DirPath)]
    against: Option<PathBuf>,

    /// The image that the lowers are, where headstart did not unpack them
    #[arg(long, value_name = "IMAGE", add = complete::images())]
    pub(super) base: Option<String>,

    /// User ids as the container has them (CONTAINER:HOST:SIZE); may be repeated
    #[arg(long, value_name = "C:H:S", hide_short_help = true)]
    uidmap: Vec<IdMapping>,

    /// Group ids as the container has them (CONTAINER:HOST:SIZE); may be repeated
    #[arg(long, value_name = "C:H:S", hide_short_help = true)]
    gidmap: Vec<IdMapping>,

    /// With --upper: the overlay is mounted with the option userxattr
    #[arg(long, requires = "upper", hide_short_help = true)]
    userxattr: bool,

    /// A file `.gvisor.filestore.*` in the upper is an ordinary file
    #[arg(long, hide_short_help = true)]
    not_gvisor: bool,
}

/// Which paths belong to it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Source")]
pub(super) struct SelectionArgs {
    /// Leave out what matches (`/tmp`, `**/*.log`); may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Take only what matches; may be repeated
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,

    /// Take in what is mounted over the root at PATH; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(super) include_mount: Vec<PathBuf>,

    /// Which extended attributes: all that images can hold, or those of stock containerd
    #[arg(long, value_enum, value_name = "full|stock", default_value = "full")]
    #[arg(hide_possible_values = true, hide_default_value = true, hide_short_help = true)]
    xattrs: Xattrs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Xattrs {
    Full,
    Stock,
}

/// `CONTAINER:HOST:SIZE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IdMapping(IdRange);

#[derive(Debug, thiserror::Error)]
#[error("not of the form CONTAINER:HOST:SIZE, three numbers")]
struct NotIdMapping;

impl FromStr for IdMapping {
    type Err = NotIdMapping;

    fn from_str(text: &str) -> Result<Self, NotIdMapping> {
        let numbers: Vec<u32> =
            text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| NotIdMapping)?;
        match numbers[..] {
            [container, host, size] => Ok(Self(IdRange { container, host, size })),
            _ => Err(NotIdMapping),
        }
    }
}

impl SourceArgs {
    /// What the user named to `command`.
    pub(super) fn spec(&self, command: &str) -> Result<Spec, Failure> {
        match self {
            Self { pid: Some(pid), .. } => {
                if !context::is_root() {
                    return Err(Failure::new(
                        Exit::NotPossible,
                        format!("process {pid}: only root can read the upper of a container"),
                    )
                    .detail("for a container of rootless podman, `podman unshare` makes you root enough")
                    .hint(format!("sudo headstart {command} --pid {pid}")));
                }
                Ok(Spec::Pid(*pid))
            }
            Self { overlay: Some(point), .. } => Ok(Spec::Overlay(point.clone())),
            Self { upper: Some(upper), lower, .. } => Ok(Spec::Upper {
                upper: upper.clone(),
                lower: lower.iter().flat_map(|list| split(list)).collect(),
            }),
            Self { tree: Some(tree), against: Some(against), .. } => {
                Ok(Spec::Trees { tree: tree.clone(), against: against.clone() })
            }
            // the command line is not accepted without one of them
            _ => Err(Failure::usage("no source is named").hint(format!("headstart {command} --help"))),
        }
    }

    /// What the user knows better than we do.
    pub(super) fn find_options(&self) -> FindOptions {
        let ranges = |maps: &[IdMapping]| maps.iter().map(|map| map.0).collect();
        FindOptions {
            uidmap: ranges(&self.uidmap),
            gidmap: ranges(&self.gidmap),
            userxattr: self.userxattr,
            not_gvisor: self.not_gvisor,
            ..FindOptions::default()
        }
    }
}

impl SelectionArgs {
    pub(super) fn selection(&self) -> Selection {
        Selection { exclude: self.exclude.clone(), only: self.only.clone() }
    }

    pub(super) fn xattrs(&self) -> XattrPolicy {
        match self.xattrs {
            Xattrs::Full => XattrPolicy::Full,
            Xattrs::Stock => XattrPolicy::Stock,
        }
    }
}

/// Splits a list of lowers at colons; a backslash makes the next byte ordinary, as in mount options.
fn split(list: &OsStr) -> Vec<PathBuf> {
    let mut paths = vec![Vec::new()];
    let mut bytes = list.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        match (byte, paths.last_mut()) {
            (b':', _) => paths.push(Vec::new()),
            (b'\\', Some(path)) => path.extend(bytes.next()),
            (byte, Some(path)) => path.push(byte),
            (_, None) => {}
        }
    }
    paths.into_iter().filter(|path| !path.is_empty()).map(|path| OsString::from_vec(path).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowers_are_split_as_mount_does() {
        let paths = |list: &str| split(OsStr::new(list));
        assert_eq!(paths("/a:/b\\:c:/d\\\\"), [PathBuf::from("/a"), "/b:c".into(), "/d\\".into()]);
        assert_eq!(paths("/a::/b:"), [PathBuf::from("/a"), "/b".into()]);
        assert_eq!(paths("/a\\"), [PathBuf::from("/a")]);
    }

    #[test]
    fn id_maps_are_three_numbers() {
        let map: IdMapping = "0:100000:65536".parse().unwrap();
        assert_eq!(map.0, IdRange { container: 0, host: 100_000, size: 65536 });
        for text in ["", "0:1", "0:1:2:3", "a:b:c", "-1:0:1", "0:1:4294967296"] {
            assert!(text.parse::<IdMapping>().is_err(), "{text}");
        }
    }
}
