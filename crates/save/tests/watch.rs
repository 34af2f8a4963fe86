//! What a watch hears of an upper, through real overlays.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests with a harness of their own")]

use std::fs;
use std::os::fd::AsFd;
use std::process::Command;

use linux::fanotify::Queue;
use save::watch::{Touched, Unsupported, Watch};

mod standstill;
use standstill::{Need, Overlay, open_dir};

const UPPER: u32 = 7;

fn main() {
    standstill::run(&[
        ("ext4::hears_what_others_do", &[Need::Root, Need::Ext4], || hears_what_others_do("ext4")),
        ("xfs::hears_what_others_do", &[Need::Root, Need::Xfs], || hears_what_others_do("xfs")),
        ("btrfs::hears_what_others_do", &[Need::Root, Need::Btrfs], || hears_what_others_do("btrfs")),
        ("lost_events_touch_everything", &[Need::Root, Need::Ext4], lost_events_touch_everything),
        ("an_overlay_itself_cannot_be_watched", &[Need::Root, Need::Ext4], an_overlay_itself),
    ]);
}

fn start(overlay: &Overlay, queue: Queue) -> Watch {
    let (upper, scratch) = (open_dir(&overlay.upper("")), open_dir(&overlay.scratch()));
    let mut watch = Watch::start_with(queue, upper.as_fd(), scratch.as_fd()).unwrap();
    watch.register_dir(upper.as_fd(), UPPER).unwrap();
    watch
}

/// Does something in the container's view, as another process.
fn sh(overlay: &Overlay, script: &str) {
    let status = Command::new("sh").args(["-c", script]).current_dir(overlay.merged("")).status().unwrap();
    assert!(status.success(), "{script}");
}

fn hears_what_others_do(kind: &str) {
    let overlay = Overlay::on(kind);
    for name in ["read", "written", "moved", "gone", "mode", "quiet"] {
        fs::write(overlay.merged(name), b"x").unwrap();
    }
    fs::create_dir(overlay.merged("strange")).unwrap();
    let mut watch = start(&overlay, Queue::Unlimited);
    let _ = fs::read(overlay.upper("quiet")).unwrap();
    assert_eq!(watch.drain(), Touched::Names([].into()), "our own reads do not count");

    for (script, names) in [
        // An open for writing that writes nothing: a store through a map raises nothing but this.
        ("exec 3<>read", &["read"][..]),
        ("echo y >> written", &["written"]),
        ("mv moved came", &["moved", "came"]),
        ("rm gone", &["gone"]),
        ("chmod 700 mode", &["mode"]),
        ("mkdir -p new/deep && echo z > new/deep/file", &["new"]),
        ("echo w >> below", &["below"]),
    ] {
        sh(&overlay, script);
        let touched = watch.drain();
        for name in names {
            assert!(touched.contains(UPPER, name.as_bytes()), "{script}: {touched:?}");
        }
        assert!(!touched.contains(UPPER, b"quiet"), "{script}: {touched:?}");
    }
    sh(&overlay, "echo s > strange/file");
    assert!(!watch.drain().contains(UPPER, b"file"), "a directory that was not registered");
    sh(&overlay, "chmod 711 .");
    assert!(watch.drain().contains(UPPER, b"."));
}

fn lost_events_touch_everything() {
    let overlay = Overlay::on("ext4");
    let mut watch = start(&overlay, Queue::Limited);
    let limit: u32 =
        fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap().trim().parse().unwrap();
    sh(&overlay, &format!("i=0; while [ $i -le {limit} ]; do : > f$i; i=$((i+1)); done"));
    assert_eq!(watch.drain(), Touched::All);
    assert_eq!(watch.drain(), Touched::Names([].into()));
}

fn an_overlay_itself() {
    let overlay = Overlay::on("ext4");
    let (merged, scratch) = (open_dir(&overlay.merged("")), open_dir(&overlay.scratch()));
    let result = Watch::start(merged.as_fd(), scratch.as_fd());
    assert!(matches!(result, Err(Unsupported::Listen(_) | Unsupported::Silent(_))), "{result:?}");
}
