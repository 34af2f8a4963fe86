//! Progress of long work, on stderr.
//!
//! Nothing is shown in the first second. Then, on a terminal, the running stage has a line that stays
//! when the stage is over; elsewhere each stage has a line when it is over. JSON lines are for programs:
//! they come from the beginning, at most one a second within a stage.
//!
//! Telling costs an addition and a look at the clock: there is no thread that draws.

use std::io::{self, IsTerminal as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::human;
use crate::output;

/// What is short is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks of a terminal.
const REDRAW: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Mode {
    /// A moving line on a terminal, else plain.
    #[default]
    Auto,
    Plain,
    Json,
    None,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Progress {
    how: How,
    started: Instant,
    /// Bytes done in the stage.
    done: AtomicU64,
    /// Milliseconds from the start at which to look at the state again.
    next_look: AtomicU64,
    stage: Mutex<Option<Stage>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Bar,
    Plain,
    Json,
    Silent,
}

#[derive(Debug)]
struct Stage {
    name: &'static str,
    total: Option<u64>,
    started: Instant,
    bar: Option<ProgressBar>,
}

/// A line of `--progress json`.
#[derive(Debug, Serialize)]
struct Line {
    stage: &'static str,
    /// Whether the stage is over.
    done: bool,
    bytes: u64,
    total: Option<u64>,
    elapsed_ns: u64,
}

impl Progress {
    pub(crate) fn new(mode: Mode) -> Self {
        let how = match mode {
            Mode::Auto if io::stderr().is_terminal() => How::Bar,
            Mode::Auto | Mode::Plain => How::Plain,
            Mode::Json => How::Json,
            Mode::None => How::Silent,
        };
        let next_look = if how == How::Json { Duration::ZERO } else { PATIENCE };
        Self {
            how,
            started: Instant::now(),
            done: AtomicU64::new(0),
            next_look: AtomicU64::new(millis(next_look)),
            stage: Mutex::new(None),
        }
    }

    /// A stage begins, and the one before is over.
    pub(crate) fn stage(&self, name: &'static str, total: Option<u64>) {
        self.finish();
        self.done.store(0, Ordering::Relaxed);
        *self.lock() = Some(Stage { name, total, started: Instant::now(), bar: None });
    }

    /// Bytes done since it was last told.
    pub(crate) fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.how == How::Silent {
            return;
        }
        let now = millis(self.started.elapsed());
        let due = self.next_look.load(Ordering::Relaxed);
        let pause = if self.how == How::Json { PATIENCE } else { REDRAW };
        let next = now + millis(pause);
        // of several threads one shows it
        if now < due
            || self.next_look.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let mut stage = self.lock();
        let Some(stage) = stage.as_mut() else { return };
        match self.how {
            How::Bar => stage.show(done),
            How::Json => stage.tell_json(done, false),
            How::Plain | How::Silent => {}
        }
    }

    /// The last stage is over.
    pub(crate) fn finish(&self) {
        let Some(mut stage) = self.lock().take() else { return };
        let done = self.done.load(Ordering::Relaxed);
        match self.how {
            How::Json => stage.tell_json(done, true),
            How::Plain if self.started.elapsed() >= PATIENCE => output::tell(&stage.line(done)),
            // only a stage that has been seen leaves a line
            How::Bar => {
                if let Some(bar) = stage.bar.take() {
                    bar.finish_and_clear();
                    output::tell(&stage.line(done));
                }
            }
            How::Plain | How::Silent => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Stage>> {
        // whoever panicked while drawing left nothing that matters
        self.stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.lock().as_mut().and_then(|stage| stage.bar.take()) {
            bar.finish_and_clear();
        }
    }
}

impl Stage {
    fn show(&mut self, done: u64) {
        let figures = self.figures(done);
        let bar = self.bar.get_or_insert_with(|| {
            let template = match self.total {
                Some(_) => " {prefix:12} [{bar:20}] {percent:>3} %   {msg}",
                None => " {prefix:12} {msg}",
            };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr());
            bar.set_style(style.progress_chars("=> "));
            bar.with_prefix(self.name)
        });
        bar.set_message(figures);
        bar.set_position(done);
    }

    /// `0.8 of 1.3 GB   190 MB/s   3 s left`, as far as it is known.
    fn figures(&self, done: u64) -> String {
        let rate = self.rate(done);
        let Some(total) = self.total else {
            return format!("{}   {}/s", human::size(done), human::size(rate));
        };
        let of = format!("{} of {}   {}/s", human::size(done), human::size(total), human::size(rate));
        match total.saturating_sub(done).checked_div(rate) {
            Some(seconds) => format!("{of}   {} left", human::duration(Duration::from_secs(seconds.max(1)))),
            None => of,
        }
    }

    /// Bytes in a second, over the whole stage: what it did while nobody looked counts, too.
    fn rate(&self, done: u64) -> u64 {
        let seconds = self.started.elapsed().as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate for people; `as` saturates"
        )]
        let rate = (done as f64 / seconds.max(1e-9)) as u64;
        rate
    }

    /// ` pack         1.3 GB   212 MB/s   6.1 s`
    fn line(&self, done: u64) -> String {
        let duration = human::duration(self.started.elapsed());
        match done {
            0 => format!(" {:12} {duration}", self.name),
            _ => {
                let rate = human::size(self.rate(done));
                format!(" {:12} {}   {rate}/s   {duration}", self.name, human::size(done))
            }
        }
    }

    fn tell_json(&self, bytes: u64, done: bool) {
        let elapsed_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let line = Line { stage: self.name, done, bytes, total: self.total, elapsed_ns };
        if let Ok(line) = serde_json::to_string(&line) {
            output::tell(&line);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_work_shows_nothing() {
        let progress = Progress::new(Mode::Plain);
        progress.stage("pack", Some(10));
        progress.advance(10);
        assert!(progress.lock().as_ref().is_some_and(|stage| stage.bar.is_none()));
        assert_eq!(progress.done.load(Ordering::Relaxed), 10);
        progress.finish();
        assert!(progress.lock().is_none());
    }

    #[test]
    fn a_line_has_what_was_done() {
        let started = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let stage = Stage { name: "pack", total: None, started, bar: None };
        let line = stage.line(400_000_000);
        assert!(line.starts_with(" pack         400 MB   "), "{line}");
        assert!(line.ends_with("   2 s"), "{line}");
        let stage = Stage { total: Some(800_000_000), ..stage };
        let figures = stage.figures(400_000_000);
        assert!(figures.starts_with("400 MB of 800 MB   "), "{figures}");
        assert!(figures.ends_with(" s left"), "{figures}");
        assert!(!stage.figures(0).contains("left"), "nothing is known of the rate");
    }
}
