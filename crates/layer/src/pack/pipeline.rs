//! The stages of packing on their threads.
//!
//! # Shape
//!
//! ```text
//!            jobs      workers       one slot per frame
//! caller ──┬──────► ▒▒▒ ▒▒▒ ▒▒▒ ──┬──────────────────────────┐
//!          │ steps                └─ frames taken over ─┐    ▼ steps
//!          ├──────────────────────────────────────► tar hash │
//!          └───────────────────────────────────────────► writer ──► blob hash, write-back
//! ```
//!
//! Steps are in the order of the tar. A stage that comes to a frame that is still being worked on waits
//! at its slot, so frames are compressed in any order and leave in theirs. Buffers are handed out by
//! the caller in order too: the frame everybody waits for always has its own, and nothing can lock up.
//!
//! Threads start with the first frame that leaves the caller before the end; a layer of a single frame
//! is packed where it is.
//!
//! # Errors
//!
//! The first error of any thread is kept in [`Failure`]; all stages go on to take steps without doing
//! work, so that the caller is never left waiting, and finds the error at its next call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::buffer::{Buffer, Pool};
use super::stage::{Coded, Coder, Hashing, Pieces, Step, Writer, seal};
use super::{PackError, Packed};
use crate::codec::Compression;
use crate::frames::{Frame, HashPoint, Sealed};

/// Steps that wait in front of a stage; the pools bound the frames among them.
const QUEUE: usize = 32;
/// More workers than this do not fit into the memory that packing may use.
const MOST_WORKERS: usize = 8;
/// Buffers beyond one per worker: with the caller (two), in the three stages and between them.
const SPARE: usize = 6;

/// The first error of any thread.
#[derive(Default)]
struct Failure {
    is_set: AtomicBool,
    error: Mutex<Option<PackError>>,
}

impl Failure {
    fn set(&self, error: PackError) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    fn take(&self) -> PackError {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.take().unwrap_or(PackError::Stopped)
    }
}

/// A frame, or the slot that it will be put into.
enum Slot<T> {
    Ready(T),
    Later(Receiver<T>),
}

impl<T> Slot<T> {
    /// [`None`] when its worker gave up.
    fn wait(self) -> Option<T> {
        match self {
            Slot::Ready(frame) => Some(frame),
            Slot::Later(slot) => slot.recv().ok(),
        }
    }
}

enum Task {
    Pack { raw: Arc<Buffer> },
    Take { sealed: Sealed, frame: Frame, raw: Buffer, hash: Sender<Arc<Buffer>> },
}

struct Job {
    task: Task,
    out: Buffer,
    done: Sender<Arc<Coded>>,
}

/// What the stages are before and after they have threads.
struct Stages {
    writer: Writer,
    /// [`None`] when the blob is the tar: one digest says both.
    tar: Option<Hashing>,
    blob: Hashing,
}

struct Threads {
    jobs: Sender<Job>,
    tar: Option<Sender<Step<Slot<Arc<Buffer>>>>>,
    writer: Sender<Step<Slot<Arc<Coded>>>>,
    workers: Vec<JoinHandle<Duration>>,
    tar_thread: Option<JoinHandle<Hashing>>,
    blob_thread: JoinHandle<Hashing>,
    writer_thread: JoinHandle<Writer>,
    writeback_thread: JoinHandle<()>,
}

pub(super) struct Pipeline {
    compression: Compression,
    workers: usize,
    raws: Pool,
    outs: Pool,
    failure: Arc<Failure>,
    points: Vec<HashPoint>,
    stages: Option<Stages>,
    threads: Option<Threads>,
}

impl Pipeline {
    pub(super) fn new(
        compression: Compression,
        threads: usize,
        frame: usize,
        writer: Writer,
        hashes: (Hashing, Hashing),
        points: Vec<HashPoint>,
    ) -> Self {
        let workers = if compression == Compression::None { 0 } else { threads.clamp(1, MOST_WORKERS) };
        let (tar, blob) = hashes;
        let tar = (compression != Compression::None).then_some(tar);
        Pipeline {
            compression,
            workers,
            raws: Pool::new(workers + SPARE, frame),
            outs: Pool::new(workers + SPARE, compression.bound(frame)),
            failure: Arc::default(),
            points,
            stages: Some(Stages { writer, tar, blob }),
            threads: None,
        }
    }

    /// An empty buffer for the next frame.
    pub(super) fn buffer(&mut self) -> Buffer {
        self.raws.take()
    }

    /// # Errors
    /// The error that stopped a stage, the first time; [`PackError::Stopped`] from then on.
    pub(super) fn check(&self) -> Result<(), PackError> {
        if self.failure.is_set() { Err(self.failure.take()) } else { Ok(()) }
    }

    /// Hands on a frame.
    pub(super) fn frame(&mut self, raw: Arc<Buffer>) -> Result<(), PackError> {
        if self.workers == 0 {
            return self.plain(Coded::plain(raw));
        }
        let out = self.outs.take();
        let threads = self.threads()?;
        let (done, slot) = bounded(1);
        threads.send_tar(Step::Frame(Slot::Ready(Arc::clone(&raw))));
        threads.send_writer(Step::Frame(Slot::Later(slot)));
        // Threads only end when the packer does: a closed channel means that all have panicked, and
        // then the stages find an empty slot.
        let _ = threads.jobs.send(Job { task: Task::Pack { raw }, out, done });
        Ok(())
    }

    /// Hands on a frame of an earlier blob of the same format.
    pub(super) fn take(&mut self, sealed: &Sealed, frame: Frame) -> Result<(), PackError> {
        let mut raw = self.raws.take();
        if self.workers == 0 {
            let room = &mut raw.spare()[..frame.tar_len as usize];
            let error = |source| PackError::Take { offset: frame.blob_offset, source };
            frame.read(&sealed.file, room).map_err(error)?;
            raw.advance(frame.tar_len as usize);
            return self.plain(Coded::taken(raw.len(), 0, raw, (sealed.clone(), frame)));
        }
        let out = self.outs.take();
        let threads = self.threads()?;
        let ((done, slot), (hash, hash_slot)) = (bounded(1), bounded(1));
        threads.send_tar(Step::Frame(Slot::Later(hash_slot)));
        threads.send_writer(Step::Frame(Slot::Later(slot)));
        let task = Task::Take { sealed: sealed.clone(), frame, raw, hash };
        let _ = threads.jobs.send(Job { task, out, done });
        Ok(())
    }

    fn plain(&mut self, coded: Coded) -> Result<(), PackError> {
        self.threads()?.send_writer(Step::Frame(Slot::Ready(Arc::new(coded))));
        Ok(())
    }

    /// Lets the digests resume here.
    pub(super) fn point(&mut self) -> Result<(), PackError> {
        self.signal(|| Step::Point, || Step::Point)
    }

    /// Remembers this place.
    pub(super) fn mark(&mut self) -> Result<(), PackError> {
        self.signal(|| Step::Mark, || Step::Mark)
    }

    /// Goes back to the last mark.
    pub(super) fn rollback(&mut self) -> Result<(), PackError> {
        self.signal(|| Step::Rollback, || Step::Rollback)
    }

    fn signal(
        &mut self,
        tar: impl Fn() -> Step<Slot<Arc<Buffer>>>,
        writer: impl Fn() -> Step<Slot<Arc<Coded>>>,
    ) -> Result<(), PackError> {
        let threads = self.threads()?;
        threads.send_tar(tar());
        threads.send_writer(writer());
        Ok(())
    }

    /// Packs the last frames and ends: the rest of the entries, a point unless there is one already, and
    /// the end of the tar.
    pub(super) fn finish(
        mut self,
        rest: Option<Buffer>,
        with_point: bool,
        end: Buffer,
    ) -> Result<Packed, PackError> {
        let mut compress = Duration::ZERO;
        let (rest, end) = (rest.map(Arc::new), Arc::new(end));
        if self.threads.is_some() {
            if let Some(rest) = rest {
                self.frame(rest)?;
            }
            if with_point {
                self.point()?;
            }
            self.frame(end)?;
            compress = self.stop();
            self.check()?;
        } else if let Some(mut stages) = self.stages.take() {
            let mut coder = Coder::new(self.compression)?;
            if let Some(rest) = rest {
                compress += stages.frame(rest, &mut coder, &mut self.outs)?;
            }
            if with_point {
                stages.point()?;
            }
            compress += stages.frame(end, &mut coder, &mut self.outs)?;
            self.stages = Some(stages);
        }
        let Stages { writer, tar, blob } = self.stages.take().ok_or(PackError::Stopped)?;
        let mut packed = seal(writer, tar, blob, std::mem::take(&mut self.points))?;
        packed.timings.compress = compress;
        Ok(packed)
    }

    /// Starts the threads unless they run.
    fn threads(&mut self) -> Result<&mut Threads, PackError> {
        if self.threads.is_none() {
            let stages = self.stages.take().ok_or(PackError::Stopped)?;
            self.threads = Some(self.start(stages)?);
        }
        self.threads.as_mut().ok_or(PackError::Stopped)
    }

    fn start(&self, stages: Stages) -> Result<Threads, PackError> {
        let Stages { mut writer, tar, blob } = stages;
        let (jobs, todo) = bounded::<Job>(QUEUE);
        let (to_blob, for_blob) = bounded(QUEUE);
        let (to_writer, for_writer) = bounded(QUEUE);
        let mut workers = Vec::with_capacity(self.workers);
        for _ in 0..self.workers {
            let coder = Coder::new(self.compression)?;
            let (todo, failure) = (todo.clone(), Arc::clone(&self.failure));
            workers.push(spawn("pack-compress", move || work(&todo, coder, &failure))?);
        }
        let (mut to_tar, mut tar_thread) = (None, None);
        if let Some(tar) = tar {
            let (sender, steps) = bounded(QUEUE);
            to_tar = Some(sender);
            tar_thread = Some(spawn("pack-tar-hash", move || hash(&steps, tar))?);
        }
        let blob_thread = spawn("pack-blob-hash", move || hash(&for_blob, blob))?;
        // No queue: what cannot be started now is started with what comes after it.
        let (to_writeback, ranges) = bounded(0);
        let writeback = writer.writeback();
        let writeback_thread = spawn("pack-writeback", move || writeback.run(&ranges))?;
        writer.set_writeback(Some(to_writeback));
        let failure = Arc::clone(&self.failure);
        let writer_thread = spawn("pack-write", move || write(&for_writer, writer, &to_blob, &failure))?;
        Ok(Threads {
            jobs,
            tar: to_tar,
            writer: to_writer,
            workers,
            tar_thread,
            blob_thread,
            writer_thread,
            writeback_thread,
        })
    }

    /// Ends all threads and brings the stages home; the time all workers spent working.
    fn stop(&mut self) -> Duration {
        let Some(threads) = self.threads.take() else {
            return Duration::ZERO;
        };
        let Threads { jobs, tar, writer, workers, tar_thread, blob_thread, writer_thread, writeback_thread } =
            threads;
        drop((jobs, tar, writer));
        let busy: Vec<_> = workers.into_iter().map(JoinHandle::join).collect();
        let ended = (tar_thread.map(JoinHandle::join).transpose(), writer_thread.join(), blob_thread.join());
        match ended {
            (Ok(tar), Ok(mut writer), Ok(blob)) if busy.iter().all(Result::is_ok) => {
                writer.set_writeback(None);
                self.stages = Some(Stages { writer, tar, blob });
            }
            _ => self.failure.set(PackError::Stopped), // a thread has panicked, and said so on stderr
        }
        let _ = writeback_thread.join();
        busy.into_iter().flatten().sum()
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // Nobody wants the rest: let the stages run dry quickly.
        if self.threads.is_some() {
            self.failure.set(PackError::Stopped);
            self.stop();
        }
    }
}

impl Stages {
    /// All that the threads do for a frame, here; the time spent compressing.
    fn frame(&mut self, raw: Arc<Buffer>, coder: &mut Coder, outs: &mut Pool) -> Result<Duration, PackError> {
        let start = Instant::now();
        let coded = Step::Frame(Arc::new(coder.pack(Arc::clone(&raw), outs.take())?));
        let busy = start.elapsed();
        if let Some(tar) = &mut self.tar {
            tar.step(&Step::Frame(raw));
        }
        self.blob.step(&coded);
        self.writer.step(&coded)?;
        Ok(busy)
    }

    fn point(&mut self) -> Result<(), PackError> {
        if let Some(tar) = &mut self.tar {
            tar.step::<Buffer>(&Step::Point);
        }
        self.blob.step::<Coded>(&Step::Point);
        self.writer.step(&Step::Point)
    }
}

impl Threads {
    fn send_tar(&self, step: Step<Slot<Arc<Buffer>>>) {
        if let Some(tar) = &self.tar {
            let _ = tar.send(step);
        }
    }

    fn send_writer(&self, step: Step<Slot<Arc<Coded>>>) {
        let _ = self.writer.send(step);
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, PackError> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(PackError::Thread)
}

/// A compress worker: the time it spent working.
fn work(todo: &Receiver<Job>, mut coder: Coder, failure: &Failure) -> Duration {
    let mut busy = Duration::ZERO;
    for Job { task, out, done } in todo {
        if failure.is_set() {
            continue;
        }
        let start = Instant::now();
        let coded = match task {
            Task::Pack { raw } => coder.pack(raw, out),
            Task::Take { sealed, frame, mut raw, hash } => {
                let coded = coder.take(sealed, frame, &mut raw, out);
                if coded.is_ok() {
                    let _ = hash.send(Arc::new(raw));
                }
                coded
            }
        };
        match coded {
            Ok(coded) => drop(done.send(Arc::new(coded))),
            Err(error) => failure.set(error),
        }
        busy += start.elapsed();
    }
    busy
}

/// A hash thread. A frame that never comes belongs to a stream that has failed.
fn hash<T: Pieces>(steps: &Receiver<Step<Slot<Arc<T>>>>, mut hashing: Hashing) -> Hashing {
    for step in steps {
        if let Some(step) = step.wait() {
            hashing.step(&step);
        }
    }
    hashing
}

/// The writer's thread; what is written is hashed at the same time.
fn write(
    steps: &Receiver<Step<Slot<Arc<Coded>>>>,
    mut writer: Writer,
    blob: &Sender<Step<Slot<Arc<Coded>>>>,
    failure: &Failure,
) -> Writer {
    for step in steps {
        let Some(step) = step.wait() else {
            failure.set(PackError::Stopped);
            continue;
        };
        if failure.is_set() {
            continue;
        }
        let _ = blob.send(step.again());
        if let Err(error) = writer.step(&step) {
            failure.set(error);
        }
    }
    writer
}

impl<T> Step<Slot<Arc<T>>> {
    fn wait(self) -> Option<Step<Arc<T>>> {
        Some(match self {
            Step::Frame(slot) => Step::Frame(slot.wait()?),
            Step::Point => Step::Point,
            Step::Mark => Step::Mark,
            Step::Rollback => Step::Rollback,
        })
    }
}

impl<T> Step<Arc<T>> {
    fn again(&self) -> Step<Slot<Arc<T>>> {
        match self {
            Step::Frame(frame) => Step::Frame(Slot::Ready(Arc::clone(frame))),
            Step::Point => Step::Point,
            Step::Mark => Step::Mark,
            Step::Rollback => Step::Rollback,
        }
    }
}
