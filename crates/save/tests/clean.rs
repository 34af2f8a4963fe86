//! Clean reads through real overlays: each sentence of specification 4.6.1.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests with a harness of their own")]

use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use linux::stamp::Stamp;
use save::clean::{CleanRead, Ground, OpenError, Prefix, Reason, Verdict, open_regular};

mod standstill;
use linux::page::Page;
use standstill::{Need, Overlay, open_dir};

fn main() {
    standstill::run(&[
        ("ext4", &[Need::Root, Need::Ext4], || all("ext4")),
        ("xfs", &[Need::Root, Need::Xfs], || all("xfs")),
        ("btrfs", &[Need::Root, Need::Btrfs], || all("btrfs")),
        ("tmpfs_is_never_clean", &[Need::Root], tmpfs_is_never_clean),
    ]);
}

fn all(kind: &str) {
    let overlay = Overlay::on(kind);
    type Sentence = fn(&Overlay);
    let cases: &[(&str, Sentence)] = &[
        ("quiet", quiet_files_are_clean),
        ("store after close", store_through_a_map_after_close),
        ("opened after", opened_and_mapped_after_its_clean_read),
        ("opened between", opened_between_the_leases),
        ("long write", one_long_write),
        ("recent", a_recent_change_is_racy),
        ("reuse", a_reused_inode_is_another_file),
        ("grown", only_grown_or_rewritten),
        ("opener", openers_in_the_window_do_not_end_us),
        ("names", only_the_expected_regular_file_is_opened),
        ("settled", a_read_settles_after_five_seconds),
    ];
    for (name, case) in cases {
        eprintln!("{kind}: {name}");
        case(&overlay);
    }
}

fn age() {
    std::thread::sleep(Duration::from_millis(30));
}

/// Writes through the overlay, waits for more than a tick, and opens the upper as the saver does.
fn quiet(overlay: &Overlay, name: &str) -> (Ground, File) {
    fs::write(overlay.merged(name), vec![1; 8192]).unwrap();
    age();
    let ground = Ground::of(open_dir(&overlay.upper("")).as_fd()).unwrap();
    (ground, File::open(overlay.upper(name)).unwrap())
}

fn writable(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn read_with(ground: &Ground, file: &File, during: impl FnOnce()) -> Verdict {
    let read = CleanRead::begin(ground, file.as_fd()).unwrap();
    let _ = { file }.read_to_end(&mut Vec::new()).unwrap();
    during();
    read.end(file.as_fd()).unwrap()
}

#[track_caller]
fn stamp_of_clean(verdict: Verdict) -> Stamp {
    match verdict {
        Verdict::Clean(clean) => clean.stamp,
        Verdict::Unclean(reason) => panic!("unclean: {reason:?}"),
    }
}

fn quiet_files_are_clean(overlay: &Overlay) {
    let (ground, file) = quiet(overlay, "quiet");
    assert!(ground.allows_clean_reads());
    let reader = File::open(overlay.merged("quiet")).unwrap();
    let private = Page::private(reader.as_fd()).unwrap();
    private.store(9);
    stamp_of_clean(read_with(&ground, &file, || {}));
    assert_eq!(private.load(), 9);
}

fn store_through_a_map_after_close(overlay: &Overlay) {
    let (ground, file) = quiet(overlay, "mapped");
    let page = Page::shared(writable(&overlay.merged("mapped")).as_fd()).unwrap();
    page.store(2);
    age();
    let before = Stamp::of_file(file.as_fd()).unwrap();
    page.store(3);
    // The reason why stamps alone are not enough.
    assert!(Stamp::of_file(file.as_fd()).unwrap().is_unchanged_since(&before));
    let mut first = [0];
    { &file }.read_exact(&mut first).unwrap();
    assert_eq!(first, [3]);
    assert_eq!(read_with(&ground, &file, || {}), Verdict::Unclean(Reason::Writer));
    drop(page);
    stamp_of_clean(read_with(&ground, &file, || {}));
}

fn opened_and_mapped_after_its_clean_read(overlay: &Overlay) {
    let (ground, file) = quiet(overlay, "later");
    let clean = stamp_of_clean(read_with(&ground, &file, || {}));
    let page = Page::shared(writable(&overlay.merged("later")).as_fd()).unwrap();
    assert!(Stamp::of_file(file.as_fd()).unwrap().is_unchanged_since(&clean), "nothing is stored yet");
    page.store(4);
    assert!(!Stamp::of_file(file.as_fd()).unwrap().is_unchanged_since(&clean));
}

fn opened_between_the_leases(overlay: &Overlay) {
    let (ground, file) = quiet(overlay, "between");
    let mut held = None;
    let verdict = read_with(&ground, &file, || held = Some(writable(&overlay.merged("between"))));
    assert_eq!(verdict, Verdict::Unclean(Reason::Writer));
    drop(held);
    let verdict = read_with(&ground, &file, || writable(&overlay.merged("between")).write_all(b"x").unwrap());
    assert_eq!(verdict, Verdict::Unclean(Reason::Changed));
    age();
    let verdict = read_with(&ground, &file, || {
        Page::shared(writable(&overlay.merged("between")).as_fd()).unwrap().store(7);
    });
    assert_eq!(verdict, Verdict::Unclean(Reason::Changed));
}

fn one_long_write(overlay: &Overlay) {
    let (ground, file) = quiet(overlay, "long");
    let done = AtomicBool::new(false);
    let mut in_the_middle = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = vec![5; 1 << 20];
            let mut writer = writable(&overlay.merged("long"));
            let _ = writer.write_vectored(&[IoSlice::new(&chunk); 256]).unwrap();
            done.store(true, Ordering::SeqCst);
        });
        while file.metadata().unwrap().len() <= 8192 && !done.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        age();
        while !done.load(Ordering::SeqCst) {
            let read = CleanRead::begin(&ground, file.as_fd()).unwrap();
            let reason = read.unclean();
            if done.load(Ordering::SeqCst) {
                break;
            }
            assert!(reason.is_some(), "clean in the middle of a write");
            in_the_middle += 1;
        }
    });
    eprintln!("  {in_the_middle} looks in the middle of the write");
}

fn a_recent_change_is_racy(overlay: &Overlay) {
    let (ground, file) = quiet(overlay, "recent");
    // A slow machine may take longer than a tick from the write to the read: try until it does not.
    let is_seen = (0..100).any(|_| {
        fs::write(overlay.merged("recent"), b"now").unwrap();
        read_with(&ground, &file, || {}) == Verdict::Unclean(Reason::Recent)
    });
    assert!(is_seen);
}

fn a_reused_inode_is_another_file(overlay: &Overlay) {
    let (_, file) = quiet(overlay, "reused");
    let old = Stamp::of_file(file.as_fd()).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    drop(file);
    let path = overlay.merged("reused");
    for _ in 0..50 {
        fs::remove_file(&path).unwrap();
        fs::write(&path, vec![2; 8192]).unwrap();
        writable(&path).set_modified(mtime).unwrap();
        let new = Stamp::of_file(File::open(overlay.upper("reused")).unwrap().as_fd()).unwrap();
        assert_eq!((new.size, new.mtime), (old.size, old.mtime));
        assert!(!new.is_unchanged_since(&old));
        if new.ino == old.ino {
            assert_ne!(new.generation, old.generation);
            assert!(!Stamp { generation: new.generation, ..old }.is_unchanged_since(&old));
            return;
        }
    }
    eprintln!("  this file system did not reuse the inode");
}

fn only_grown_or_rewritten(overlay: &Overlay) {
    let (_, file) = quiet(overlay, "log");
    let prefix = Prefix { size: 8192, hash: blake3::hash(&[1; 8192]) };
    let mut buffer = vec![0; 1000];
    let mut holds = || prefix.is_still_there(file.as_fd(), &mut buffer).unwrap();
    assert!(holds());
    File::options().append(true).open(overlay.merged("log")).unwrap().write_all(b"more").unwrap();
    assert!(holds(), "it only grew");
    writable(&overlay.merged("log")).set_len(8191).unwrap();
    assert!(!holds(), "it shrank");
    writable(&overlay.merged("log")).set_len(9000).unwrap();
    assert!(!holds(), "it shrank and grew");
    fs::write(overlay.merged("log"), vec![1; 9000]).unwrap();
    assert!(holds());
    writable(&overlay.merged("log")).write_all(b"x").unwrap();
    assert!(!holds(), "rewritten");
}

fn openers_in_the_window_do_not_end_us(overlay: &Overlay) {
    let (_, file) = quiet(overlay, "opener");
    let done = AtomicBool::new(false);
    let mut granted = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                drop(writable(&overlay.merged("opener")));
            }
        });
        for _ in 0..20_000 {
            granted += u32::from(!linux::lease::somebody_may_write(file.as_fd()).unwrap());
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(granted > 0);
}

fn only_the_expected_regular_file_is_opened(overlay: &Overlay) {
    let upper = open_dir(&overlay.upper(""));
    fs::write(overlay.merged("name"), b"1").unwrap();
    let stamp = Stamp::of_name(upper.as_fd(), c"name").unwrap();
    open_regular(upper.as_fd(), c"name", &stamp).unwrap();
    fs::write(overlay.merged("other"), b"2").unwrap();
    fs::rename(overlay.merged("other"), overlay.merged("name")).unwrap();
    assert!(matches!(open_regular(upper.as_fd(), c"name", &stamp), Err(OpenError::Replaced)));
    fs::remove_file(overlay.merged("name")).unwrap();
    assert!(matches!(open_regular(upper.as_fd(), c"name", &stamp), Err(OpenError::Gone)));
    std::os::unix::fs::symlink("quiet", overlay.merged("name")).unwrap();
    assert!(matches!(open_regular(upper.as_fd(), c"name", &stamp), Err(OpenError::NotRegular)));
    fs::remove_file(overlay.merged("name")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, overlay.merged("name"), rustix::fs::Mode::RWXU).unwrap();
    assert!(matches!(open_regular(upper.as_fd(), c"name", &stamp), Err(OpenError::NotRegular)));
}

fn a_read_settles_after_five_seconds(overlay: &Overlay) {
    let (ground, file) = quiet(overlay, "settled");
    let settled = |verdict| matches!(verdict, Verdict::Clean(clean) if clean.is_settled);
    stamp_of_clean(read_with(&ground, &file, || {}));
    assert!(!settled(read_with(&ground, &file, || {})));
    std::thread::sleep(Duration::from_millis(5050));
    assert!(settled(read_with(&ground, &file, || {})));
}

fn tmpfs_is_never_clean() {
    let overlay = Overlay::on("tmpfs");
    let (ground, file) = quiet(&overlay, "quiet");
    assert!(!ground.allows_clean_reads());
    assert_eq!(read_with(&ground, &file, || {}), Verdict::Unclean(Reason::FileSystem));
}
