use super::*;

const ALL: [Compression; 6] = [
    Compression::None,
    Compression::Gzip { level: 0 },
    Compression::Gzip { level: 1 },
    Compression::Gzip { level: 6 },
    Compression::Zstd { level: 1 },
    Compression::Zstd { level: 9 },
];

/// Bytes without any pattern, the same every time.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn encode(encoder: &mut Encoder, raw: &[u8]) -> (Vec<u8>, bool) {
    let mut out = vec![0xaa; encoder.compression.bound(raw.len())];
    match encoder.encode(raw, &mut out).unwrap() {
        Encoded::Coded(len) => (out[..len].to_vec(), false),
        Encoded::Stored(stored) => (stored.pieces(raw).collect::<Vec<_>>().concat(), true),
    }
}

#[test]
fn frames_come_back_alone() {
    let text = b"the same words again and again; ".repeat(70_000);
    let inputs = [
        &text[..1],
        &text[..512],
        &text,
        &noise(1, 1),
        &noise(70_000, 2),
        &noise(2_200_000, 3),
        &[0; 1 << 20],
    ];
    for compression in ALL {
        let (mut encoder, mut decoder) = (Encoder::new(compression).unwrap(), Decoder::new().unwrap());
        for raw in inputs {
            let (coded, _) = encode(&mut encoder, raw);
            let mut back = vec![0; raw.len()];
            decoder.decode(compression, &coded, &mut back).unwrap();
            assert!(back == raw, "{compression:?} {}", raw.len());
            if raw.len() > 1 {
                back.pop();
                assert!(decoder.decode(compression, &coded, &mut back).is_err(), "{compression:?} too long");
                back.extend([0, 0]);
                assert!(decoder.decode(compression, &coded, &mut back).is_err(), "{compression:?} too short");
            }
        }
    }
}

#[test]
fn noise_is_stored_and_text_among_it_is_not() {
    for compression in [Compression::Gzip { level: 6 }, Compression::Zstd { level: 1 }] {
        let mut encoder = Encoder::new(compression).unwrap();
        let mut raw = noise(2 << 20, 4);
        let (coded, stored) = encode(&mut encoder, &raw);
        assert!(stored && coded.len() < raw.len() + 2000, "{}", coded.len());
        raw[1_000_000..1_200_000].fill(b' ');
        let (coded, stored) = encode(&mut encoder, &raw);
        assert!(!stored && coded.len() < raw.len() - 190_000, "{}", coded.len());
    }
}

#[test]
fn broken_frames_are_errors() {
    let raw = b"some text that is long enough to compress ".repeat(1000);
    for compression in [Compression::Gzip { level: 6 }, Compression::Zstd { level: 1 }] {
        let (coded, _) = encode(&mut Encoder::new(compression).unwrap(), &raw);
        let mut decoder = Decoder::new().unwrap();
        let mut out = vec![0; raw.len()];
        for cut in [0, 1, coded.len() / 2] {
            assert!(decoder.decode(compression, &coded[..cut], &mut out).is_err(), "{compression:?} {cut}");
        }
        decoder.decode(compression, &coded, &mut out).unwrap();
    }
}
