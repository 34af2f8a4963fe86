//! The slow path made bearable: files of two trees are compared by as many threads as there are processors.
//!
//! Where no overlay keeps the change, every file has to be looked at, and one whose metadata is that of its
//! counterpart has to be read on both sides. This is done before anything is decided: the outcome is
//! knowledge like that of an earlier save ([`crate::knowledge`]), and the decision is the one of every save.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use layer::judge::Walk;
use layer::node::{Stat, What};
use layer::scan::open_file;

use crate::clean::{CleanRead, Ground, Verdict};
use crate::error::SaveError;
use crate::held::has_bytes;
use crate::job::Job;
use crate::knowledge::{FileStamp, Knowledge, Known, Learned};
use crate::walk::Walked;

/// Pairs that may wait for a thread.
const QUEUE: usize = 1024;

/// A file of the tree that may be that of the other.
struct Pair {
    path: Vec<u8>,
    stat: Stat,
}

/// Compares all files of `walked` whose size and time are those of their counterpart below `against`.
pub(crate) fn compare(
    job: &Job<'_>,
    walked: &mut Walked,
    against: BorrowedFd<'_>,
    threads: usize,
) -> Result<Knowledge, SaveError> {
    let (tree, ground, cancel) = (job.upper(), job.ground, job.cancel);
    let (pairs, to_compare) = crossbeam_channel::bounded::<Pair>(QUEUE);
    let (found, results) = crossbeam_channel::unbounded::<io::Result<Option<Known>>>();
    let mut learned = Learned::new(&job.spill);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (to_compare, found) = (to_compare.clone(), found.clone());
            scope.spawn(move || {
                let mut buffers = (vec![0; BLOCK], vec![0; BLOCK]);
                for pair in to_compare {
                    let known = compare_pair(tree, against, &ground, &pair, &mut buffers, cancel);
                    if found.send(known).is_err() {
                        return;
                    }
                }
            });
        }
        drop((to_compare, found));
        let mut told = walked.tell()?;
        while let Some(seen) = told.next()? {
            if seen.hash.is_none() && has_bytes(&seen.node) && matches!(seen.node.what, What::File { .. }) {
                let pair = Pair { path: seen.node.path, stat: seen.node.stat };
                if pairs.send(pair).is_err() {
                    break;
                }
            }
            // results are few and small; taking them here keeps their queue short
            while let Ok(known) = results.try_recv() {
                learn(&mut learned, known?)?;
            }
        }
        drop(pairs);
        for known in &results {
            learn(&mut learned, known?)?;
        }
        Ok::<(), SaveError>(())
    })?;
    if cancel.load(Ordering::Relaxed) {
        return Err(SaveError::Interrupted);
    }
    Ok(learned.write(job.spill.file()?)?)
}

fn learn(learned: &mut Learned, known: Option<Known>) -> io::Result<()> {
    known.map_or(Ok(()), |known| learned.push(&known))
}

const BLOCK: usize = 256 << 10;

/// `None`: they differ, or cannot be compared now; whoever decides will read the file itself.
fn compare_pair(
    tree: BorrowedFd<'_>,
    against: BorrowedFd<'_>,
    ground: &Ground,
    pair: &Pair,
    (ours, theirs): &mut (Vec<u8>, Vec<u8>),
    cancel: &AtomicBool,
) -> io::Result<Option<Known>> {
    let open = |root| match open_file(root, &pair.path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let Some(other) = open(against)? else { return Ok(None) };
    let metadata = other.metadata()?;
    let same_time = {
        use std::os::unix::fs::MetadataExt;
        (metadata.mtime(), metadata.mtime_nsec()) == (pair.stat.mtime.secs, i64::from(pair.stat.mtime.nanos))
    };
    if metadata.len() != pair.stat.size || !same_time {
        return Ok(None);
    }
    let Some(file) = open(tree)? else { return Ok(None) };
    let read = CleanRead::begin(ground, file.as_fd())?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < pair.stat.size && !cancel.load(Ordering::Relaxed) {
        let len = file.read_at(ours, at)?;
        if len == 0 {
            return Ok(None);
        }
        match other.read_exact_at(&mut theirs[..len], at) {
            Ok(()) if ours[..len] == theirs[..len] => {}
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        hasher.update(&ours[..len]);
        at += len as u64;
    }
    let is_settled = matches!(read.end(file.as_fd())?, Verdict::Clean(clean) if clean.is_settled);
    let stamp = FileStamp::from(&pair.stat);
    let hash = *hasher.finalize().as_bytes();
    Ok(Some(Known { path: pair.path.clone(), stamp, hash, is_base: true, is_settled }))
}
