use std::io::Write as _;

use super::*;

/// What gzip writes: header, deflate, CRC, length.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; data.len() + 1000];
    let (mut deflate, mut n) = (zlib_rs::Deflate::new(6, false, 15), 0);
    let status = deflate.compress(data, &mut out, zlib_rs::DeflateFlush::Finish).unwrap();
    assert_eq!(status, Status::StreamEnd);
    n += usize::try_from(deflate.total_out()).unwrap();
    out.truncate(n);
    let mut member = b"\x1f\x8b\x08\x08\0\0\0\0\0\xffname\0".to_vec();
    member.extend(out);
    member.extend(crc32fast::hash(data).to_le_bytes());
    member.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    member
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn data() -> Vec<u8> {
    (0..700_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
}

fn decode(blob: &[u8], limit: Option<u64>) -> Result<Vec<u8>, Error> {
    let mut decoder = Decoder::new(blob, limit)?;
    let (mut all, mut buf) = (Vec::new(), vec![0; 10_000]);
    loop {
        match decoder.decode(&mut buf)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

fn pipeline(blob: &[u8], limit: Option<u64>) -> Result<(Vec<u8>, LayerDigests), Error> {
    std::thread::scope(|scope| {
        let mut pipeline = Pipeline::spawn(scope, blob, limit)?;
        let mut all = Vec::new();
        pipeline.read_to_end(&mut all).map_err(|error| Error::from_io(error).unwrap())?;
        assert_eq!(pipeline.uncompressed(), all.len() as u64);
        Ok((all, pipeline.finish()?))
    })
}

#[test]
fn each_encoding_with_its_digests() {
    let data = data();
    let skippable = b"\x53\x2a\x4d\x18\x03\0\0\0abc";
    let blobs: [(Encoding, Vec<u8>); 7] = [
        (Encoding::Plain, data.clone()),
        (Encoding::Gzip, gzip(&data)),
        (Encoding::Gzip, [gzip(&data[..100]), gzip(b""), gzip(&data[100..])].concat()),
        (Encoding::Zstd, zstd(&data)),
        (Encoding::Zstd, [zstd(&data[..1_000_000]), zstd(b""), zstd(&data[1_000_000..])].concat()),
        (Encoding::Zstd, [skippable.as_slice(), &zstd(&data)].concat()),
        (Encoding::Zstd, [zstd(&data).as_slice(), skippable].concat()),
    ];
    for (encoding, blob) in blobs {
        assert_eq!(Decoder::new(blob.as_slice(), None).unwrap().encoding(), encoding);
        assert!(decode(&blob, None).unwrap() == data, "{encoding:?}");
        let (all, digests) = pipeline(&blob, None).unwrap();
        assert!(all == data, "{encoding:?}");
        assert_eq!(digests.digest, <Sha256Digest>::from(Sha256::digest(&blob)));
        assert_eq!(digests.diff_id, <Sha256Digest>::from(Sha256::digest(&data)));
    }
}

#[test]
fn finish_reads_what_was_left() {
    let blob = gzip(&data());
    std::thread::scope(|scope| {
        let digests = Pipeline::spawn(scope, blob.as_slice(), None).unwrap().finish().unwrap();
        assert_eq!(digests.digest, <Sha256Digest>::from(Sha256::digest(&blob)));
    });
}

/// One byte at a time from the source, and into the caller.
#[test]
fn small_pieces() {
    struct Trickle<'a>(&'a [u8]);
    impl Read for Trickle<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(1);
            self.0.read(&mut buf[..n])
        }
    }
    for blob in [gzip(b"hello"), [gzip(b"hel"), gzip(b"lo")].concat(), zstd(b"hello"), b"hello".to_vec()] {
        let mut decoder = Decoder::new(Trickle(&blob), None).unwrap();
        let mut one = [0];
        let mut all = Vec::new();
        while decoder.decode(&mut one).unwrap() == 1 {
            all.push(one[0]);
        }
        assert_eq!(all, b"hello");
    }
}

#[test]
fn every_prefix_is_truncated() {
    for blob in [gzip(b"some data some data"), zstd(b"some data some data")] {
        for len in 6..blob.len() {
            let error = decode(&blob[..len], None).unwrap_err();
            assert!(
                matches!(error, Error::Truncated { offset, .. } if offset == len as u64),
                "{len}: {error}"
            );
        }
    }
}

#[test]
fn a_checksum_is_checked() {
    for (blob, last) in [(gzip(b"some data"), 5), (zstd(b"some data"), 1)] {
        let mut blob = blob;
        let at = blob.len() - last;
        blob[at] ^= 1;
        assert!(matches!(decode(&blob, None), Err(Error::Damaged { .. })));
        assert!(matches!(pipeline(&blob, None), Err(Error::Damaged { .. })));
    }
}

#[test]
fn nothing_hides_behind_the_end() {
    for blob in [gzip(b"data"), zstd(b"data")] {
        for tail in [b"\0".as_slice(), b"x", b"\x1f", b"\x1f\x8c", b"more bytes", &[0; 5000]] {
            let whole = [blob.as_slice(), tail].concat();
            let error = pipeline(&whole, None).unwrap_err();
            assert!(
                matches!(error, Error::TrailingBytes { offset, .. } if offset == blob.len() as u64),
                "{error}"
            );
        }
    }
    assert!(pipeline(&[gzip(b"x"), zstd(b"y")].concat(), None).is_err());
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let bomb = vec![0; 50 << 20];
    for blob in [gzip(&bomb), zstd(&bomb)] {
        assert!(blob.len() < 100_000);
        let error = pipeline(&blob, Some(1 << 20)).unwrap_err();
        assert_eq!(error.to_string(), "the uncompressed data is larger than the limit of 1048576 bytes");
        assert_eq!(pipeline(&blob, Some(50 << 20)).unwrap().0.len(), 50 << 20);
    }
}

/// A frame that asks for 2 GiB of window is refused before the memory is taken.
#[test]
fn a_huge_window_is_refused() {
    let frame = b"\x28\xb5\x2f\xfd\x00\xa8\x09\0\0aaaaaaaaaaaaaaaaaaaaaaa";
    let error = decode(frame, None).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { source, .. } if source.to_string().contains("memory")),
        "{error:?}"
    );
}

#[test]
fn a_source_that_fails() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let n = buf.len().min(self.0);
            self.0 -= n;
            Ok(n)
        }
    }
    std::thread::scope(|scope| {
        let mut pipeline = Pipeline::spawn(scope, Broken(1_000_000), None).unwrap();
        let error = Error::from_io(pipeline.read_to_end(&mut Vec::new()).unwrap_err()).unwrap();
        assert!(matches!(error, Error::Read { offset: 1_000_000, .. }), "{error}");
    });
}
