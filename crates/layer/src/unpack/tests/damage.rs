//! Archives that break off, lie, or grow without end.

use super::*;

/// One of each type, so that each part of the format can be damaged.
fn sample() -> Vec<u8> {
    Tar::of([
        Item::dir("d/"),
        Item::file("d/f", "some bytes").xattr("user.a", "b").pax("mtime", "5.5"),
        Item::symlink("d/l", "f"),
        Item::hardlink("d/h", "d/f"),
        Item::new("d/.wh.gone", b'0'),
        Item { data: b"d/long\0".to_vec(), ..Item::new("x", b'L') },
        Item::file("short", "more"),
    ])
}

/// Unpacks bytes that may mean anything: it must end, and leave nothing behind unless it succeeds.
fn survive(scratch: &Scratch, bytes: &[u8]) -> bool {
    let done = scratch.unpack(&[bytes.to_vec()]).is_ok();
    assert_eq!(done, scratch.target().exists());
    if done {
        fs::remove_dir_all(scratch.target()).unwrap();
    }
    done
}

#[test]
fn every_prefix() {
    let (whole, scratch) = (sample(), Scratch::in_memory());
    // at the block borders and around them
    for len in (0..whole.len()).filter(|len| [0, 1, 10, 100, 511].contains(&(len % 512))) {
        assert!(!survive(&scratch, &whole[..len]), "{len} bytes of {}", whole.len());
    }
    assert!(survive(&scratch, &whole));
    scratch.assert_outside_untouched();
}

#[test]
fn every_flipped_byte() {
    let (whole, scratch) = (sample(), Scratch::in_memory());
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        refused += usize::from(!survive(&scratch, &damaged));
    }
    // ten headers of 512 bytes have a checksum; so have not data and padding
    assert!(refused > 8 * 512, "{refused}");
    scratch.assert_outside_untouched();
}

/// Flips that keep the checksum right: what the fields then say is taken at its word.
#[test]
fn every_flipped_byte_of_a_header_that_is_sealed_again() {
    use crate::tar::testing::seal;
    let (whole, scratch) = (sample(), Scratch::in_memory());
    let headers = [0, 512, 1536, 2560, 3072, 3584, 4096, 5120];
    for start in headers {
        for at in (0..512).filter(|at| !(148..156).contains(at)) {
            let mut damaged = whole.clone();
            let block: &mut [u8; 512] = (&mut damaged[start..start + 512]).try_into().unwrap();
            block[at] ^= 1 << (at % 8);
            seal(block);
            survive(&scratch, &damaged);
        }
    }
    scratch.assert_outside_untouched();
}

#[test]
fn bombs() {
    let scratch = Scratch::new();
    let entries = Tar::of((0..100).map(|n| Item::file(n.to_string(), "")));
    let options = Options { max_entries: 99, ..Options::default() };
    let error = unpack(&scratch.target(), [(entries.as_slice(), None)], options).unwrap_err();
    assert_eq!(chain(&error), "layer 1: the layers have more than the limit of 99 entries");

    let tar = Tar::of([Item::file("zeros", vec![0; 20 << 20])]);
    let bomb = zstd::encode_all(tar.as_slice(), 1).unwrap();
    assert!(bomb.len() < 20_000);
    for layers in [vec![&bomb], vec![&bomb, &bomb]] {
        let max = (20 << 20) * layers.len() as u64; // the headers are over it
        let options = Options { max_bytes: Some(max), ..Options::default() };
        let layers = layers.into_iter().map(|layer| (layer.as_slice(), None));
        let error = unpack(&scratch.target(), layers, options).unwrap_err();
        assert!(chain(&error).contains("larger than the limit"), "{}", chain(&error));
    }
    scratch.assert_outside_untouched();
}

/// Attributes of directories wait in memory: a thousand times as much as an inode may have ends it.
#[test]
fn directories_full_of_attributes() {
    let value = vec![b'x'; 60_000];
    let scratch = Scratch::new();
    let layer = Tar::of((0..1300).map(|n| Item::dir(format!("{n}/")).xattr("user.x", &value)));
    let error = scratch.unpack(&[layer]).unwrap_err();
    assert!(chain(&error).contains("extended attributes of directories"), "{}", chain(&error));
    scratch.assert_outside_untouched();
}

/// Each way to end leaves nothing: an error of the archive, of a writer, of the digest, a drop.
#[test]
fn staging_is_removed() {
    let scratch = Scratch::new();
    // a writer fails: no file system takes such a value
    let bad = [Item::file("a", "x").xattr("system.posix_acl_access", b"\x02\0\0\0junk")];
    let many = (0..500).map(|n| Item::file(format!("d{n}/f"), "x"));
    let error = chain(&scratch.unpack(&[Tar::of(bad.into_iter().chain(many))]).unwrap_err());
    assert!(error.contains("entry 1, \"a\", cannot be given the extended attribute"), "{error}");
    scratch.assert_outside_untouched();

    let mut unpacker = Unpacker::new(&scratch.target(), Options::default()).unwrap();
    let locked = Tar::of([Item::dir("locked/").mode(0), Item::file("locked/in/x", "")]);
    unpacker.layer(locked.as_slice(), None).unwrap();
    drop(unpacker);
    scratch.assert_outside_untouched();
}
