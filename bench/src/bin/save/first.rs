//! Cases a, b and c: a first save, ours and everybody else's.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context, Result};
use bench::image::Layout;
use bench::measure::{Contender, interleave};
use bench::report::{Base, Table};
use bench::seeded::{self, Shape};
use harness::Scratch;

use super::ours::{self, Ours};
use super::peers::Peers;
use super::setting::{Setting, fill, overlay, paced};

const BASE_NAME: &str = "base";

type Keep<'k> = &'k mut dyn FnMut(Table) -> Result<()>;

pub(crate) fn run(setting: &Setting<'_>, keep: Keep<'_>) -> Result<()> {
    let scratch = Scratch::new_in(setting.scratch.path(), "first")?;
    let root = scratch.dir("base")?;
    super::tell("making the base");
    let shape = Shape {
        files: setting.scaled(50_000),
        dirs: setting.scaled(9_260),
        bytes: setting.scaled(2_000_000_000),
        is_source: false,
        settled: true,
    };
    let base = seeded::tree(&root, shape, 1)?;
    let layout = Layout::of_tree(&root, &scratch.dir("layout")?, BASE_NAME)?;
    let ours = Ours::new(&scratch, &setting.stopwatch)?;
    super::tell("giving it to everybody");
    ours.headstart.ok([OsStr::new("import"), layout.layer().as_os_str(), OsStr::new(BASE_NAME)])?;
    let peers = Peers::start(setting, &layout)?;
    for case in setting.options.cases.iter().copied().filter(|case| "abc".contains(*case)) {
        super::tell(&format!("case {case}"));
        keep(one(setting, &scratch, &ours, &peers, (&root, base), case)?)?;
    }
    Ok(())
}

fn one<'s>(
    setting: &'s Setting<'s>,
    scratch: &Scratch,
    ours: &Ours<'_>,
    peers: &Peers,
    (root, base): (&Path, Base),
    case: char,
) -> Result<Table> {
    let mount = overlay(scratch, root, &format!("case-{case}"))?;
    fill(case, mount.target(), setting)?;
    let upper = mount.upper().context("the overlay has an upper")?.to_owned();
    let saving = |name: &str, words: Vec<OsString>| {
        Contender::new(format!("headstart commit {name}"), 3, move || ours.alone(&words))
    };
    let of = |more: &[&str]| ours::overlay(mount.target(), Some(BASE_NAME), more);
    let mut contenders = Vec::new();
    let mut large = None;
    if case == 'a' {
        contenders.push(saving("(whole command)", of(&[])));
        let (entries, dir) = (base.entries * 10, scratch.dir("large-base")?);
        let files = entries * 9 / 10;
        super::tell("making the base with ten times the entries");
        let shape = Shape { files, dirs: entries - files, bytes: 0, is_source: false, settled: true };
        seeded::tree(&dir, shape, 4)?;
        let over = large.insert(overlay(scratch, &dir, "large")?);
        fill(case, over.target(), setting)?;
        let words = ours::overlay(over.target(), Some(BASE_NAME), &[]);
        contenders.push(saving("on ten times the entries", words));
    } else {
        for how in ["auto", "zstd:1", "gzip:6"] {
            contenders.push(saving(&format!("--compression {how}"), of(&["--compression", how])));
        }
        contenders.push(setting.floor(&upper, 1, 3)?);
        contenders.push(setting.floor(&upper, 2, 3)?);
    }
    const WITH_DIGESTS: &str = "rm -f \"$2\".p1 \"$2\".p2; mkfifo \"$2\".p1 \"$2\".p2; \
        openssl dgst -sha256 \"$2\".p1 >/dev/null & openssl dgst -sha256 \"$2\".p2 >/dev/null & \
        tar -C \"$1\" -c . | tee \"$2\".p1 | zstd -q -1 -T0 | tee \"$2\".p2 > \"$2\"; wait";
    let pipelines = [
        ("zstd", "tar | zstd -1 -T0, both digests beside", WITH_DIGESTS),
        ("zstd", "tar | zstd -1 -T0", "tar -C \"$1\" -c . | zstd -q -1 -T0 > \"$2\""),
        ("pigz", "tar | pigz -6", "tar -C \"$1\" -c . | pigz -6 > \"$2\""),
        ("gzip", "tar | gzip -6", "tar -C \"$1\" -c . | gzip -6 > \"$2\""),
    ];
    for (peer, name, script) in pipelines {
        if setting.options.wants(peer) {
            contenders.push(setting.pipeline(name, script, &upper, 3));
        }
    }
    let fill_peer = |root: &Path| fill(case, root, setting);
    contenders.extend(peers.contenders(&setting.stopwatch, case, &fill_peer)?);
    let mut contenders = contenders.into_iter().map(paced).collect::<Result<Vec<_>>>()?;
    // what takes milliseconds needs more rounds than what takes minutes
    let rounds = if case == 'a' { setting.options.pairs.max(7) } else { setting.options.pairs };
    let rows = interleave(&mut contenders, rounds, &|| setting.prime(case), &super::tell)?;
    let what = match case {
        'a' => "a: a new file of 1 KB",
        'b' => "b: 10 × 100 MB of random bytes",
        _ => "c: 50,000 small files that look like sources, 1 GB (seeded words, not from this machine)",
    };
    let mut notes = vec![
        "podman, buildah and docker sync nothing: a sync(1) behind them is counted".to_owned(),
        "ctr streams the blob back from containerd; its output goes to /dev/null".to_owned(),
    ];
    if setting.options.shrink > 1 {
        notes.push(format!("sizes divided by {}", setting.options.shrink));
    }
    Ok(Table { case: what.to_owned(), file_system: setting.file_system(), base, rows, notes })
}

/// Case m: how much memory a million entries need.
pub(crate) fn many_entries(setting: &Setting<'_>, keep: Keep<'_>) -> Result<()> {
    let scratch = Scratch::new_in(setting.scratch.path(), "many")?;
    let base = harness::busybox_rootfs(&scratch.dir("base")?)?;
    let mount = overlay(&scratch, &base, "root")?;
    let upper = mount.upper().context("the overlay has an upper")?.join("many");
    std::fs::create_dir(&upper).context("create the directory")?;
    let files = setting.scaled(950_000);
    let shape = Shape { files, dirs: setting.scaled(50_000), bytes: 0, is_source: false, settled: false };
    seeded::tree(&upper, shape, 5)?;
    rustix::fs::sync();
    let ours = Ours::new(&scratch, &setting.stopwatch)?;
    let words = ours::overlay(mount.target(), None, &[]);
    let mut contenders = [Contender::new("headstart commit, 1,000,000 entries", 0, || ours.first(&words))];
    let rows = interleave(&mut contenders, setting.options.pairs.min(3), &|| Ok(()), &super::tell)?;
    let rss = rows.iter().flat_map(|row| &row.samples).map(|sample| sample.max_rss).max().unwrap_or(0);
    keep(Table {
        case: "m: 950,000 empty files in 50,000 directories".to_owned(),
        file_system: setting.file_system(),
        base: seeded::count(&base)?,
        rows,
        notes: vec![format!("largest resident set, files included: {}", bench::report::size(rss))],
    })
}
