//! `floor DIR OUTPUT DIGESTS`: what saving costs at the very least on this machine.
//!
//! Reads all bytes below a directory once, hashes them as often as the output would have distinct digests,
//! writes them to one file and syncs it; all at the same time on threads, without tar and without
//! compression. Whoever saves the same bytes cannot be faster without leaving something out.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};
use sha2::{Digest as _, Sha256};

/// Together these fit into the processor's cache, so that what one thread has read is not fetched from
/// memory again by the others.
const BUFFER: usize = 1 << 20;
const BUFFERS: usize = 6;
/// Write-back begins so often, that the sync at the end has little left to do.
const WRITEBACK: u64 = 8 << 20;

type Block = Arc<Vec<u8>>;

fn main() -> Result<()> {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [dir, output, digests] = &words[..] else {
        return Err(anyhow!("usage: floor DIR OUTPUT DIGESTS"));
    };
    let digests: usize = digests.to_str().and_then(|text| text.parse().ok()).context("DIGESTS: a number")?;
    let file = File::create(output).with_context(|| format!("create {}", output.display()))?;
    thread::scope(|scope| {
        let (empty, full) = bounded::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            empty.send(Vec::with_capacity(BUFFER)).map_err(|_| anyhow!("buffers"))?;
        }
        let mut consumers: Vec<Sender<Block>> = Vec::new();
        for _ in 0..digests {
            let (sender, blocks) = bounded(BUFFERS);
            consumers.push(sender);
            let empty = empty.clone();
            scope.spawn(move || hash(&blocks, &empty));
        }
        let (sender, blocks) = bounded(BUFFERS);
        consumers.push(sender);
        let (ranges, to_start) = bounded::<(u64, u64)>(0);
        let for_writeback = file.try_clone().context("clone the descriptor")?;
        scope.spawn(move || {
            for (start, len) in to_start {
                // only a matter of speed; a real error shows at the sync
                let _ = linux::clone::start_write_back(for_writeback.as_fd(), start, len);
            }
        });
        let writer = scope.spawn({
            let (file, empty) = (&file, empty.clone());
            move || write(file, &blocks, &empty, &ranges)
        });
        let mut reading = Reading { full: &full, consumers, buffer: None };
        reading.tree(dir)?;
        reading.pass_on()?;
        drop(reading);
        writer.join().map_err(|_| anyhow!("the writer panicked"))?
    })?;
    file.sync_data().context("sync")?;
    Ok(())
}

struct Reading<'a> {
    full: &'a Receiver<Vec<u8>>,
    consumers: Vec<Sender<Block>>,
    buffer: Option<Vec<u8>>,
}

impl Reading<'_> {
    fn tree(&mut self, dir: &Path) -> Result<()> {
        let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().context("list a directory")?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type().context("type of an entry")?;
            if kind.is_dir() {
                self.tree(&entry.path())?;
            } else if kind.is_file() {
                self.file(&entry.path())?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        loop {
            let buffer = match &mut self.buffer {
                Some(buffer) => buffer,
                none => none.insert(self.full.recv().context("a buffer")?),
            };
            let room = (BUFFER - buffer.len()) as u64;
            let len = Read::by_ref(&mut file).take(room).read_to_end(buffer);
            if len.with_context(|| format!("read {}", path.display()))? as u64 != room {
                return Ok(());
            }
            self.pass_on()?;
        }
    }

    fn pass_on(&mut self) -> Result<()> {
        if let Some(buffer) = self.buffer.take() {
            let block = Arc::new(buffer);
            for consumer in &self.consumers {
                consumer.send(Arc::clone(&block)).map_err(|_| anyhow!("a thread has ended"))?;
            }
        }
        Ok(())
    }
}

fn give_back(block: Block, empty: &Sender<Vec<u8>>) {
    if let Some(mut buffer) = Arc::into_inner(block) {
        buffer.clear();
        let _ = empty.send(buffer);
    }
}

fn hash(blocks: &Receiver<Block>, empty: &Sender<Vec<u8>>) {
    let mut hash = Sha256::new();
    for block in blocks {
        hash.update(&block[..]);
        give_back(block, empty);
    }
    std::hint::black_box(hash.finalize());
}

fn write(
    file: &File,
    blocks: &Receiver<Block>,
    empty: &Sender<Vec<u8>>,
    ranges: &Sender<(u64, u64)>,
) -> Result<()> {
    let (mut at, mut started) = (0, 0);
    for block in blocks {
        file.write_all_at(&block, at).context("write")?;
        at += block.len() as u64;
        give_back(block, empty);
        if at >= started + WRITEBACK && ranges.try_send((started, at - started)).is_ok() {
            started = at;
        }
    }
    Ok(())
}
