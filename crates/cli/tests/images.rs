//! Images in a store and in archives, from the command line.

#![expect(
    clippy::unwrap_used,
    reason = "clippy lets only functions with #[test] unwrap, not what they share"
)]

mod common;

use std::io::Write as _;
use std::process::Stdio;

use common::{Headstart, members, redact, root_tar};

#[test]
fn tables_show_what_is_there() {
    let program = Headstart::new();
    assert_eq!(program.answer(&["images"]), "NAME   LAYERS   SIZE   UNIQUE   CREATED\n");
    assert!(!common::exists(&program.path("root")), "looking creates nothing");

    let id = program.import("team/api:wip");
    program.answer(&["tag", "team/api:wip", "team/api:tested"]);
    program.import("debian");
    insta::assert_snapshot!(redact(&program.answer(&["images", "team/*", "--digests"])), @r"
    NAME              DIGEST         LAYERS   SIZE     UNIQUE   CREATED
    team/api:wip      <id>   1        8.4 KB   8.4 KB   2001-09-09T01:46:40Z
    team/api:tested   <id>   1        8.4 KB   8.4 KB   2001-09-09T01:46:40Z
    ");
    let json = program.json(&["images", "-o", "json"]);
    assert_eq!(json[0]["names"], serde_json::json!(["team/api:wip", "team/api:tested"]));
    assert_eq!(json[0]["id"], id);
    assert_eq!(json[0]["created"], "2001-09-09T01:46:40Z");
    assert_eq!(program.answer(&["images", "-q", "team/api"]), format!("{}\n", &id[7..19]));
    assert_eq!(program.answer(&["images", "-q", "--no-trunc", "team/api"]), format!("{id}\n"));
}

#[test]
fn history_and_inspect_tell_how_it_came_about() {
    let program = Headstart::new();
    std::fs::write(program.path("root.tar"), root_tar("x")).unwrap();
    let words =
        ["import", "-m", "from\nthe farm", "-c", "ENV A=1 B=$A", "-c", "CMD [\"sh\"]", "root.tar", "base"];
    let id = program.answer(&words);
    insta::assert_snapshot!(redact(&program.answer(&["history", "base"])), @r#"
    LAYER          SIZE     CREATED                BY
    <id>   7.7 KB   2001-09-09T01:46:40Z   import of root.tar: "from\nthe farm"
    "#);
    let history = program.json(&["history", "-o", "json", "base"]);
    assert_eq!(history[0]["comment"], "from\nthe farm");
    assert_eq!(history[0]["created_by"], "import of root.tar");

    let inspected = program.json(&["inspect", "base"]);
    let image = &inspected[0];
    assert_eq!(image["Id"], id.trim());
    assert_eq!(image["RepoTags"], serde_json::json!(["base:latest"]));
    assert_eq!(image["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(image["Config"]["Env"], serde_json::json!(["A=1", "B="]));
    assert_eq!(image["Layers"][0]["DiffId"], image["RootFS"]["Layers"][0]);
    assert_eq!(program.answer(&["inspect", "-o", "json", "base"]).lines().count(), 1);
}

#[test]
fn names_go_and_images_with_the_last() {
    let program = Headstart::new();
    let id = program.import("a");
    program.answer(&["tag", "a", "b"]);
    let refused = program.run(&["rmi", &id]);
    assert_eq!(refused.code, 4);
    assert_eq!(
        redact(&refused.stderr),
        "error: image sha256:<digest>: 2 names point to it\n  try: headstart rmi --force sha256:<digest>\n"
    );
    assert_eq!(program.answer(&["rmi", "a"]), "Untagged: a:latest\n");
    // what is not there does not keep the rest from going, but is not forgotten
    let ran = program.run(&["rmi", "-o", "json", "nope", "b"]);
    assert_eq!(ran.code, 3);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["untagged"], serde_json::json!(["b:latest"]));
    assert!(json["freed_bytes"].as_u64().unwrap() > 3000);
    assert_eq!(program.run(&["rmi", "--force", "nope"]).code, 0);
    assert_eq!(program.json(&["images", "-o", "json"]), serde_json::json!([]));
}

#[test]
fn an_archive_comes_back_as_it_was() {
    let program = Headstart::new();
    let id = program.import("team/api:wip");
    program.answer(&["tag", "team/api:wip", "second"]);
    let saved = program.answer(&["save", "-o", "a.tar", "team/api:wip", "second", "--json"]);
    let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["images"][0]["names"], serde_json::json!(["team/api:wip", "second:latest"]));
    let archive = std::fs::read(program.path("a.tar")).unwrap();
    let streamed = program.command(&["save", "team/api:wip", "second"]).output().unwrap();
    assert_eq!(streamed.stdout, archive, "file and stream are the same");

    let other = Headstart::new();
    let mut child = other.command(&["load"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&archive).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "Loaded image: team/api:wip\nLoaded image: second:latest\n"
    );
    assert_eq!(other.json(&["inspect", "second"])[0]["Id"], id);

    // compressed, and by id: then it has no name
    program.answer(&["save", "-o", "b.tar", &id]);
    let packed = zstd_frame(&std::fs::read(program.path("b.tar")).unwrap());
    let third = Headstart::new();
    std::fs::write(third.path("b.tar.zst"), packed).unwrap();
    let ran = third.run(&["load", "-i", "b.tar.zst"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("Loaded image ID: {id}\n")));
    assert!(ran.stderr.contains("headstart tag "), "{}", ran.stderr);
}

/// One zstd frame of one or more raw blocks (RFC 8878, 3.1.1): no compressor is needed to test a reader.
fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    // single segment, content size in 8 bytes
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
    frame.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    let blocks: Vec<&[u8]> = bytes.chunks(100_000).collect();
    for (at, block) in blocks.iter().enumerate() {
        let last = u32::from(at + 1 == blocks.len());
        let header = u32::try_from(block.len()).unwrap() << 3 | last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

#[test]
fn a_damaged_archive_leaves_the_store_as_it_was() {
    let program = Headstart::new();
    program.import("a");
    program.answer(&["save", "-o", "a.tar", "a"]);
    let whole = std::fs::read(program.path("a.tar")).unwrap();
    let other = Headstart::new();
    std::fs::write(other.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    let cut = other.run(&["load", "-i", "cut.tar"]);
    assert_eq!(cut.code, 6, "{}", cut.stderr);
    assert!(cut.stderr.starts_with("error: cut.tar: the archive is cut short"), "{}", cut.stderr);
    std::fs::write(other.path("cut.tar.zst"), &zstd_frame(&whole)[..5000]).unwrap();
    assert_eq!(other.run(&["load", "-i", "cut.tar.zst"]).code, 6);
    assert_eq!(other.run(&["load", "-i", "nope.tar"]).code, 3);
    assert_eq!(other.json(&["images", "-o", "json"]), serde_json::json!([]));
}

#[test]
fn import_takes_the_archive_as_it_is_or_not_at_all() {
    let program = Headstart::new();
    let tar = root_tar("hello");
    let packed = zstd_frame(&tar);
    std::fs::write(program.path("root.tar.zst"), &packed).unwrap();
    let plain = {
        std::fs::write(program.path("root.tar"), &tar).unwrap();
        program.json(&["import", "-o", "json", "root.tar", "plain"])
    };
    let json = program.json(&["import", "-o", "json", "root.tar.zst", "packed"]);
    assert_eq!(json["size"], packed.len());
    assert_eq!(json["diff_id"], plain["diff_id"]);
    assert_ne!(json["layer"], plain["layer"]);

    let mut evil = root_tar("x");
    evil.truncate(evil.len() - 1024);
    let at = evil.len();
    evil.extend(root_tar("x"));
    // the name of the next member; the checksum is then wrong, which is refused, too
    evil[at..at + 5].copy_from_slice(b"../x\0");
    std::fs::write(program.path("evil.tar"), &evil).unwrap();
    let ran = program.run(&["import", "evil.tar", "evil"]);
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.starts_with("error: evil.tar: entry 5"), "{}", ran.stderr);
    assert!(ran.stderr.contains("\n  nothing was stored\n"), "{}", ran.stderr);
    std::fs::write(program.path("cut.tar"), &tar[..tar.len() - 1024]).unwrap();
    assert_eq!(program.run(&["import", "cut.tar", "cut"]).code, 6);
    assert_eq!(program.json(&["images", "-o", "json"]).as_array().unwrap().len(), 2);
    assert_eq!(program.json(&["system", "df", "-o", "json"])["writing_bytes"], 0);
}

#[test]
fn unpacked_and_exported_it_is_the_same_root() {
    let program = Headstart::new();
    program.import("base");
    let json = program.json(&["unpack", "-o", "json", "base", "rootfs"]);
    assert_eq!((&json["entries"], &json["bytes"]), (&4.into(), &4.into()));
    assert_eq!(std::fs::read_to_string(program.path("rootfs/etc/link")).unwrap(), "base");
    let again = program.run(&["unpack", "base", "rootfs"]);
    assert_eq!(
        (again.code, again.stderr.as_str()),
        (4, "error: rootfs: the target is not an empty directory\n")
    );

    // the store knows what lies there: a save from it finds its base
    let store = registry::Store::open(&program.path("root")).unwrap();
    let known = store.find_unpacked(&[program.path("rootfs")]).unwrap();
    assert_eq!(known, Some(store.resolve("base").unwrap().digest()));

    std::fs::write(program.path("layer.tar"), root_tar("file")).unwrap();
    let ran = program.run(&["unpack", "./layer.tar", "layer"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(program.path("layer/etc/hosts")).unwrap(), "file");

    let exported = program.command(&["export", "base"]).output().unwrap();
    if common::is_root() {
        assert_eq!(members(&exported.stdout), ["etc", "etc/hosts", "etc/hosts2", "etc/link"]);
        assert_eq!(exported.stdout, root_tar("base"), "one layer of ours comes back byte for byte");
        program.answer(&["export", "-o", "out.tar", "base"]);
        assert_eq!(std::fs::read(program.path("out.tar")).unwrap(), exported.stdout);
        let left: Vec<_> =
            std::fs::read_dir(program.path("root/state")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["unpacked"], "no scratch is left");
    } else {
        assert_eq!(exported.status.code(), Some(5));
    }
}

#[test]
fn prune_spares_what_is_young_and_asks_before() {
    let program = Headstart::new();
    program.import("a");
    std::fs::write(program.path("root.tar"), root_tar("another")).unwrap();
    program.answer(&["import", "root.tar", "a"]);
    let df = program.json(&["system", "df", "-o", "json"]);
    assert_eq!((&df["images"], &df["unnamed_images"]), (&2.into(), &1.into()));
    let asked = program.run(&["system", "prune", "--all"]);
    assert_eq!(
        (asked.code, asked.stderr.as_str()),
        (
            2,
            "error: system prune: nobody is there to be asked\n  try: headstart system prune --all --force\n"
        )
    );
    let young = program.json(&["system", "prune", "-f", "-o", "json"]);
    assert_eq!((&young["images"], &young["blobs"]), (&1.into(), &0.into()));
    let all = program.json(&["system", "prune", "-af", "-o", "json"]);
    assert_eq!(all["freed_bytes"], df["reclaimable_bytes"]);
    assert_eq!(program.answer(&["system", "prune", "-f"]), "Total reclaimed space: 0 B\n");
}

#[test]
fn a_damaged_image_is_listed_and_the_others_too() {
    let program = Headstart::new();
    program.import("good");
    std::fs::write(program.path("root.tar"), root_tar("bad")).unwrap();
    program.answer(&["import", "root.tar", "bad"]);
    let digest =
        program.json(&["images", "-o", "json", "bad"])[0]["digest"].as_str().unwrap()[7..].to_owned();
    std::fs::write(program.path("root/images/blobs/sha256").join(digest), "{}").unwrap();
    let ran = program.run(&["images"]);
    assert_eq!(ran.code, 7);
    assert!(ran.stdout.contains("good:latest") && ran.stdout.contains("damaged"), "{}", ran.stdout);
    assert!(redact(&ran.stderr).contains("warning: image sha256:<digest>: blob sha256:<digest> is damaged"));
    assert_eq!(program.run(&["inspect", "bad"]).code, 6);
}
