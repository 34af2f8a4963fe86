//! Packs random bytes or a tree from memory, and says how fast each stage was.
//!
//! `pack FORM OUT random MIB` or `pack FORM OUT tree DIR`; FORM is `none`, `gzip:LEVEL` or `zstd:LEVEL`.
#![expect(clippy::print_stdout, reason = "the figures are its output")]

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use layer::codec::Compression;
use layer::entry::{Entry, Kind, Meta};
use layer::pack::{PackOptions, Packed, Packer};
use rustix::time::{ClockId, clock_gettime};

type Files = Vec<(Entry, Vec<u8>)>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [form, out, what, argument] = &args[..] else { bail!("pack FORM OUT random MIB | tree DIR") };
    let compression = match form.split_once(':') {
        None if form == "none" => Compression::None,
        Some(("gzip", level)) => Compression::Gzip { level: level.parse()? },
        Some(("zstd", level)) => Compression::Zstd { level: level.parse()? },
        _ => bail!("unknown form {form}"),
    };
    let files = match what.as_str() {
        "random" => random(argument.parse()?),
        _ => tree(argument.as_ref())?,
    };
    let threads = std::thread::available_parallelism()?.get();
    let blob = File::options().read(true).write(true).create(true).truncate(true).open(out)?;
    let keep = blob.try_clone()?;
    let (start, cpu) = (Instant::now(), cpu_time());
    let packed = pack(blob, &PackOptions { compression, threads }, &files)?;
    let (wall, cpu) = (start.elapsed(), cpu_time().saturating_sub(cpu));
    let sync = Instant::now();
    keep.sync_data()?;
    let mb = packed.tar_size as f64 / 1e6;
    println!(
        "{form} {what}: {mb:.0} MB in {wall:.2?} = {:.0} MB/s, cpu {cpu:.2?}, sync {:.2?}, blob {} bytes ({:.4}), {} frames",
        mb / wall.as_secs_f64(),
        sync.elapsed(),
        packed.size,
        packed.size as f64 / packed.tar_size as f64,
        packed.map.frames.len(),
    );
    println!("  {:.2?}, map {} bytes", packed.timings, packed.map.encode().len());
    Ok(())
}

fn pack(blob: File, options: &PackOptions, files: &Files) -> Result<Packed> {
    let mut packer = Packer::create(blob, options)?;
    for (entry, data) in files {
        packer.file(entry, data)?;
    }
    Ok(packer.finish()?)
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry { path: path.to_vec(), kind, meta: Meta { mode: 0o644, ..Meta::default() } }
}

/// Ten files of the same length.
fn random(mib: usize) -> Files {
    let size = (mib << 20) / 10;
    let file = |n: u8| {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut bytes);
        (entry(&[b'a' + n], Kind::File { size: size as u64 }), bytes)
    };
    (0..10).map(file).collect()
}

fn tree(root: &Path) -> Result<Files> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut files = Files::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let mut children = fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let (path, kind) = (child.path(), child.file_type()?);
            let name = path.strip_prefix(root)?.as_os_str().as_bytes();
            if kind.is_dir() {
                files.push((entry(name, Kind::Dir), Vec::new()));
                todo.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
                files.push((entry(name, Kind::File { size: bytes.len() as u64 }), bytes));
            }
        }
    }
    Ok(files)
}
