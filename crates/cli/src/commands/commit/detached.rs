//! `--wait sealed`: the command returns when the content is fixed; packing and publishing go on without it.
//!
//! The save itself is done by a second process, this program with the same arguments. It tells through its
//! standard output, a pipe, when the content is fixed, and leaves the session then: closing the terminal or
//! Ctrl-C no longer reach it. What goes wrong afterwards is in its log, which a good end removes.
//!
//! ```text
//! headstart ──spawn──► headstart (HEADSTART_SEALED_LOG) ── sealed ──┐ pack, publish, remove the log
//!     └── waits ◄──────────────── one line ────────────────────────┘
//! ```
//! A process that ends before the line has failed: its log is shown and its exit status is ours.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use save::request::Moments;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::human;
use crate::output;

/// What the second process tells.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sealed {
    pause_ns: Option<u64>,
    sealed_ns: u64,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What is printed when the content is fixed.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    image: Option<&'a str>,
    moments: AnswerMoments,
    /// The process that goes on.
    process: u32,
    log: String,
}

#[derive(Debug, Serialize)]
struct AnswerMoments {
    pause_ns: Option<u64>,
    sealed_ns: u64,
    durable_ns: Option<u64>,
    published_ns: Option<u64>,
}

/// Whether this is the second process.
pub(super) fn is_second() -> bool {
    environment::SEALED_LOG.get().is_some()
}

/// Starts the second process and waits until it tells that the content is fixed.
pub(super) fn first(name: Option<&str>, json: bool, context: &Context) -> Result<Exit, Failure> {
    let dir = context.run_dir().join("saves");
    let failed = |path: &std::path::Path| {
        let path = path.display().to_string();
        move |error: io::Error| Failure::io(path, &error)
    };
    std::fs::create_dir_all(&dir).map_err(failed(&dir))?;
    let path = dir.join(format!("{}.log", std::process::id()));
    let log = File::create(&path).map_err(failed(&path))?;
    let program = std::path::Path::new("/proc/self/exe");
    let mut second = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(environment::SEALED_LOG.name, &path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed(program))?;
    let mut line = String::new();
    if let Some(pipe) = second.stdout.take() {
        BufReader::new(pipe).read_line(&mut line).map_err(failed(&path))?;
    }
    let Ok(sealed) = serde_json::from_str::<Sealed>(&line) else {
        let status = second.wait().map_err(failed(program))?;
        output::tell(std::fs::read_to_string(&path).unwrap_or_default().trim_end());
        let _ = std::fs::remove_file(&path);
        return Ok(Exit::from_code(status.code()));
    };
    let moments = AnswerMoments {
        pause_ns: sealed.pause_ns,
        sealed_ns: sealed.sealed_ns,
        durable_ns: None,
        published_ns: None,
    };
    if json {
        let log = path.display().to_string();
        output::json(&Answer { image: name, moments, process: second.id(), log })?;
    } else if !context.quiet {
        let pause = human::maybe_duration(sealed.pause_ns.map(Duration::from_nanos));
        let sealed = human::maybe_duration(Some(Duration::from_nanos(sealed.sealed_ns)));
        output::tell(&format!(
            "Sealed; process {} goes on, and writes to {} what goes wrong\n  \
             pause {pause} · sealed {sealed} · durable – · published –",
            second.id(),
            path.display(),
        ));
    }
    Ok(Exit::Done)
}

/// The second process: the content is fixed.
pub(crate) fn tell(moments: &Moments) {
    if !is_second() {
        return;
    }
    let sealed = Sealed {
        pause_ns: moments.pause.map(nanoseconds),
        sealed_ns: nanoseconds(moments.sealed.unwrap_or_default()),
    };
    // whoever waited may be gone; the save goes on all the same
    let mut out = io::stdout().lock();
    let _ = serde_json::to_writer(&mut out, &sealed).map_err(io::Error::from);
    let _ = out.write_all(b"\n").and_then(|()| out.flush());
    let _ = rustix::process::setsid();
}

/// The second process has ended well.
pub(super) fn done() {
    if let Some(log) = environment::SEALED_LOG.get() {
        let _ = std::fs::remove_file(PathBuf::from(log));
    }
}
