use proptest::prelude::*;

use super::*;
use crate::entry::{Entry, Kind, Meta};
use crate::pack::{PackOptions, Packed, Packer};

const OPTIONS: PackOptions = PackOptions { compression: Compression::None, threads: 1 };

/// A layer of one file of 9 MiB of zeros and three bytes, whose map is tests/golden/frame-map-v2.
fn layer() -> (File, Packed) {
    let blob = tempfile::tempfile().unwrap();
    let mut packer = Packer::create(blob.try_clone().unwrap(), &OPTIONS).unwrap();
    let size = (9 << 20) + 3;
    let entry = Entry { path: b"zeros".to_vec(), kind: Kind::File { size }, meta: Meta::default() };
    let mut file = packer.begin(&entry).unwrap();
    file.zeros(size).unwrap();
    file.commit().unwrap();
    (blob, packer.finish().unwrap())
}

const GOLDEN: &[u8] = include_bytes!("../../tests/golden/frame-map-v2");

#[test]
fn maps_of_version_2_are_read_and_resumed() {
    let map = FrameMap::decode(GOLDEN).unwrap();
    let (blob, packed) = layer();
    assert_eq!(map, packed.map);
    assert_eq!(map.encode(), GOLDEN);
    let sealed = Sealed { file: Arc::new(blob), map: Arc::new(map) };
    for point in &sealed.map.points {
        let mut packer = Packer::resume(tempfile::tempfile().unwrap(), &OPTIONS, &sealed, point).unwrap();
        let rest = (10 << 20) - point.tar_offset; // more than there is
        let extent = crate::pack::Extent { offset: point.tar_offset, header: 0, len: rest };
        assert!(packer.take(&sealed, extent).is_err());
        let len = packed.tar_size - 1024 - point.tar_offset;
        packer.take(&sealed, crate::pack::Extent { len, ..extent }).unwrap();
        assert_eq!(packer.finish().unwrap().diff_id, packed.diff_id);
    }
}

#[test]
fn maps_of_version_1_had_no_checks_and_count_as_none() {
    let old = include_bytes!("../../tests/golden/frame-map-v1");
    assert_eq!(FrameMap::decode(old), Err(Corruption::Version(1)));
}

#[test]
fn each_lie_has_its_name() {
    let changed = |at: usize, value: u8| {
        let mut bytes = GOLDEN.to_vec();
        bytes[at] = value;
        let end = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        FrameMap::decode(&bytes).unwrap_err()
    };
    let frames = FrameMap::decode(GOLDEN).unwrap().frames.len();
    let points = 24 + 12 * frames;
    assert_eq!(changed(0, b'X'), Corruption::Magic);
    assert_eq!(changed(8, 3), Corruption::Version(3));
    assert_eq!(changed(10, 7), Corruption::Compression(7));
    assert_eq!(changed(12, 1), Corruption::Compression(0));
    assert_eq!(changed(16, 200), Corruption::Length(GOLDEN.len()));
    assert_eq!(changed(24 + 3, 255), Corruption::Frame(0));
    assert_eq!(changed(points, 1), Corruption::Point(0));
    assert_eq!(changed(points + 20 + 40, 64), Corruption::Point(0));
    assert_eq!(FrameMap::decode(&GOLDEN[..GOLDEN.len() - 1]), Err(Corruption::Length(GOLDEN.len() - 1)));
    assert_eq!(FrameMap::decode(b""), Err(Corruption::Magic));
    let mut bytes = GOLDEN.to_vec();
    bytes[30] ^= 1;
    assert_eq!(FrameMap::decode(&bytes), Err(Corruption::Checksum));
}

proptest! {
    /// Whatever is decoded despite of changes keeps the promises that packing relies on.
    #[test]
    fn decoded_maps_are_consistent(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = GOLDEN.to_vec();
        let end = bytes.len() - 4;
        for (at, value) in changes {
            bytes[at.index(end)] = value;
        }
        let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        if let Ok(map) = FrameMap::decode(&bytes) {
            let mut at = (0, 0);
            for frame in &map.frames {
                prop_assert_eq!((frame.tar_offset, frame.blob_offset), at);
                at = (frame.tar_end(), frame.blob_end());
            }
            for point in &map.points {
                prop_assert!(map.frames_before(point).is_some());
                prop_assert_eq!(point.tar.hashed(), Some(point.tar_offset));
            }
        }
    }
}
