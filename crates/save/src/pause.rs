//! Making a container stand still for a moment, and making sure that it goes on.
//!
//! The container's control group is frozen, which is verified, and thawed when the [`Pause`] ends. What
//! only the container itself could undo must not depend on us living, so a guard process thaws when we die
//! in any way or when the deadline passes, and a record lets the next run thaw if the guard died too.
//!
//! # Shape
//! ```text
//! lock record → refuse root, ourselves, strangers → already frozen? → Pause that thaws nothing
//!                                                 → write record → guard → freeze → verify → Pause
//! Pause::thaw:  verify still frozen → thaw → dismiss guard → remove record (unlocks)
//! ```
//!
//! # Contract
//! What was captured in a pause may be trusted once [`Pause::thaw`] has said `Ok`: the group stood still
//! from first to last. Processes outside of the group that write to the container's files are not stopped.
//!
//! # Crash safety
//! The record is written before the guard starts and the guard starts before the group is frozen; undone in
//! the opposite order. Whoever is killed between two steps leaves a record too much, never one too few.
//! Killing the saver: the guard thaws. Killing both: [`recover`] thaws at the next command.
//!
//! # Concurrency
//! The record's lock is held throughout, by the guard too: two saves of one container freeze one after the
//! other, and a save cannot take the other's freeze for a paused container.
//!
//! # Errors
//! All but [`PauseError::Broken`] come before anything was read: the caller may go on unpaused, and say so.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux::freezer::{Freezer, State};
use linux::guard::{Deed, Guard};

mod record;
mod target;

pub use record::recover;
pub use target::PauseTarget;

use record::Record;

/// How long a container may stand still.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// How long freezing may take: it needs 2–5 ms, 139 ms were seen on a busy machine, and what takes longer
/// sits in a wait that the freezer cannot end.
const FREEZE_WITHIN: Duration = Duration::from_millis(500);

/// A container that stands still. Dropping it lets it go on.
#[derive(Debug)]
#[must_use = "dropping a pause ends it"]
pub struct Pause {
    cgroup: PathBuf,
    freezer: Freezer,
    since: Instant,
    deadline: Duration,
    /// Both gone once the pause has ended.
    record: Option<Record>,
    /// `None` too if somebody else had paused the container: then it stays paused.
    guard: Option<Guard>,
}

/// A pause that held until it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thawed {
    /// How long we made the container stand still: from the request to freeze to the request to thaw. Zero
    /// if it had been paused before, and is still.
    pub paused_for: Duration,
    /// Whether somebody else had paused it.
    pub was_paused_before: bool,
}

/// Why a container does not stand still.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// The process ended, or left its control group.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// Neither freezer is there, or its hierarchy is not mounted here.
    #[error("no freezer reaches process {pid}")]
    NoFreezer {
        /// The process.
        pid: i32,
    },
    /// The process has no control group of its own.
    #[error("process {pid} is in the root control group, which cannot be frozen")]
    RootCgroup {
        /// The process.
        pid: i32,
    },
    /// We would freeze ourselves.
    #[error("control group {} holds this program too", cgroup.display())]
    HoldsUs {
        /// The control group.
        cgroup: PathBuf,
    },
    /// We would freeze somebody who is not part of the container.
    #[error("control group {} holds process {pid}, which is not part of the container", cgroup.display())]
    HoldsStranger {
        /// The control group.
        cgroup: PathBuf,
        /// The process, 0 if our pid namespace cannot name it.
        pid: i32,
    },
    /// There are more groups or processes than can be looked at.
    #[error("control group {} holds too many processes to tell whose they are", cgroup.display())]
    TooManyMembers {
        /// The control group.
        cgroup: PathBuf,
    },
    /// Another save holds it.
    #[error("another save holds control group {}", cgroup.display())]
    Busy {
        /// The control group.
        cgroup: PathBuf,
    },
    /// It did not stop in time, and runs again.
    #[error("control group {} did not stop within {} ms", cgroup.display(), within.as_millis())]
    TooSlow {
        /// The control group.
        cgroup: PathBuf,
        /// How long we waited.
        within: Duration,
    },
    /// The container ran before the pause was ended: what was captured in it is not of one moment.
    #[error("control group {} ran again within the pause, after at most {} ms", cgroup.display(),
        within.as_millis())]
    Broken {
        /// The control group.
        cgroup: PathBuf,
        /// How long after the freeze this was seen.
        within: Duration,
    },
    /// A file of the control group, of the process or of the run directory.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl PauseError {
    fn of_cgroup(cgroup: &Path, source: io::Error) -> PauseError {
        PauseError::Io { path: cgroup.to_owned(), source }
    }
}

/// Freezes the container of this process, for `deadline` at most.
///
/// `run_dir` is where records are kept, on a file system that does not outlive the kernel.
///
/// # Errors
/// See [`PauseError`]; the container then runs as before.
pub fn freeze(target: &PauseTarget, deadline: Duration, run_dir: &Path) -> Result<Pause, PauseError> {
    let cgroup = target.cgroup()?;
    let pid = target.pid().as_raw_nonzero().get();
    let failed = |source| PauseError::of_cgroup(&cgroup, source);
    let freezer = Freezer::open(&cgroup).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PauseError::NoFreezer { pid },
        _ => PauseError::of_cgroup(&cgroup, source),
    })?;
    target.check_members(&cgroup)?;
    // Another save is done after its own deadline at the latest.
    let record = Record::lock(run_dir, &cgroup, &freezer, DEADLINE.max(deadline) + FREEZE_WITHIN)?;
    record.settle_debt().map_err(failed)?;

    let was_paused = freezer.state().map_err(failed)? != State::Thawed;
    let guard = if was_paused {
        None
    } else {
        record.owe(&cgroup)?;
        let (to, bytes) = freezer.thaw_request();
        let deed = Deed { to, bytes, record: record.file(), record_name: record.place() };
        match Guard::start(deed, deadline) {
            Ok(guard) => Some(guard),
            Err(source) => {
                record.remove();
                return Err(failed(source));
            }
        }
    };
    let since = Instant::now();
    // From here on dropping undoes everything.
    let pause = Pause { cgroup, freezer, since, deadline, record: Some(record), guard };
    if pause.guard.is_some() {
        pause.freezer.request_freeze().map_err(|source| PauseError::of_cgroup(&pause.cgroup, source))?;
    }
    pause.wait_until_frozen()?;
    // Who came in between is frozen with it, and must not stay so.
    target.check_members(&pause.cgroup)?;
    Ok(pause)
}

impl Pause {
    fn wait_until_frozen(&self) -> Result<(), PauseError> {
        let mut nap = Duration::from_micros(50);
        let within = FREEZE_WITHIN.min(self.deadline);
        loop {
            let state = self.freezer.state();
            if state.map_err(|source| PauseError::of_cgroup(&self.cgroup, source))? == State::Frozen {
                return Ok(());
            }
            if self.since.elapsed() > within {
                return Err(PauseError::TooSlow { cgroup: self.cgroup.clone(), within });
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(2));
        }
    }

    /// Whether the container still stands still.
    #[must_use]
    pub fn still_frozen(&self) -> bool {
        let in_time = match &self.guard {
            Some(guard) => self.since.elapsed() < self.deadline && !guard.is_gone(),
            None => true,
        };
        in_time && self.freezer.state().is_ok_and(|state| state == State::Frozen)
    }

    /// How long it has stood still.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether somebody else had paused the container, who alone lets it go on.
    #[must_use]
    pub fn was_paused_before(&self) -> bool {
        self.guard.is_none()
    }

    /// Lets the container go on.
    ///
    /// # Errors
    /// [`PauseError::Broken`] if it had gone on before: nothing that was captured may be trusted.
    pub fn thaw(mut self) -> Result<Thawed, PauseError> {
        let held = self.still_frozen();
        let was_paused_before = self.was_paused_before();
        let paused_for = self.end().map_err(|source| PauseError::of_cgroup(&self.cgroup, source))?;
        if held {
            Ok(Thawed {
                paused_for: if was_paused_before { Duration::ZERO } else { paused_for },
                was_paused_before,
            })
        } else {
            Err(PauseError::Broken { cgroup: self.cgroup.clone(), within: paused_for })
        }
    }

    /// Thaws what we froze, then takes back what would have done it for us.
    fn end(&mut self) -> io::Result<Duration> {
        let mut result = Ok(());
        let mut paused_for = self.since.elapsed();
        if let Some(guard) = &mut self.guard {
            // A guard that acted has thawed already, and what is frozen now was frozen by somebody else. One
            // that was killed has not. One that lives is dismissed last: we may die on the way.
            let acted = guard.is_gone() && guard.dismiss();
            if !acted {
                result = self.freezer.request_thaw();
                paused_for = self.since.elapsed();
            }
        }
        self.guard = None;
        if let Some(record) = self.record.take() {
            // A group that is gone is no longer frozen; any other failure leaves the record to the next run.
            let is_settled = match &result {
                Ok(()) => true,
                Err(error) => error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()),
            };
            if is_settled {
                record.remove();
            }
        }
        result.map(|()| paused_for)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
