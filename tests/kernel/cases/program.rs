//! The built `headstart` itself.

use anyhow::{Result, ensure};
use harness::{Headstart, Scratch, run};

use crate::Case;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("program::is_static", &[], is_static)]
}

/// One file that runs on any host: no interpreter, no needed library.
fn is_static() -> Result<()> {
    let scratch = Scratch::new("static")?;
    let program = Headstart::program()?;
    let headers = run("readelf", ["--program-headers".as_ref(), "--dynamic".as_ref(), program.as_os_str()])?;
    let headers = headers.stdout_text();
    for needed in ["INTERP", "(NEEDED)"] {
        ensure!(!headers.contains(needed), "{} has {needed}:\n{headers}", program.display());
    }
    drop(scratch);
    Ok(())
}
