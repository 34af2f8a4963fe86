use save::request::{LayerReport, Moments, MountReport};

use super::*;

fn report() -> Report {
    let layer = |byte: &[u8], size, new| LayerReport {
        digest: Digest::of(byte),
        diff_id: Digest::of(byte),
        size,
        new,
    };
    Report {
        names: vec!["docker.io/team/api:wip".to_owned()],
        digest: Some(Digest::of(b"manifest")),
        id: Some(Digest::of(b"config")),
        layers: vec![
            layer(b"1", 9_000_000_000, false),
            layer(b"2", 800_000_000, false),
            layer(b"3", 61_440, true),
        ],
        changed: 14,
        removed: 0,
        changed_bytes: 212_000,
        reused_bytes: 9_800_000_000,
        rehashed_bytes: 0,
        moments: Moments {
            pause: Some(Duration::from_nanos(1_812_345)),
            sealed: Some(Duration::from_millis(6)),
            durable: Some(Duration::from_millis(14)),
            published: None,
        },
        left_out: Vec::new(),
        sockets: 0,
        torn: Vec::new(),
        grew: Vec::new(),
        mounts: Vec::new(),
        buried: (0, 0),
        warnings: Vec::new(),
    }
}

#[test]
fn a_save_without_incidents_has_three_lines() {
    insta::assert_snapshot!(summary(&report(), false), @r"
    Saved 14 changed files (212 KB) as a new layer of 61.4 KB
      pause 1.8 ms · sealed 6 ms · durable 14 ms · published –
      reused 9.8 GB from 2 earlier layers
    ");
}

#[test]
fn what_is_not_in_the_image_is_counted_and_named() {
    let mount = |path: &str, fs_type: &str| MountReport { path: path.into(), fs_type: fs_type.to_owned() };
    let report = Report {
        removed: 1,
        moments: Moments::default(),
        left_out: [b"tmp/.wh.1".to_vec(), b"tmp/.wh.\x1b".to_vec(), b".wh.3".to_vec(), b".wh.4".to_vec()]
            .map(|path| (path, LeftOut::ReservedName))
            .to_vec(),
        sockets: 1,
        torn: vec![b"var/lib/app/queue.db".to_vec()],
        grew: vec![b"var/log/app".to_vec()],
        mounts: vec![mount("workspace", "ext4"), mount("data", "nfs")],
        buried: (2, 5000),
        warnings: vec!["no base is known".to_owned()],
        ..report()
    };
    assert!(report.is_partial());
    insta::assert_snapshot!(summary(&report, false), @r"
    Saved 14 changed files (212 KB) and 1 deletion as a new layer of 61.4 KB
      pause – · sealed – · durable – · published –
      reused 9.8 GB from 2 earlier layers
      not saved: 2 mounts (/workspace ext4, /data nfs) – take one in with --include-mount /workspace
      not saved: 4 names that no image can hold (/tmp/.wh.1, /tmp/.wh.\x1b, /.wh.3, 1 more)
      skipped: 1 socket
      torn: /var/lib/app/queue.db changed while it was read – save it with the container paused
      grew: /var/log/app saved as it was at one moment
      buried: 2 files (5 KB) deleted or replaced since are in earlier layers – --purge rewrites them
      warning: no base is known
    ");
    let json = serde_json::to_value(Json::of(&report)).unwrap();
    assert_eq!(json["left_out"][1]["path"], "/tmp/.wh.\\x1b");
    assert_eq!(json["left_out"][1]["path_base64"], "L3RtcC8ud2guGw==");
    assert_eq!(json["left_out"][1]["reason"], "reserved-name");
    assert_eq!(json["mounts"][1]["fs_type"], "nfs");
    assert_eq!(json["moments"]["pause_ns"], serde_json::Value::Null);
    assert_eq!(json["warnings"][0], "no base is known");
}

#[test]
fn a_dry_run_promises_nothing_that_it_does_not_know() {
    let report = Report { layers: Vec::new(), digest: None, id: None, reused_bytes: 0, ..report() };
    assert_eq!(summary(&report, true), "Would save 14 changed files (212 KB)\n");
    let report = Report { changed: 0, changed_bytes: 0, ..report };
    assert_eq!(summary(&report, true), "Would save nothing: no change\n");
    assert!(summary(&report, false).starts_with("Saved no change: no new layer\n"));
}

#[test]
fn json_is_the_documented_object() {
    let line = serde_json::to_string(&Json::of(&Report { layers: Vec::new(), ..report() })).unwrap();
    let (manifest, config) = (Digest::of(b"manifest"), Digest::of(b"config"));
    assert_eq!(
        line,
        format!(
            r#"{{"image":"team/api:wip","digest":"{manifest}","id":"{config}","layers":[],"changed":{{"files":14,"bytes":212000,"removed":0}},"reused_bytes":9800000000,"rehashed_bytes":0,"moments":{{"pause_ns":1812345,"sealed_ns":6000000,"durable_ns":14000000,"published_ns":null}},"left_out":[],"sockets":0,"mounts":[],"torn":[],"grew":[],"buried":{{"files":0,"bytes":0}},"warnings":[]}}"#
        )
    );
}
