//! Any bytes as a mountinfo file, and as the options of an overlay in it.
//!
//! # Oracle
//! * No panic. Paths do not come out longer than they went in: escapes only shrink.
//! * No separator survives in the wrong place: the lowers of `lowerdir=` are as many as its colons that are
//!   neither escaped nor octal, which is counted here a second time, byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linux::mountinfo::{self, octal_escape, unescape};
use save::source::{ModuleDefaults, parse_overlay_options, unescape_path};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mounts) = mountinfo::parse(bytes) {
        for mount in &mounts {
            assert!(mount.root.len() + mount.point.len() + mount.source.len() <= bytes.len());
            options(&mount.super_options);
        }
    }
    options(bytes);
    assert!(unescape(bytes).len() <= bytes.len());
});

fn options(raw: &[u8]) {
    let Ok(options) = parse_overlay_options(raw) else { return };
    let names = options.lowers.iter().chain(&options.data_lowers).chain(&options.upper).chain(&options.work);
    let total: usize = names.clone().map(Vec::len).sum();
    assert!(total <= raw.len(), "{options:?}");
    for name in names {
        assert!(unescape_path(name).len() <= name.len());
    }
    let _ = options.effective(ModuleDefaults {
        index: false,
        nfs_export: false,
        metacopy: true,
        redirect_dir: true,
        redirect_always_follow: true,
        xino_auto: true,
    });
    let words: Vec<&[u8]> = raw.split(|&byte| byte == b',').collect();
    if let [word] = words[..]
        && let Some(value) = word.strip_prefix(b"lowerdir=")
    {
        assert_eq!(options.lowers.len() + options.data_lowers.len(), lowers(value), "{options:?}");
    }
}

/// How many names the value of `lowerdir=` has.
fn lowers(mut value: &[u8]) -> usize {
    let mut names = Vec::new();
    let mut is_empty = true;
    while let Some((&byte, rest)) = value.split_first() {
        let is_octal = octal_escape(value).is_some();
        // the byte behind a backslash is itself, in whatever form it stands
        let escapes = (!is_octal && byte == b'\\') || octal_escape(value) == Some(b'\\');
        value = if is_octal { &value[4..] } else { rest };
        if escapes && !value.is_empty() {
            value = if octal_escape(value).is_some() { &value[4..] } else { &value[1..] };
            is_empty = false;
        } else if !is_octal && byte == b':' {
            names.push(is_empty);
            is_empty = true;
        } else {
            is_empty = false;
        }
    }
    names.push(is_empty);
    names.iter().filter(|&&is_empty| !is_empty).count()
}
