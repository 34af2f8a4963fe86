//! `save`: what saving a container costs, beside what others pay for it.
//!
//! | case | change | contenders |
//! |---|---|---|
//! | a | a new file of 1 KB on a base of 50,000 files and 2 GB; ours again on ten times the entries | all |
//! | b | 10 × 100 MB of random bytes | all, and the floor |
//! | c | 50,000 small files that look like sources, about 1 GB | all, and the floor |
//! | d | (`--full`) 100 × 100 MB, then a new file of 1 KB | ours, and the floor |
//! | e | the second save of b (and d): one new file, one early file changed, one deleted | ours by shape |
//! | p | how long a container stands still, in the cases above | ours |
//! | m | the largest resident set while a million entries are saved | ours |
//!
//! The sources of c come from a seeded model of words, not from this machine; `zstd -1` makes about a
//! quarter of them. Everything lies in a scratch directory below `$TMPDIR` that is removed at the end, after
//! a failure and after Ctrl-C too. Peers that do not work here are named and left out.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports to people")]

mod again;
mod docker;
mod first;
mod ours;
mod pause;
mod peers;
mod setting;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use bench::machine::Machine;
use bench::report::{Report, Table};
use clap::Parser;
use harness::FileSystem;

use setting::Setting;

/// Measure saving against the tools people use today.
#[derive(Debug, Parser)]
struct Options {
    /// Which cases: letters of the table in the source
    #[arg(long, value_delimiter = ',', default_value = "a,b,c,e,p")]
    cases: Vec<char>,

    /// The published case too: 100 × 100 MB (needs 25 GB)
    #[arg(long)]
    full: bool,

    /// Where e and p are measured
    #[arg(long, value_delimiter = ',', default_value = "ext4,xfs")]
    fs: Vec<String>,

    /// Counted rounds; what takes minutes runs three times at most
    #[arg(long, default_value_t = 7)]
    pairs: usize,

    /// Whom to compare with; the last three are pipelines behind tar
    #[arg(long, value_delimiter = ',', default_value = "containerd,podman,buildah,docker,zstd,pigz,gzip")]
    peers: Vec<String>,

    /// Saves whose pauses are measured
    #[arg(long, default_value_t = 30)]
    pauses: usize,

    /// Divides all sizes and counts: to try the benchmark itself
    #[arg(long, default_value_t = 1)]
    shrink: u64,

    /// Write the figures here, with all samples
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Options {
    fn file_systems(&self) -> Result<Vec<FileSystem>> {
        let parse = |word: &String| match word.as_str() {
            "ext4" => Ok(FileSystem::Ext4),
            "xfs" => Ok(FileSystem::Xfs),
            "btrfs" => Ok(FileSystem::Btrfs),
            other => bail!("--fs {other}: ext4, xfs or btrfs"),
        };
        self.fs.iter().map(parse).collect()
    }

    fn wants(&self, peer: &str) -> bool {
        self.peers.iter().any(|wanted| wanted == peer)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&cancel)).context("listen to signals")?;
    }
    let machine = Machine::here();
    println!(
        "{} · {} × {} · {} · Linux {} · load {}",
        machine.commit,
        machine.cores,
        machine.cpu,
        bench::report::size(machine.memory),
        machine.kernel,
        machine.load
    );
    let mut report = Report { machine, tables: Vec::new() };
    let setting = Setting::new(&options, &cancel)?;
    let mut keep = |table: Table| -> Result<()> {
        println!("{}", table.text());
        report.tables.push(table);
        // after each: what was measured survives whatever comes
        options.json.as_ref().map_or(Ok(()), |path| report.write(path))
    };
    if options.cases.iter().any(|case| "abc".contains(*case)) {
        first::run(&setting, &mut keep)?;
    }
    if options.cases.iter().any(|case| "de".contains(*case)) {
        again::run(&setting, &mut keep)?;
    }
    if options.cases.contains(&'p') {
        pause::run(&setting, &mut keep)?;
    }
    if options.cases.contains(&'m') {
        first::many_entries(&setting, &mut keep)?;
    }
    Ok(())
}

/// Tells on standard error how far it is.
fn tell(text: &str) {
    eprintln!("  {text}");
}
