//! Any bytes as a frame map.
//!
//! # Oracle
//! * No panic, and no memory beyond a few times the input.
//! * What decodes encodes to the same bytes: there is one encoding.
//! * What decodes is consistent: frames without gaps, and reading through it never panics whatever the blob is.
//! * To get past the checksum, the last four bytes of the input are replaced by the right ones.
#![no_main]

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use layer::frames::{Frame, FrameMap, Sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = FrameMap::decode(bytes);
    let Some((body, blob)) = bytes.split_at_checked(bytes.len().min(600)) else { return };
    let Some(end) = body.len().checked_sub(4) else { return };
    let mut body = body.to_vec();
    let sum = crc32(&body[..end]).to_le_bytes();
    body[end..].copy_from_slice(&sum);
    let Ok(map) = FrameMap::decode(&body) else { return };
    assert_eq!(map.encode(), body);
    let mut at = 0;
    for frame in &map.frames {
        assert_eq!(frame.tar_offset, at);
        at = Frame::tar_end(frame);
    }
    assert_eq!(map.tar_size(), at);
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(blob, 0).expect("write");
    let sealed = Sealed { file: Arc::new(file), map: Arc::new(map) };
    let _ = sealed.read_range(at / 2, &mut [0; 64]);
});

/// CRC-32 (IEEE), bit by bit: not the code under test.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}
