//! `headstart commit` as a contender.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bench::measure::{Sample, Stopwatch};
use harness::{Headstart, Scratch};
use serde_json::Value;

/// A store of ours, and what is needed to save into it again and again.
pub(crate) struct Ours<'a> {
    pub(crate) headstart: Headstart,
    stopwatch: &'a Stopwatch<'a>,
    answer: PathBuf,
}

/// A save, as it reports itself.
pub(crate) struct Saved {
    pub(crate) sample: Sample,
    pub(crate) pause_ms: Option<f64>,
    pub(crate) sealed_ms: Option<f64>,
    pub(crate) warnings: Vec<String>,
}

const NAME: &str = "bench/saved:now";

impl<'a> Ours<'a> {
    /// With an empty store inside `scratch`.
    pub(crate) fn new(scratch: &Scratch, stopwatch: &'a Stopwatch<'a>) -> Result<Self> {
        Ok(Self { headstart: Headstart::new(scratch)?, stopwatch, answer: scratch.join("answer.json") })
    }

    /// Forgets every earlier save: the next one is a first one.
    pub(crate) fn forget(&self) -> Result<()> {
        // nothing is there before the first save
        let _ = self.headstart.run(["rmi", "--force", NAME])?;
        for cache in ["chains", "layers"] {
            match fs::remove_dir_all(self.headstart.root().join("state").join(cache)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context("remove the caches of earlier saves");
                }
                _ => {}
            }
        }
        if self.headstart.root().join("images").is_dir() {
            self.prune()?;
        }
        Ok(())
    }

    /// Removes what earlier saves left that the newest image does not need.
    pub(crate) fn prune(&self) -> Result<()> {
        self.headstart.ok(["system", "prune", "--all", "--force"]).map(drop)
    }

    /// Saves once: `source` is the words that name the change, and more options.
    pub(crate) fn save(&self, source: &[OsString]) -> Result<Saved> {
        rustix::fs::sync();
        let mut command = self.headstart.command();
        command.arg("commit").args(source).args(["-o", "json", NAME]);
        command.stdout(File::create(&self.answer).context("create the answer")?);
        let mut sample = self.stopwatch.time(&mut command)?;
        let answer = fs::read(&self.answer).context("read the answer")?;
        let answer: Value = serde_json::from_slice(&answer).context("the answer is no JSON")?;
        let layers = answer["layers"].as_array().map_or(&[][..], Vec::as_slice);
        let new = layers.iter().filter(|layer| layer["new"] == true);
        sample.output = Some(new.filter_map(|layer| layer["size"].as_u64()).sum());
        let moment = |name: &str| answer["moments"][name].as_f64().map(|nanos| nanos / 1e6);
        let warnings = answer["warnings"].as_array().into_iter().flatten();
        Ok(Saved {
            sample,
            pause_ms: moment("pause_ns"),
            sealed_ms: moment("sealed_ns"),
            warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// A first save, forgotten again: everybody's output is removed after a run, so that all find the same
    /// free memory for theirs.
    pub(crate) fn alone(&self, source: &[OsString]) -> Result<Sample> {
        let saved = self.first(source)?;
        self.forget()?;
        Ok(saved)
    }

    /// A first save.
    pub(crate) fn first(&self, source: &[OsString]) -> Result<Sample> {
        self.forget()?;
        Ok(self.save(source)?.sample)
    }
}

/// The words for an overlay mount over the image `base`.
pub(crate) fn overlay(target: &Path, base: Option<&str>, more: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--overlay".into(), target.into()];
    if let Some(base) = base {
        words.extend(["--base".into(), base.into()]);
    }
    words.extend(more.iter().map(Into::into));
    words
}
