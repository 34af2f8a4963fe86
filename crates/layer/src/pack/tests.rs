use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use proptest::prelude::*;
use sha2::Digest as _;

use super::*;
use crate::codec::tests::noise;
use crate::entry::{Kind, Meta};

mod stream;

const ALL: [Compression; 3] =
    [Compression::None, Compression::Gzip { level: 1 }, Compression::Zstd { level: 1 }];

fn options(compression: Compression, threads: usize) -> PackOptions {
    PackOptions { compression, threads }
}

fn packer(compression: Compression) -> (Packer, File) {
    let blob = tempfile::tempfile().unwrap();
    (Packer::create(blob.try_clone().unwrap(), &options(compression, 2)).unwrap(), blob)
}

fn file(name: &str, size: usize) -> Entry {
    let meta = Meta { mode: 0o644, uid: 1, ..Meta::default() };
    Entry { path: name.as_bytes().to_vec(), kind: Kind::File { size: size as u64 }, meta }
}

fn dir(name: &str) -> Entry {
    Entry { kind: Kind::Dir, ..file(name, 0) }
}

/// Text or noise, by the seed.
fn data(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(len, seed);
    if !seed.is_multiple_of(3) {
        bytes.iter_mut().for_each(|byte| *byte = b"aeinrst \n"[usize::from(*byte) % 9]);
    }
    bytes
}

/// The plain tar of entries, as nobody could get it wrong.
#[derive(Default, Clone)]
struct Model {
    tar: Vec<u8>,
    extents: Vec<(Entry, Extent)>,
}

impl Model {
    fn add(&mut self, entry: &Entry, data: &[u8]) -> Extent {
        let offset = self.tar.len();
        header(entry, &mut self.tar).unwrap();
        let header = self.tar.len() - offset;
        self.tar.extend_from_slice(data);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        let extent = extent(offset, header, self.tar.len() - offset);
        self.extents.push((entry.clone(), extent));
        extent
    }

    fn ended(&self) -> Vec<u8> {
        [&self.tar[..], &[0; 1024]].concat()
    }
}

fn extent(offset: usize, header: usize, len: usize) -> Extent {
    Extent { offset: offset as u64, header: header as u64, len: len as u64 }
}

/// The tar in a blob, by a program that is not ours.
fn foreign(blob: &File, compression: Compression) -> Vec<u8> {
    use std::io::Seek as _;
    let mut blob = blob;
    blob.rewind().unwrap();
    let mut program = match compression {
        Compression::None => Command::new("cat"),
        Compression::Gzip { .. } => Command::new("gzip"),
        Compression::Zstd { .. } => Command::new("zstd"),
    };
    if compression != Compression::None {
        program.arg("-dcq");
    }
    let stdin = Stdio::from(blob.try_clone().unwrap());
    let output = program.stdin(stdin).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Everything that a blob must be.
fn check(packed: &Packed, blob: &File, tar: &[u8], compression: Compression) {
    let mut bytes = vec![0; usize::try_from(packed.size).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(blob, &mut bytes, 0).unwrap();
    assert_eq!(blob.metadata().unwrap().len(), packed.size);
    assert_eq!(packed.digest, sha256(&bytes));
    assert_eq!(packed.tar_size, tar.len() as u64);
    assert_eq!(packed.diff_id, sha256(tar), "diff id");
    assert!(foreign(blob, compression) == tar, "content");
    assert_eq!(packed.map.tar_size(), packed.tar_size);
    assert_eq!(packed.taken_bytes + packed.packed_bytes, packed.size);
    let last = packed.map.points.last().unwrap();
    assert_eq!(last.tar_offset, packed.tar_size - 1024);
    for point in &packed.map.points {
        assert!(packed.map.frames_before(point).is_some());
        assert_eq!(point.tar.hashed(), Some(point.tar_offset));
        assert_eq!(point.blob.hashed(), Some(point.blob_offset));
    }
    assert_eq!(FrameMap::decode(&packed.map.encode()).as_ref(), Ok(&packed.map));
}

fn sealed(packed: &Packed, blob: &File) -> Sealed {
    Sealed { file: Arc::new(blob.try_clone().unwrap()), map: Arc::new(packed.map.clone()) }
}

/// A layer, and what its entries and their bytes were.
type Base = (Model, Vec<(Entry, Vec<u8>)>);

/// About 12 MiB: directories, many small files, large ones of text and of noise.
fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut entries = vec![(dir("d"), Vec::new())];
        for (n, len) in [3 << 20, 600_000, 0, 1, 511, 512, 513, 524_287, 524_288, 2 << 20, (4 << 20) + 1]
            .into_iter()
            .chain((0..150).map(|n| n * 97))
            .enumerate()
        {
            entries.push((file(&format!("d/{n:04}"), len), data(len, n as u64)));
        }
        let mut model = Model::default();
        for (entry, data) in &entries {
            model.add(entry, data);
        }
        (model, entries)
    })
}

/// The base packed, once per compression.
fn base_sealed(compression: Compression) -> Sealed {
    static BASES: OnceLock<Vec<Sealed>> = OnceLock::new();
    let pack = |compression| {
        let (mut packer, blob) = packer(compression);
        for (entry, data) in &base().1 {
            packer.file(entry, data).unwrap();
        }
        sealed(&packer.finish().unwrap(), &blob)
    };
    let at = ALL.iter().position(|&other| other == compression).unwrap();
    BASES.get_or_init(|| ALL.map(pack).to_vec())[at].clone()
}

#[test]
fn an_empty_layer_is_the_well_known_one() {
    let (packer, blob) = packer(Compression::None);
    let packed = packer.finish().unwrap();
    check(&packed, &blob, &[0; 1024], Compression::None);
    assert_eq!(packed.diff_id[..4], [0x5f, 0x70, 0xbf, 0x18]);
    for compression in ALL {
        let blob = tempfile::tempfile().unwrap();
        let packed = Packer::create(blob.try_clone().unwrap(), &options(compression, 1)).unwrap().finish();
        check(&packed.unwrap(), &blob, &[0; 1024], compression);
    }
}

#[test]
fn blobs_are_what_the_entries_say_whatever_the_threads() {
    let (model, entries) = base();
    for compression in ALL {
        let mut digests = Vec::new();
        for threads in [1, 2, 7] {
            let blob = tempfile::tempfile().unwrap();
            let options = options(compression, threads);
            let mut packer = Packer::create(blob.try_clone().unwrap(), &options).unwrap();
            for ((entry, data), (_, extent)) in entries.iter().zip(&model.extents) {
                assert_eq!(packer.position(), extent.offset);
                assert_eq!(packer.file(entry, data).unwrap(), *extent);
            }
            let packed = packer.finish().unwrap();
            check(&packed, &blob, &model.ended(), compression);
            digests.push(packed.digest);
        }
        digests.dedup();
        assert_eq!(digests.len(), 1, "{compression:?}");
    }
}

#[test]
fn pigz_python_and_tar_agree_that_it_is_one_gzip_member() {
    let compression = Compression::Gzip { level: 6 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer.tar.gz");
    let blob = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut packer = Packer::create(blob, &options(compression, 2)).unwrap();
    for (entry, data) in &base().1 {
        packer.file(entry, data).unwrap();
    }
    packer.finish().unwrap();
    const ONE_MEMBER: &str = "
import sys, zlib
d = zlib.decompressobj(31)
b = open(sys.argv[1], 'rb').read()
assert b[:10] == bytes([31, 139, 8, 0, 0, 0, 0, 0, 0, 255])
d.decompress(b)
assert d.eof and not d.unused_data";
    for words in [&["pigz", "-t"][..], &["gzip", "-t"], &["python3", "-c", ONE_MEMBER], &["tar", "-tzf"]] {
        let output = Command::new(words[0]).args(&words[1..]).arg(&path).output();
        let output = match output {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("SKIPPED: no {} here", words[0]);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn any_range_can_be_read_back() {
    let tar = base().0.ended();
    for compression in ALL {
        let sealed = base_sealed(compression);
        for (at, len) in [(0, 1), (511, 513), (3_000_000, 3_000_000), (tar.len() - 10, 10), (0, tar.len())] {
            let mut found = vec![0; len];
            sealed.read_range(at as u64, &mut found).unwrap();
            assert!(found == tar[at..at + len], "{compression:?} {at}+{len}");
        }
        let beyond = sealed.read_range(tar.len() as u64 - 1, &mut [0; 2]).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn all_entries_taken_over_are_the_same_layer() {
    let (model, _) = base();
    for compression in ALL {
        let base = base_sealed(compression);
        let (mut packer, blob) = packer(compression);
        for (_, extent) in &model.extents {
            assert_eq!(packer.take(&base, *extent).unwrap(), *extent);
        }
        let packed = packer.finish().unwrap();
        check(&packed, &blob, &model.ended(), compression);
        let frames = &packed.map.frames;
        assert_eq!(frames[..frames.len() - 1], base.map.frames[..frames.len() - 1]);
        assert!(packed.packed_bytes <= 1024, "{}", packed.packed_bytes);
    }
}

#[test]
fn large_files_move_with_their_frames() {
    let (model, entries) = base();
    for compression in ALL {
        let base = base_sealed(compression);
        let (mut packer, blob) = packer(compression);
        let mut expected = Model::default();
        for n in [11, 1, 2] {
            let entry = Entry { path: format!("moved/{n}").into_bytes(), ..entries[n].0.clone() };
            let extent = packer.take_data(&entry, &base, model.extents[n].1).unwrap();
            assert_eq!(extent, expected.add(&entry, &entries[n].1));
        }
        let packed = packer.finish().unwrap();
        check(&packed, &blob, &expected.ended(), compression);
        assert!(packed.packed_bytes < 8 << 10, "{compression:?}: {} packed", packed.packed_bytes);
    }
}

#[test]
fn frames_of_another_format_are_packed_again() {
    let (model, _) = base();
    for (from, to) in [(ALL[0], ALL[2]), (ALL[2], ALL[0]), (ALL[1], ALL[2]), (ALL[2], ALL[1])] {
        let (mut packer, blob) = packer(to);
        let all = extent(0, 512, model.tar.len());
        packer.take(&base_sealed(from), all).unwrap();
        let packed = packer.finish().unwrap();
        check(&packed, &blob, &model.ended(), to);
        assert_eq!(packed.taken_bytes, 0);
    }
}

#[test]
fn packing_resumes_at_every_point() {
    let (model, entries) = base();
    let tail = (file("tail", 700_000), data(700_000, 1));
    for compression in ALL {
        let base = base_sealed(compression);
        assert!(base.map.points.len() > 1, "the base has points in the middle");
        for point in &base.map.points {
            let blob = tempfile::tempfile().unwrap();
            let options = options(compression, 2);
            let mut packer = Packer::resume(blob.try_clone().unwrap(), &options, &base, point).unwrap();
            assert_eq!(packer.position(), point.tar_offset);
            let mut expected = model.clone();
            if point.tar_offset < model.tar.len() as u64 {
                // The point lies within a file: its rest, and the other entries, are taken over.
                let rest = model.tar.len() as u64 - point.tar_offset;
                packer.take(&base, Extent { offset: point.tar_offset, header: 0, len: rest }).unwrap();
            }
            expected.add(&tail.0, &tail.1);
            packer.file(&tail.0, &tail.1).unwrap();
            let packed = packer.finish().unwrap();
            check(&packed, &blob, &expected.ended(), compression);
            assert!(packed.taken_bytes >= point.blob_offset);
        }
        let blob = tempfile::tempfile().unwrap();
        let options = options(compression, 2);
        let last = base.map.points.last().unwrap();
        let packer = Packer::resume(blob.try_clone().unwrap(), &options, &base, last).unwrap();
        assert_eq!(packer.finish().unwrap().map, *base.map, "nothing was added: the same layer");
        let resumed = base.map.points[0];
        let wrong = HashPoint { blob_offset: resumed.blob_offset + 1, ..resumed };
        let blob = tempfile::tempfile().unwrap();
        let refused = Packer::resume(blob, &options, &base, &wrong);
        assert!(matches!(refused, Err(PackError::Point(_))));
    }
    assert_eq!(entries.len(), model.extents.len());
}

#[test]
fn wrong_extents_and_lengths_are_refused_and_change_nothing() {
    let (model, entries) = base();
    let base = base_sealed(ALL[2]);
    let (mut packer, blob) = packer(ALL[2]);
    let end = model.ended().len();
    for wrong in
        [extent(0, 512, end + 512), extent(1, 512, 512), extent(0, 512, 511), extent(usize::MAX, 0, 512)]
    {
        assert!(matches!(packer.take(&base, wrong), Err(PackError::Extent(_))), "{wrong:?}");
        assert!(matches!(packer.take_data(&entries[1].0, &base, wrong), Err(PackError::Extent(_))));
    }
    assert!(matches!(packer.entry(&file("f", 1)), Err(PackError::Length { .. })));
    assert!(matches!(packer.file(&file("f", 1), &[0; 2]), Err(PackError::Length { .. })));
    let mut odd = file("f", 0);
    odd.meta.xattrs = vec![(b"user.=".to_vec(), Vec::new())];
    assert!(matches!(packer.entry(&odd), Err(PackError::Unrepresentable { .. })));
    assert_eq!(packer.position(), 0);
    check(&packer.finish().unwrap(), &blob, &[0; 1024], ALL[2]);
}

#[test]
fn a_blob_that_is_not_what_its_map_says_is_an_error() {
    let base = base_sealed(ALL[2]);
    let broken = Sealed { file: Arc::new(tempfile::tempfile().unwrap()), map: base.map };
    let (mut packer, _blob) = packer(ALL[2]);
    packer.take(&broken, extent(0, 512, base_len())).unwrap();
    assert!(matches!(packer.finish(), Err(PackError::Take { .. })));
}

/// Takes each file's data under a header of its own: parts of frames.
fn in_parts(from: &Sealed, compression: Compression) -> Result<Packed, PackError> {
    let (model, entries) = base();
    let (mut packer, _blob) = packer(compression);
    for ((entry, _), (_, extent)) in entries.iter().zip(&model.extents) {
        if matches!(entry.kind, Kind::File { size } if size > 0) {
            packer.take_data(entry, from, *extent)?;
        }
    }
    packer.finish()
}

#[test]
fn a_flipped_byte_in_what_is_taken_over_is_an_error_and_never_a_layer() {
    use std::os::unix::fs::FileExt as _;
    let (model, _) = base();
    for compression in ALL {
        let good = base_sealed(compression);
        let expected = in_parts(&good, compression).unwrap().diff_id;
        let mut bytes = vec![0; usize::try_from(good.file.metadata().unwrap().len()).unwrap()];
        good.file.read_exact_at(&mut bytes, 0).unwrap();
        for frame in &good.map.frames[..good.map.frames.len() - 1] {
            let at = frame.blob_offset + u64::from(frame.blob_len) * 2 / 3;
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            file.write_all_at(&[bytes[usize::try_from(at).unwrap()] ^ 0x20], at).unwrap();
            let broken = Sealed { file: Arc::new(file), map: Arc::clone(&good.map) };
            let (mut whole, _blob) = packer(compression);
            let taken = whole.take(&broken, extent(0, 512, model.tar.len()));
            let Err(PackError::Take { offset, .. }) = taken.and_then(|_| whole.finish()) else {
                panic!("{compression:?}: a layer with the byte at {at} flipped")
            };
            assert_eq!(offset, frame.blob_offset);
            match in_parts(&broken, compression) {
                Err(PackError::Take { .. }) => {}
                // a frame of headers alone is not read
                Ok(packed) => assert_eq!(packed.diff_id, expected, "{compression:?} {at}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn base_len() -> usize {
    base().0.tar.len()
}

#[test]
fn a_full_disk_is_an_error_at_the_next_call_and_dropping_ends_all_threads() {
    for compression in ALL {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut packer = match Packer::create(full, &options(compression, 2)) {
            Ok(packer) => packer,
            Err(PackError::Write(_)) => continue, // gzip has its header to write
            Err(error) => panic!("{error}"),
        };
        let noise = noise(1 << 20, 9);
        let error = (0..10_000).find_map(|_| packer.file(&file("f", 1 << 20), &noise).err()).unwrap();
        let PackError::Write(source) = error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert!(matches!(packer.entry(&dir("d")), Err(PackError::Stopped)));
        assert!(matches!(packer.finish(), Err(PackError::Stopped)));
    }
    let (mut packer, _blob) = packer(ALL[2]);
    packer.file(&file("f", 9 << 20), &data(9 << 20, 1)).unwrap();
    drop(packer);
}

#[test]
fn a_point_that_a_frame_has_set_at_the_very_end_stands_alone() {
    for compression in ALL {
        let (mut packer, blob) = packer(compression);
        let (entry, content) = (file("f", 8 << 20), data(8 << 20, 1));
        let mut model = Model::default();
        assert_eq!(packer.file(&entry, &content).unwrap(), model.add(&entry, &content));
        let packed = packer.finish().unwrap();
        check(&packed, &blob, &model.ended(), compression);
        assert_eq!(packed.map.points.len(), 1);
    }
}

#[test]
fn frame_maps_with_any_bit_changed_are_refused() {
    let bytes = base_sealed(ALL[1]).map.encode();
    for at in (0..bytes.len()).step_by(7) {
        for bit in [0, 5] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << bit;
            assert!(FrameMap::decode(&wrong).is_err(), "byte {at}");
        }
    }
    for len in (0..bytes.len()).step_by(13) {
        assert!(FrameMap::decode(&bytes[..len]).is_err(), "{len} bytes");
    }
}
