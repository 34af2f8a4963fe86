//! What a save did, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use registry::{Digest, Reference};
use serde::Serialize;

use crate::escape::{self, JsonPath};
use crate::human;
use crate::saving::{LeftOut, Report};

/// Names on one line; the JSON has all.
const SHOWN: usize = 3;

/// The lines for a person.
pub(super) fn summary(report: &Report, dry_run: bool) -> String {
    let mut text = String::new();
    // a string takes everything
    let _ = writeln!(text, "{}", headline(report, dry_run));
    if !dry_run {
        let moments = &report.moments;
        let _ = writeln!(
            text,
            "  pause {} · sealed {} · durable {} · published {}",
            human::maybe_duration(moments.pause),
            human::maybe_duration(moments.sealed),
            human::maybe_duration(moments.durable),
            human::maybe_duration(moments.published),
        );
    }
    let earlier = report.layers.iter().filter(|layer| !layer.new).count() as u64;
    if report.reused_bytes > 0 {
        let from = human::count(earlier, "earlier layer", "earlier layers");
        let _ = write!(text, "  reused {} from {from}", human::size(report.reused_bytes));
        if report.rehashed_bytes > 0 {
            let _ = write!(text, ", hashed {} of it again", human::size(report.rehashed_bytes));
        }
        let _ = writeln!(text);
    }
    for line in not_saved(report) {
        let _ = writeln!(text, "  {line}");
    }
    if let (files @ 1.., bytes) = report.buried {
        let files = human::count(files, "file", "files");
        let _ = writeln!(
            text,
            "  buried: {files} ({}) deleted or replaced since are in earlier layers – --purge rewrites them",
            human::size(bytes)
        );
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "  warning: {}", escape::text(warning));
    }
    text
}

fn headline(report: &Report, dry_run: bool) -> String {
    let changed = human::count(report.changed, "changed file", "changed files");
    let mut what = format!("{changed} ({})", human::size(report.changed_bytes));
    if report.removed > 0 {
        let _ = write!(what, " and {}", human::count(report.removed, "deletion", "deletions"));
    }
    let nothing = report.changed == 0 && report.removed == 0;
    if dry_run {
        return if nothing {
            "Would save nothing: no change".to_owned()
        } else {
            format!("Would save {what}")
        };
    }
    let (new, size) = report
        .layers
        .iter()
        .filter(|layer| layer.new)
        .fold((0u64, 0u64), |(count, size), layer| (count + 1, size.saturating_add(layer.size)));
    match new {
        0 if nothing => "Saved no change: no new layer".to_owned(),
        // the layers were asked for in another form than they had
        new if nothing => format!(
            "Saved no change, packed anew as {} of {}",
            human::count(new, "layer", "layers"),
            human::size(size)
        ),
        0 => format!("Saved {what}: no new layer"),
        1 => format!("Saved {what} as a new layer of {}", human::size(size)),
        new => format!("Saved {what} as {} new layers of {}", human::number(new), human::size(size)),
    }
}

/// What the image lacks, each kind on a line: how many, and the first few by name.
fn not_saved(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(first) = report.mounts.first() {
        let names = report.mounts.iter().map(|mount| {
            format!("{} {}", escape::bytes(&escape::rooted(&mount.path)), escape::text(&mount.fs_type))
        });
        lines.push(format!(
            "not saved: {} ({}) – take one in with --include-mount {}",
            human::count(report.mounts.len() as u64, "mount", "mounts"),
            few(names),
            escape::bytes(&escape::rooted(&first.path)),
        ));
    }
    for reason in REASONS {
        let paths: Vec<&[u8]> =
            report.left_out.iter().filter(|(_, why)| *why == reason).map(|(path, _)| &path[..]).collect();
        if !paths.is_empty() {
            let (singular, plural) = said(reason);
            let count = human::count(paths.len() as u64, singular, plural);
            lines.push(format!("not saved: {count} ({})", few(paths.iter().map(|path| shown(path)))));
        }
    }
    if report.sockets > 0 {
        lines.push(format!("skipped: {}", human::count(report.sockets, "socket", "sockets")));
    }
    let few_paths = |paths: &[Vec<u8>]| few(paths.iter().map(|path| shown(path)));
    if !report.torn.is_empty() {
        lines.push(format!(
            "torn: {} changed while it was read – save it with the container paused",
            few_paths(&report.torn)
        ));
    }
    if !report.grew.is_empty() {
        lines.push(format!("grew: {} saved as it was at one moment", few_paths(&report.grew)));
    }
    lines
}

/// In the order of the report.
const REASONS: [LeftOut; 8] = [
    LeftOut::ReservedName,
    LeftOut::XattrName,
    LeftOut::WhiteoutDevice,
    LeftOut::Unrepresentable,
    LeftOut::PathTooLong,
    LeftOut::XattrsTooLarge,
    LeftOut::TooLarge,
    LeftOut::Socket,
];

fn said(reason: LeftOut) -> (&'static str, &'static str) {
    match reason {
        LeftOut::Socket => ("socket", "sockets"),
        LeftOut::Unrepresentable => ("path that no tar can hold", "paths that no tar can hold"),
        LeftOut::ReservedName => ("name that no image can hold", "names that no image can hold"),
        LeftOut::XattrName => {
            ("attribute name that no image can hold", "attribute names that no image can hold")
        }
        LeftOut::WhiteoutDevice => {
            ("device 0:0 that would mean a deletion", "devices 0:0 that would mean deletions")
        }
        LeftOut::PathTooLong => ("path of more than 4095 bytes", "paths of more than 4095 bytes"),
        LeftOut::XattrsTooLarge => (
            "name with more attributes than a tar can hold",
            "names with more attributes than a tar can hold",
        ),
        LeftOut::TooLarge => ("file of 8 TiB or more", "files of 8 TiB or more"),
    }
}

/// The reason as JSON has it.
fn word(reason: LeftOut) -> &'static str {
    match reason {
        LeftOut::Socket => "socket",
        LeftOut::ReservedName => "reserved-name",
        LeftOut::XattrName => "xattr-name",
        LeftOut::Unrepresentable => "unrepresentable",
        LeftOut::WhiteoutDevice => "whiteout-device",
        LeftOut::PathTooLong => "path-too-long",
        LeftOut::XattrsTooLarge => "xattrs-too-large",
        LeftOut::TooLarge => "too-large",
    }
}

fn shown(path: &[u8]) -> String {
    escape::bytes(&escape::rooted(path))
}

fn few(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let mut shown: Vec<String> = names.take(SHOWN).collect();
    if more > 0 {
        shown.push(format!("{} more", human::number(more as u64)));
    }
    shown.join(", ")
}

/// The answer of `commit -o json`: one object; what is not known is null, and every list is there.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    image: Option<String>,
    digest: Option<Digest>,
    id: Option<Digest>,
    layers: Vec<Layer>,
    changed: Changed,
    reused_bytes: u64,
    rehashed_bytes: u64,
    moments: Moments,
    left_out: Vec<LeftOutPath>,
    sockets: u64,
    mounts: Vec<Mount<'a>>,
    torn: Vec<JsonPath>,
    grew: Vec<JsonPath>,
    buried: Buried,
    warnings: &'a [String],
}

#[derive(Debug, Serialize)]
struct Layer {
    digest: Digest,
    diff_id: Digest,
    size: u64,
    new: bool,
}

#[derive(Debug, Serialize)]
struct Changed {
    files: u64,
    bytes: u64,
    removed: u64,
}

#[derive(Debug, Serialize)]
struct Moments {
    pause_ns: Option<u64>,
    sealed_ns: Option<u64>,
    durable_ns: Option<u64>,
    published_ns: Option<u64>,
}

#[derive(Debug, Serialize)]
struct LeftOutPath {
    #[serde(flatten)]
    path: JsonPath,
    reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Mount<'a> {
    #[serde(flatten)]
    path: JsonPath,
    fs_type: &'a str,
}

#[derive(Debug, Serialize)]
struct Buried {
    files: u64,
    bytes: u64,
}

impl<'a> Json<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        let nanos =
            |moment: Option<Duration>| moment.map(|m| u64::try_from(m.as_nanos()).unwrap_or(u64::MAX));
        let paths = |paths: &[Vec<u8>]| paths.iter().map(|path| JsonPath::rooted(path)).collect();
        let familiar =
            |name: &String| name.parse::<Reference>().map_or_else(|_| name.clone(), |name| name.familiar());
        Self {
            image: report.names.first().map(familiar),
            digest: report.digest,
            id: report.id,
            layers: report
                .layers
                .iter()
                .map(|layer| Layer {
                    digest: layer.digest,
                    diff_id: layer.diff_id,
                    size: layer.size,
                    new: layer.new,
                })
                .collect(),
            changed: Changed { files: report.changed, bytes: report.changed_bytes, removed: report.removed },
            reused_bytes: report.reused_bytes,
            rehashed_bytes: report.rehashed_bytes,
            moments: Moments {
                pause_ns: nanos(report.moments.pause),
                sealed_ns: nanos(report.moments.sealed),
                durable_ns: nanos(report.moments.durable),
                published_ns: nanos(report.moments.published),
            },
            left_out: report
                .left_out
                .iter()
                .map(|(path, reason)| LeftOutPath { path: JsonPath::rooted(path), reason: word(*reason) })
                .collect(),
            sockets: report.sockets,
            mounts: report
                .mounts
                .iter()
                .map(|mount| Mount { path: JsonPath::rooted(&mount.path), fs_type: &mount.fs_type })
                .collect(),
            torn: paths(&report.torn),
            grew: paths(&report.grew),
            buried: Buried { files: report.buried.0, bytes: report.buried.1 },
            warnings: &report.warnings,
        }
    }
}

#[cfg(test)]
mod tests;
