//! Tests that need a kernel, root or a foreign tool.
//!
//! Each names the capabilities that it needs; where one is missing it is listed as *ignored* with the
//! reason, and `REQUIRE=overlay,crun,…` turns that into a failure. After the last test the suite
//! looks for what was left behind (mounts, loop devices, cgroups, directories, children) and fails if
//! there is anything.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to whoever started it")]

#[path = "cases/choice.rs"]
mod choice;
#[path = "cases/container.rs"]
mod container;
#[path = "cases/foreign.rs"]
mod foreign;
#[path = "cases/guards.rs"]
mod guards;
#[path = "cases/harm.rs"]
mod harm;
#[path = "cases/hostile.rs"]
mod hostile;
#[path = "cases/killed.rs"]
mod killed;
#[path = "cases/memory.rs"]
mod memory;
#[path = "cases/moving.rs"]
mod moving;
#[path = "cases/program.rs"]
mod program;
#[path = "cases/runtimes.rs"]
mod runtimes;
#[path = "cases/together.rs"]
mod together;
#[path = "cases/tree.rs"]
mod tree;
#[path = "cases/words.rs"]
mod words;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use harness::Capability;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// One test: its name, what it needs, what it does.
struct Case {
    name: &'static str,
    needs: &'static [Capability],
    run: fn() -> Result<()>,
}

impl Case {
    const fn new(name: &'static str, needs: &'static [Capability], run: fn() -> Result<()>) -> Self {
        Self { name, needs, run }
    }

    fn into_trial(self) -> Trial {
        let Self { name, needs, run } = self;
        Trial::ignorable_test(name, move || -> Result<Completion, Failed> {
            let failed = |error: anyhow::Error| Failed::from(format!("{error:#}"));
            match harness::why_not(name, needs).map_err(failed)? {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => run().map(|()| Completion::Completed).map_err(failed),
            }
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = [
        vec![Case::new("capabilities", &[], capabilities)],
        guards::cases(),
        tree::cases(),
        container::cases(),
        foreign::cases(),
        program::cases(),
        runtimes::cases(),
        harm::cases(),
        hostile::cases(),
        killed::cases(),
        memory::cases(),
        together::cases(),
        choice::cases(),
        moving::cases(),
    ];
    let trials = cases.into_iter().flatten().map(Case::into_trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let debris = if arguments.list { Ok(Vec::new()) } else { harness::debris::find_settled() };
    match debris {
        Ok(left) if left.is_empty() => conclusion.exit_code(),
        Ok(left) => {
            eprintln!("error: the tests left behind:\n  {}", left.join("\n  "));
            ExitCode::from(101)
        }
        Err(error) => {
            eprintln!("error: cannot tell what the tests left behind: {error:#}");
            ExitCode::from(101)
        }
    }
}

/// Always runs: tells what this machine can do, and that every demand of `REQUIRE` is met.
fn capabilities() -> Result<()> {
    println!("\nThis machine:\n{}", harness::capability_table());
    let unmet = Capability::ALL.iter().filter(|one| one.is_required() && one.missing().is_some());
    let unmet: Vec<_> = unmet.map(|one| one.word()).collect();
    ensure!(unmet.is_empty(), "REQUIRE demands what is missing: {}", unmet.join(", "));
    Ok(())
}
