//! Any bytes as the tar of a layer.
//!
//! # Oracle
//! * No panic, and no allocation by a number that the archive only claims (`-rss_limit_mb`, `-malloc_limit_mb`).
//! * Every entry keeps the promises of [`layer::tar::read`]: its path is relative, without empty, `.` and `..`
//!   components and without NUL, and at most 4095 bytes; so is the target of a hard link. Only a marker may
//!   stand for the root. Data is as long as the entry says.
//! * What our writer makes of the entry reads back as the same entry, except for what tars cannot hold.
#![no_main]

use layer::entry::{Entry, Kind};
use layer::tar::read::{EndMarker, MAX_PATH, Reader};
use layer::tar::write::{data_len, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for end in [EndMarker::Required, EndMarker::Optional] {
        let mut reader = Reader::new(bytes, end);
        let mut buffer = [0; 4096];
        while let Ok(Some(member)) = reader.next_member() {
            let entry = member.entry;
            check(&entry);
            let mut missing = data_len(&entry);
            while missing > 0 {
                match reader.read_data(&mut buffer) {
                    Ok(0) => panic!("{missing} bytes of {entry:?} are missing without an error"),
                    Ok(len) => missing = missing.checked_sub(len as u64).expect("no more than the entry has"),
                    Err(_) => return,
                }
            }
        }
    }
});

fn is_clean(path: &[u8]) -> bool {
    let part = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    path.len() <= MAX_PATH && path.split(|&byte| byte == b'/').all(part)
}

fn check(entry: &Entry) {
    let is_root_marker = entry.path.is_empty() && entry.kind == Kind::Opaque;
    assert!(is_root_marker || is_clean(&entry.path), "{entry:?}");
    if let Kind::Hardlink { target } = &entry.kind {
        assert!(is_clean(target), "{entry:?}");
    }
    let mut tar = Vec::new();
    if header(entry, &mut tar).is_err() {
        return;
    }
    assert!(tar.len() % 512 == 0);
    let data = usize::try_from(data_len(entry)).unwrap_or(usize::MAX);
    if data > 1 << 20 {
        return;
    }
    tar.resize((tar.len() + data).next_multiple_of(512) + 1024, 0);
    let mut reader = Reader::new(&tar[..], EndMarker::Required);
    let again = reader.next_member().expect("our own tar").expect("an entry").entry;
    match entry.kind {
        // markers have no metadata of their own
        Kind::Whiteout | Kind::Opaque => assert_eq!((&again.path, &again.kind), (&entry.path, &entry.kind)),
        _ => assert_eq!(&again, entry),
    }
}
