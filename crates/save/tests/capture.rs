//! Captures of files that stay open, by clone where the file system can.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests with a harness of their own")]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use save::capture::{Means, Scratch};

mod standstill;
use standstill::{Need, Overlay};

fn main() {
    standstill::run(&[
        ("xfs::held_open", &[Need::Root, Need::Xfs], || held_open("xfs", Means::Clone)),
        ("btrfs::held_open", &[Need::Root, Need::Btrfs], || held_open("btrfs", Means::Clone)),
        ("ext4::held_open", &[Need::Root, Need::Ext4], || held_open("ext4", Means::Copy)),
    ]);
}

fn held_open(kind: &str, means: Means) {
    const CHUNK: u64 = 1 << 20;
    const CHUNKS: u64 = 256;
    let overlay = Overlay::on(kind);
    let writer = File::create(overlay.merged("database")).unwrap();
    for chunk in 0..CHUNKS {
        writer.write_all_at(&[chunk.to_le_bytes()[0]; 1 << 20], chunk * CHUNK).unwrap();
    }
    let file = File::open(overlay.upper("database")).unwrap();
    let spool = tempfile::tempfile_in(overlay.scratch()).unwrap();
    let mut scratch = Scratch::new(Some(File::open(overlay.scratch()).unwrap()), spool, 1 << 20);
    scratch.prepare(file.as_fd(), CHUNKS * CHUNK).unwrap();
    let since = Instant::now();
    let captured = scratch.capture(file.as_fd(), CHUNKS * CHUNK, &|| true).unwrap();
    eprintln!("{kind}: {CHUNKS} MiB in {:?}", since.elapsed());
    assert_eq!(captured.means(), means);
    for chunk in 0..CHUNKS {
        writer.write_all_at(&[0xFF; 4096], chunk * CHUNK).unwrap();
    }
    let mut bytes = [0; 4096];
    for chunk in 0..CHUNKS {
        assert_eq!(captured.read_at(&mut bytes, chunk * CHUNK).unwrap(), 4096);
        assert_eq!(bytes, [chunk.to_le_bytes()[0]; 4096]);
    }
    assert_eq!(captured.read_at(&mut bytes, CHUNKS * CHUNK).unwrap(), 0);
}
