//! Timing whole commands, several contenders in turn.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::Scratch;
use serde::Serialize;
use wait4::Wait4 as _;

/// One run of a contender.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Sample {
    /// From before the first process starts until the last has ended.
    pub wall_ms: f64,
    /// User and system time of all processes that were waited for, and of the daemon that worked for them.
    pub cpu_s: f64,
    /// The largest resident set of any of the processes, in bytes.
    pub max_rss: u64,
    /// Bytes of what was made, where the contender can say.
    pub output: Option<u64>,
}

/// Runs commands, and stops when the user wants that.
#[derive(Debug)]
pub struct Stopwatch<'a> {
    cancel: &'a AtomicBool,
    log: std::path::PathBuf,
}

impl<'a> Stopwatch<'a> {
    /// What commands say on standard error is kept inside `scratch`, for the message of a failure.
    pub fn new(scratch: &Scratch, cancel: &'a AtomicBool) -> Self {
        Self { cancel, log: scratch.join("stderr") }
    }

    /// Fails when the user has interrupted.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.cancel.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Runs `command` to its successful end, with its standard output as the caller has set it.
    pub fn time(&self, command: &mut Command) -> Result<Sample> {
        self.check()?;
        let log = fs::File::create(&self.log).context("create the log of commands")?;
        command.stdin(Stdio::null()).stderr(log);
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let ended = child.wait4().with_context(|| format!("wait for {command:?}"))?;
        let wall = start.elapsed();
        if !ended.status.success() {
            self.check()?;
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let how = ended.status.signal().map_or_else(String::new, |signal| format!(" (signal {signal})"));
            bail!("{command:?} ended with {}{how}: {}", ended.status, said.trim_end());
        }
        Ok(Sample {
            wall_ms: wall.as_secs_f64() * 1e3,
            cpu_s: (ended.rusage.utime + ended.rusage.stime).as_secs_f64(),
            max_rss: ended.rusage.maxrss,
            output: None,
        })
    }
}

/// Processor time that a daemon and the children it has waited for have used so far.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("stat of {pid}"))?;
    // the name of the program may hold anything; after the last ')' there are only numbers
    let numbers = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = numbers.split_whitespace().skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / per_second.max(1)))
}

/// Somebody who does the job of a case: prepares, untimed, and runs once.
pub struct Contender<'a> {
    /// Who, and how.
    pub name: String,
    /// Runs dropped before those that count.
    pub warmups: usize,
    /// No more runs than this, however many rounds there are.
    pub most: usize,
    /// Prepares what must be prepared and runs once.
    pub run: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

impl std::fmt::Debug for Contender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contender").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> Contender<'a> {
    /// With `warmups` runs that are dropped.
    pub fn new(
        name: impl Into<String>,
        warmups: usize,
        run: impl FnMut() -> Result<Sample> + 'a,
    ) -> Contender<'a> {
        Contender { name: name.into(), warmups, most: usize::MAX, run: Box::new(run) }
    }

    /// Runs at most so often: for those who take minutes.
    #[must_use]
    pub fn at_most(mut self, runs: usize) -> Contender<'a> {
        self.most = runs;
        self
    }
}

/// All counted samples of one contender.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// Who, and how.
    pub name: String,
    /// In the order of the runs.
    pub samples: Vec<Sample>,
}

impl Series {
    /// The middle wall time in milliseconds.
    #[must_use]
    pub fn median_ms(&self) -> f64 {
        self.quantile_ms(0.5)
    }

    /// A quantile of the wall time in milliseconds, by the nearest rank above.
    #[must_use]
    pub fn quantile_ms(&self, part: f64) -> f64 {
        quantile(self.samples.iter().map(|sample| sample.wall_ms).collect(), part)
    }

    /// The middle CPU time in seconds.
    #[must_use]
    pub fn median_cpu(&self) -> f64 {
        quantile(self.samples.iter().map(|sample| sample.cpu_s).collect(), 0.5)
    }

    /// Bytes that the last run made.
    #[must_use]
    pub fn output(&self) -> Option<u64> {
        self.samples.last().and_then(|sample| sample.output)
    }
}

/// A quantile by the nearest rank; of an even number the median is the mean of the middle two.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks of a list, which are small and not negative"
)]
pub fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let len = values.len();
    if len == 0 {
        return f64::NAN;
    }
    if (part - 0.5).abs() < f64::EPSILON && len.is_multiple_of(2) {
        return f64::midpoint(values[len / 2 - 1], values[len / 2]);
    }
    let rank = (part * len as f64).ceil() as usize;
    values[rank.clamp(1, len) - 1]
}

/// Lets all contenders run in turn: warm-ups first, then `rounds` times each. `before` is done before each run.
pub fn interleave(
    contenders: &mut [Contender<'_>],
    rounds: usize,
    before: &dyn Fn() -> Result<()>,
    tell: &dyn Fn(&str),
) -> Result<Vec<Series>> {
    let mut all: Vec<Series> =
        contenders.iter().map(|one| Series { name: one.name.clone(), samples: Vec::new() }).collect();
    for contender in contenders.iter_mut() {
        for _ in 0..contender.warmups {
            before()?;
            let sample = (contender.run)().with_context(|| contender.name.clone())?;
            tell(&format!("{}: {:.1} ms (warm-up)", contender.name, sample.wall_ms));
        }
    }
    for round in 0..rounds {
        for (contender, series) in contenders.iter_mut().zip(&mut all) {
            if round >= contender.most {
                continue;
            }
            before()?;
            let sample = (contender.run)().with_context(|| contender.name.clone())?;
            tell(&format!("{}: {:.1} ms, {:.2} CPU s", contender.name, sample.wall_ms, sample.cpu_s));
            series.samples.push(sample);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_ranks() {
        let values: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        assert!((quantile(values.clone(), 0.99) - 30.0).abs() < 1e-9);
        assert!((quantile(values.clone(), 0.5) - 15.5).abs() < 1e-9);
        assert!((quantile(values[..3].to_vec(), 0.5) - 29.0).abs() < 1e-9);
        assert!(quantile(Vec::new(), 0.5).is_nan());
    }
}
