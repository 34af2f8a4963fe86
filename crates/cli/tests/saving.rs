//! `commit` and `diff`, from the command line, of two trees: what needs no rights and no mounts.

#![expect(
    clippy::unwrap_used,
    reason = "clippy lets only functions with #[test] unwrap, not what they share"
)]

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use common::{Headstart, Ran, redact};

/// A base in the store, unpacked as `low`, and a changed copy of it as `tree`.
fn changed() -> Headstart {
    let program = Headstart::new();
    program.import("base");
    for target in ["low", "tree"] {
        program.answer(&["-q", "unpack", "base", target]);
    }
    fs::write(program.path("tree/etc/hosts"), "longer than before").unwrap();
    fs::remove_file(program.path("tree/etc/link")).unwrap();
    fs::create_dir(program.path("tree/new")).unwrap();
    fs::write(program.path("tree/new").join(std::ffi::OsStr::from_bytes(b"\xff\x1b")), "x").unwrap();
    program
}

const SOURCE: [&str; 6] = ["--tree", "tree", "--against", "low", "--base", "base"];

fn save(program: &Headstart, more: &[&str]) -> Ran {
    program.run(&[&["commit"], &SOURCE[..], more].concat())
}

/// The summary without what the clock says.
fn timeless(stderr: &str) -> String {
    let lines = stderr.lines().map(|line| if line.starts_with("  pause") { "  pause …" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_difference_has_dockers_letters() {
    let program = changed();
    let diff = |more: &[&str]| program.answer(&[&["diff"], &SOURCE[..], more].concat());
    insta::assert_snapshot!(diff(&["--size"]), @r"
    C /etc/hosts                                          18 B
    C /etc/hosts2
    D /etc/link
    A /new
    A /new/\xff\x1b                                        1 B
    ");
    assert_eq!(diff(&["--only", "/etc/link"]), "D /etc/link\n");
    assert_eq!(diff(&["--exclude", "/etc/**", "--exclude", "/new*"]), "");
    let json: Vec<serde_json::Value> =
        diff(&["-o", "json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let path = json.iter().find(|line| line["path"] == "/new/\\xff\\x1b").unwrap();
    assert_eq!(
        (&path["kind"], &path["path_base64"], &path["size"]),
        (&"A".into(), &"L25ldy//Gw==".into(), &1.into())
    );
}

#[test]
fn the_answer_is_the_id_and_the_rest_is_told() {
    let program = changed();
    let words =
        ["-m", "before the rebase", "-c", "ENV A=1", "--iidfile", "iid", "--compression", "none", "a/b:wip"];
    let ran = save(&program, &words);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(redact(&ran.stdout), "sha256:<digest>\n");
    assert_eq!(fs::read_to_string(program.path("iid")).unwrap(), ran.stdout.trim());
    insta::assert_snapshot!(timeless(&ran.stderr), @r"
    Saved 4 changed files (19 B) and 1 deletion as a new layer of 6.1 KB
      pause …
      warning: two trees are compared file by file: this is the slow path
    ");

    let image = &program.json(&["inspect", "a/b:wip"])[0];
    assert_eq!(image["Id"], ran.stdout.trim());
    assert_eq!(image["Comment"], "before the rebase");
    assert_eq!(image["Created"], "2001-09-09T01:46:40Z");
    assert_eq!(image["Config"]["Env"][0], "A=1");
    assert_eq!(image["Layers"].as_array().unwrap().len(), 2);

    program.answer(&["-q", "unpack", "a/b:wip", "out"]);
    assert_eq!(fs::read_to_string(program.path("out/etc/hosts")).unwrap(), "longer than before");
    assert!(!common::exists(&program.path("out/etc/link")));
    assert_eq!(fs::read_dir(program.path("out/new")).unwrap().count(), 1);
}

#[test]
fn a_quiet_save_and_one_for_programs_tell_nothing_aside() {
    let program = changed();
    let quiet = save(&program, &["-q"]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    let json = save(&program, &["-o", "json", "a"]);
    assert_eq!((json.code, json.stderr.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["image"], "a:latest");
    assert_eq!(json["layers"].as_array().unwrap().len(), 2);
    assert!(json["moments"]["durable_ns"].as_u64() >= json["moments"]["sealed_ns"].as_u64());
    assert!(
        json["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()),
        "it took the slow path"
    );
}

#[test]
fn what_no_image_can_hold_is_named_and_gives_seven() {
    let program = changed();
    fs::write(program.path("tree/new/.wh.x"), "").unwrap();
    let ran = save(&program, &["a"]);
    assert_eq!(ran.code, 7);
    assert!(
        ran.stderr.contains("  not saved: 1 name that no image can hold (/new/.wh.x)\n"),
        "{}",
        ran.stderr
    );
    let strict = save(&program, &["--strict", "b"]);
    assert_eq!(strict.code, 1, "{}", strict.stderr);
    assert!(strict.stderr.starts_with("error: ") && strict.stderr.contains(".wh.x"), "{}", strict.stderr);
    assert_eq!(program.run(&["inspect", "b"]).code, 3, "a strict save makes no such image");
}

#[test]
fn a_dry_run_writes_nothing() {
    let program = changed();
    let before = program.answer(&["system", "df", "-o", "json"]);
    let ran = save(&program, &["--dry-run", "a"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("Would save "), "{}", ran.stderr);
    assert_eq!(program.answer(&["system", "df", "-o", "json"]), before);
    assert_eq!(program.run(&["inspect", "a"]).code, 3);
}

#[test]
fn docker_format_is_gzip() {
    let program = changed();
    assert_eq!(save(&program, &["--format", "docker", "a"]).code, 0);
    let image = &program.json(&["inspect", "a"])[0];
    assert_eq!(image["MediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(image["Layers"][1]["MediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
}

#[test]
fn sources_that_are_not_there_or_are_none() {
    let program = changed();
    for (words, code) in [
        (&["commit", "--tree", "nope", "--against", "low"][..], 3),
        (&["commit", "--tree", "tree", "--against", "tree"], 2),
        (&["commit", "--overlay", "low"], 3),
        (&["commit", "--tree", "tree", "--against", "low", "--base", "nope"], 3),
        (&["commit", "--tree", "tree", "--against", "low", "--exclude", "["], 2),
        (&["commit", "--tree", "tree", "--against", "low", "--with-env"], 2),
        (&["diff", "--tree", "tree", "--against", "nope"], 3),
    ] {
        let ran = program.run(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{words:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.lines().count() <= 3, "{}", ran.stderr);
    }
    if common::is_root() {
        let own = program.run(&["commit", "--pid", &std::process::id().to_string()]);
        assert_eq!(own.code, 5, "{}", own.stderr);
        assert_eq!(program.run(&["commit", "--pid", "2147483647"]).code, 3);
    }
}

/// The answer comes when the content is fixed; the image is there soon after, made by another process.
#[test]
fn waiting_for_less_leaves_the_rest_to_another_process() {
    let program = changed();
    let ran = save(&program, &["--wait", "sealed", "a/b:later", "-o", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(answer["moments"]["sealed_ns"].as_u64().unwrap() > 0);
    assert!(answer["moments"]["durable_ns"].is_null());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while program.run(&["inspect", "a/b:later"]).code != 0 {
        assert!(std::time::Instant::now() < deadline, "the image never came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let log = answer["log"].as_str().unwrap();
    while fs::exists(log).unwrap() {
        assert!(std::time::Instant::now() < deadline, "the log stayed: {}", fs::read_to_string(log).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// What fails before the content is fixed fails the command that waits.
#[test]
fn a_failure_before_the_seal_is_the_commands_own() {
    let program = changed();
    let ran = program.run(&["commit", "--wait", "sealed", "--pid", "999999999", "a/b:never"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("999999999"), "{}", ran.stderr);
}

/// Each of docker's instructions that can change an image, and where `inspect` shows it.
#[test]
fn all_of_dockers_instructions_change_the_image() {
    use serde_json::json;
    let program = changed();
    let changes = [
        r#"CMD ["serve", "--port", "80"]"#,
        r#"ENTRYPOINT ["/bin/app"]"#,
        "ENV HOME=/srv PLACE=$HOME/data",
        "ENV SPACED a value of words",
        "EXPOSE 80 53/udp",
        "HEALTHCHECK --interval=5s --retries=3 CMD /bin/true",
        r#"LABEL a=1 "long name"="a value""#,
        "ONBUILD RUN make",
        "STOPSIGNAL SIGQUIT",
        "USER dev:staff",
        r#"VOLUME ["/data", "/var/log"]"#,
        "WORKDIR /srv",
        "WORKDIR app",
    ];
    let flags: Vec<&str> = changes.iter().flat_map(|change| ["-c", change]).collect();
    let ran = save(&program, &[&flags[..], &["a"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let config = &program.json(&["inspect", "a"])[0]["Config"];
    for (field, wanted) in [
        ("Cmd", json!(["serve", "--port", "80"])),
        ("Entrypoint", json!(["/bin/app"])),
        ("ExposedPorts", json!({"53/udp": {}, "80/tcp": {}})),
        ("Labels", json!({"a": "1", "long name": "a value"})),
        ("OnBuild", json!(["RUN make"])),
        ("StopSignal", json!("SIGQUIT")),
        ("User", json!("dev:staff")),
        ("Volumes", json!({"/data": {}, "/var/log": {}})),
        ("WorkingDir", json!("/srv/app")),
    ] {
        assert_eq!(config[field], wanted, "{field} of {config:#}");
    }
    // of an earlier instruction's variables docker expands those that are set before this one
    assert_eq!(config["Env"], json!(["HOME=/srv", "PLACE=/data", "SPACED=a value of words"]), "{config:#}");
    let check = &config["Healthcheck"];
    assert_eq!(check["Test"], json!(["CMD-SHELL", "/bin/true"]), "{config:#}");
    assert_eq!((&check["Interval"], &check["Retries"]), (&json!(5_000_000_000u64), &json!(3)));
    for wrong in ["COPY a b", "FROM x", "EXPOSE many", "STOPSIGNAL"] {
        assert_eq!(save(&program, &["-c", wrong, "b"]).code, 2, "{wrong:?}");
    }
    assert_eq!(program.run(&["inspect", "b"]).code, 3);
}

/// With one date, equal content gives equal digests: in another store, at another time, from other inodes.
#[test]
fn one_date_makes_equal_digests() {
    let answers: Vec<serde_json::Value> = [["1000000000"; 2], ["1000000000", "1000000001"]]
        .concat()
        .into_iter()
        .map(|date| {
            let program = changed();
            let mut command =
                program.command(&[&["commit", "-o", "json"], &SOURCE[..], &["-m", "dated", "a"]].concat());
            let ran = common::run(command.env("SOURCE_DATE_EPOCH", date));
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            serde_json::from_str(&ran.stdout).unwrap()
        })
        .collect();
    for field in ["digest", "id", "layers"] {
        assert_eq!(answers[0][field], answers[1][field], "{field}");
        assert_eq!(answers[0][field], answers[2][field], "{field}");
        assert_ne!(answers[0][field], answers[3][field], "{field}: another date");
    }
}
