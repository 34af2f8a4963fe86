//! How the program ends: exit status, errors, signals, pipes.

#![expect(
    clippy::unwrap_used,
    reason = "clippy lets only functions with #[test] unwrap, not what they share"
)]

mod common;

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Headstart, run};

fn failure(words: &[&str]) -> (i32, String) {
    let ran = Headstart::new().run(words);
    assert_eq!(ran.stdout, "", "{words:?}");
    (ran.code, ran.stderr)
}

#[test]
fn errors_name_the_object_the_cause_and_the_next_step() {
    for (words, code, stderr) in [
        (
            &["inspect", "team/api:wip"][..],
            3,
            "error: image team/api:wip: not in the store\n  try: headstart images\n",
        ),
        (
            &["tag", "a", "team/Api"],
            2,
            "error: \"team/Api\" is not an image name\n  the repository must be lower case\n  try: team/api\n",
        ),
        (
            &["comit"],
            2,
            "error: unrecognized subcommand 'comit'\n  some similar subcommands exist: 'completions', 'commit'\n  \
             try: headstart --help\n",
        ),
        (
            &["system", "df", "--al"],
            2,
            "error: unexpected argument '--al' found\n  try: headstart system df --help\n",
        ),
        (
            &["commit", "team/api"],
            2,
            "error: the following required arguments were not provided: \
             <--pid <PID>|--overlay <MOUNTPOINT>|--upper <DIR>|--tree <DIR>>\n  try: headstart commit --help\n",
        ),
        (
            &["commit", "--upper", "u", "--lower", "l", "--format", "docker", "--compression", "zstd"],
            2,
            "error: docker's image format cannot hold zstd layers\n  try: --compression gzip\n",
        ),
        (
            &["commit", "--upper", "u", "--lower", "l", "-c", "RUN x", "a"],
            2,
            "error: --change \"RUN x\"\n  RUN needs a build; only CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD \
             STOPSIGNAL USER VOLUME WORKDIR can change an image\n",
        ),
        (&["load", "-i", "nope.tar"], 3, "error: nope.tar: No such file or directory\n"),
        (&["unpack", "./nope.tar", "x"], 3, "error: ./nope.tar: No such file or directory\n"),
    ] {
        assert_eq!(failure(words), (code, stderr.to_owned()), "{words:?}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    for words in [
        &["commit", "--pid", "1", "--tree", "x", "--against", "y"][..],
        &["commit", "--upper", "u"],
        &["commit", "--tree", "t"],
        &["commit", "--pid", "0"],
        &["commit", "--pid", "7", "--squash", "--cumulative"],
        &["commit", "--pid", "7", "--compression", "gzip:10"],
        &["commit", "--pid", "7", "a@sha256:12"],
        &["diff"],
        &["save"],
        &["save", "--json", "a"],
        &["unpack", "--userxattr", "a", "b"],
        &["--progress", "dots", "images"],
    ] {
        assert_eq!(failure(words).0, 2, "{words:?}");
    }
}

#[test]
fn a_time_that_is_none_is_refused() {
    let program = Headstart::new();
    let ran = run(program.command(&["import", "-", "a"]).env("SOURCE_DATE_EPOCH", "yesterday"));
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            2,
            "error: SOURCE_DATE_EPOCH: \"yesterday\" is not a number of seconds since 1970\n  \
             try: unset SOURCE_DATE_EPOCH\n"
        )
    );
}

#[test]
fn the_chain_of_causes_is_printed_on_demand() {
    let program = Headstart::new();
    std::fs::create_dir_all(program.path("root/images")).unwrap();
    std::fs::write(program.path("root/images/index.json"), "[").unwrap();
    std::fs::write(program.path("root/images/oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    let plain = program.run(&["images"]);
    assert_eq!(plain.code, 6, "{}", plain.stderr);
    assert!(plain.stderr.lines().count() <= 3, "{}", plain.stderr);
    let verbose = program.run(&["-v", "images"]);
    assert!(verbose.stderr.starts_with(&plain.stderr), "{}", verbose.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let program = Headstart::new();
    program.import("a");
    for words in
        [&["inspect", "a"][..], &["images"], &["save", "a"], &["--help"], &["internal", "cli-reference"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = program.command(words).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{words:?}");
        let mut stderr = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
        assert_eq!(stderr, "", "{words:?}");
    }
}

/// Waits until the process handles SIGINT.
fn until_it_listens(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        // SIGINT is 2, SIGTERM 15
        if u64::from_str_radix(caught, 16).unwrap() & 0x4002 == 0x4002 {
            return;
        }
        assert!(Instant::now() < deadline, "it never listened");
        std::thread::yield_now();
    }
}

#[test]
fn interrupted_it_says_what_was_undone() {
    use std::io::Write as _;
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let program = Headstart::new();
        let mut child = program
            .command(&["import", "-", "a"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        until_it_listens(child.id());
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        // it reads on, and notices
        let _ = stdin.write_all(&common::root_tar("x"));
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert_eq!(stderr, "error: interrupted\n  nothing was stored\n");
        assert_eq!(program.json(&["images", "-o", "json"]), serde_json::json!([]));
    }
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let program = Headstart::new();
    let mut child = program.command(&["import", "-", "a"]).stdin(Stdio::piped()).spawn().unwrap();
    // its standard input stays open and empty: it would wait for ever
    let _stdin = child.stdin.take().unwrap();
    until_it_listens(child.id());
    let pid = rustix::process::Pid::from_child(&child);
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        // two at once would be one
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        assert!(Instant::now() < deadline, "it did not end");
        std::thread::yield_now();
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn whoever_is_not_root_is_told_so() {
    let program = Headstart::new();
    if !common::is_root() {
        assert_eq!(program.run(&["commit", "--pid", "1"]).code, 5);
        return;
    }
    // where this was built another user may not look
    let copy = program.path("headstart");
    std::fs::copy(env!("CARGO_BIN_EXE_headstart"), &copy).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(copy.parent().unwrap(), open).unwrap();
    let nobody = |words: &[&str]| {
        run(std::process::Command::new(&copy)
            .args(words)
            .env_clear()
            .env("HOME", program.path("home"))
            .current_dir("/")
            .uid(65534)
            .gid(65534))
    };
    let ran = nobody(&["commit", "--pid", "1", "a"]);
    assert_eq!(ran.code, 5);
    assert_eq!(
        ran.stderr,
        "error: process 1: only root can read the upper of a container\n  \
         for a container of rootless podman, `podman unshare` makes you root enough\n  \
         try: sudo headstart commit --pid 1\n"
    );
    let ran = nobody(&["export", "a"]);
    assert_eq!(ran.code, 5);
    // the store of this user
    assert_eq!(nobody(&["images", "-q"]).code, 0);
    let denied = nobody(&["--root", program.path("root").to_str().unwrap(), "images"]);
    assert_eq!(denied.code, 0, "nothing is there yet: {}", denied.stderr);
    program.import("a");
    let denied = nobody(&["--root", program.path("root").to_str().unwrap(), "images"]);
    assert_eq!(denied.code, 5);
    assert!(denied.stderr.contains("Permission denied"), "{}", denied.stderr);
}

#[test]
fn quiet_leaves_the_answer_alone() {
    let program = Headstart::new();
    program.import("a");
    let ran = program.run(&["-q", "unpack", "--no-same-owner", "a", "rootfs"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "", ""));
}

#[test]
fn progress_as_json_is_a_line_for_each_stage() {
    let program = Headstart::new();
    program.import("a");
    let ran = program.run(&["--progress", "json", "save", "-o", "a.tar", "a"]);
    let lines: Vec<serde_json::Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["stage"], &last["done"]), (&"save".into(), &true.into()));
    assert_eq!(last["bytes"], std::fs::metadata(program.path("a.tar")).unwrap().len());
    assert!(program.run(&["--progress", "plain", "save", "-o", "b.tar", "a"]).stderr.is_empty());
}
