//! Help screens and the reference that is made from them.

#![expect(
    clippy::unwrap_used,
    reason = "clippy lets only functions with #[test] unwrap, not what they share"
)]

mod common;

use std::path::Path;

use common::Headstart;

/// Commands whose help is a screen; `internal` is for nobody's eyes.
const COMMANDS: [&[&str]; 18] = [
    &["commit"],
    &["diff"],
    &["images"],
    &["history"],
    &["inspect"],
    &["tag"],
    &["rmi"],
    &["save"],
    &["load"],
    &["import"],
    &["export"],
    &["unpack"],
    &["system"],
    &["system", "df"],
    &["system", "prune"],
    &["completions"],
    &["help"],
    &["version"],
];

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let made = Headstart::new().answer(&["internal", "cli-reference"]);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == made, "docs/cli.md is not current: UPDATE=1 cargo test -p cli --test reference");
}

#[test]
fn each_help_is_a_screen_with_three_examples() {
    let program = Headstart::new();
    for command in COMMANDS {
        let help = program.answer(&[command, &["--help"]].concat());
        let lines: Vec<&str> = help.lines().collect();
        assert!(lines.len() <= 40, "{command:?} has {} lines", lines.len());
        assert!(lines.iter().all(|line| line.chars().count() <= 100), "{command:?} is too wide");
        assert!(!lines[0].ends_with('.') && !lines[0].is_empty(), "{command:?}: {}", lines[0]);
        let examples = lines.iter().skip_while(|line| **line != "Examples:").skip(1);
        let examples = examples.filter(|line| line.starts_with("  ") && line.contains("headstart"));
        assert_eq!(examples.count(), 3, "{command:?}");
    }
}

#[test]
fn every_command_has_a_screen_and_a_manual() {
    let program = Headstart::new();
    let listed = program.answer(&["help"]);
    for command in COMMANDS.iter().filter(|command| command.len() == 1) {
        assert!(listed.contains(&format!("\n  {} ", command[0])), "{command:?}");
    }
    let manual = program.answer(&["help", "commit"]).split_whitespace().collect::<Vec<_>>().join(" ");
    for flag in ["--uidmap", "--not-gvisor", "--iidfile", "--verify", "--root", "they hold secrets"] {
        assert!(manual.contains(flag), "{flag}");
    }
    for topic in ["layers", "pause", "tiers"] {
        let text = program.answer(&["help", topic]);
        assert!(text.lines().count() <= 40 && text.lines().all(|line| line.len() <= 90), "{topic}");
    }
    let unknown = program.run(&["help", "nonsense"]);
    assert_eq!(
        (unknown.code, unknown.stderr.lines().next()),
        (3, Some("error: nonsense: no such command or topic"))
    );
}

#[test]
fn shells_complete_commands_and_names() {
    let program = Headstart::new();
    program.import("team/api:wip");
    let script = program.answer(&["completions", "bash"]);
    assert!(script.contains("HEADSTART_COMPLETE"), "{script}");
    let complete = |words: &[&str]| {
        let mut command = program.command(&[&["--", "headstart"], words].concat());
        command.env("HEADSTART_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_IFS", "\n");
        common::run(&mut command).stdout
    };
    assert_eq!(complete(&["rmi", "te"]), "team/api:wip");
    assert_eq!(complete(&["hist"]), "history");
    let elsewhere = program.path("elsewhere");
    assert_eq!(complete(&["--root", elsewhere.to_str().unwrap(), "rmi", "te"]), "");
}
