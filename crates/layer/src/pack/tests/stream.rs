//! Streams with torn files, and everything mixed, against the plain model.

use super::*;

/// Streams `data` in reads of `chunk` bytes, up to `until`.
fn fill(file: &mut FileWriter<'_>, data: &[u8], chunk: usize, until: usize) {
    let mut source = &data[..until.min(data.len())];
    while !source.is_empty() {
        let mut read = |to: &mut [u8]| {
            let len = chunk.min(to.len());
            source.read(&mut to[..len])
        };
        assert!(file.fill(&mut read).unwrap() > 0);
    }
}

#[test]
fn a_file_torn_anywhere_leaves_no_trace() {
    let (model, entries) = base();
    for compression in ALL {
        for size in [0, 1000, 524_287, 524_288, 5_000_000] {
            let torn = data(size, 1);
            let (mut packer, blob) = packer(compression);
            for (n, (entry, data)) in entries.iter().enumerate() {
                if n % 9 == 3 {
                    let mut file = packer.begin(&file("torn", size)).unwrap();
                    fill(&mut file, &torn, 1 << 20, size * (n / 9) / (entries.len() / 9));
                    if n % 2 == 0 { file.abort() } else { drop(file) }
                }
                packer.file(entry, data).unwrap();
            }
            let mut last = packer.begin(&file("torn", 9_000_000)).unwrap();
            last.zeros(8_999_999).unwrap();
            assert!(matches!(last.commit(), Err(PackError::Length { found: 8_999_999, .. })));
            let packed = packer.finish().unwrap();
            check(&packed, &blob, &model.ended(), compression);
            assert_eq!(packed.map, *base_sealed(compression).map, "the same blob, byte for byte");
        }
    }
}

#[test]
fn torn_files_of_a_failed_read_can_be_packed_again() {
    let (mut packer, blob) = packer(ALL[2]);
    let content = data(3_000_000, 1);
    let mut torn = packer.begin(&file("f", content.len())).unwrap();
    fill(&mut torn, &content, 100_000, 2_500_000);
    let error = torn.fill(&mut |_| Err(io::ErrorKind::PermissionDenied.into())).unwrap_err();
    assert!(matches!(error, PackError::Read(_)));
    drop(torn);
    let mut model = Model::default();
    let whole = file("f", content.len());
    let mut again = packer.begin(&whole).unwrap();
    fill(&mut again, &content, 1 << 20, content.len());
    assert_eq!(again.missing(), 0);
    assert_eq!(again.fill(&mut |_| panic!("nothing is missing")).unwrap(), 0);
    assert_eq!(again.commit().unwrap(), model.add(&whole, &content));
    check(&packer.finish().unwrap(), &blob, &model.ended(), ALL[2]);
}

#[derive(Debug, Clone)]
enum Op {
    Dir,
    File(usize),
    Stream { size: usize, chunk: usize, hole: usize },
    Torn { size: usize, until: usize },
    Take { first: usize, count: usize },
    TakeData(usize),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..2000_usize, 2 => 0..524_288_usize, 1 => 524_288..5_000_000_usize]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Dir),
        4 => size().prop_map(Op::File),
        2 => (size(), 1..3_000_000_usize, 0..3_000_000_usize)
            .prop_map(|(size, chunk, hole)| Op::Stream { size, chunk: chunk.max(size / 50), hole }),
        2 => (size(), any::<usize>()).prop_map(|(size, n)| Op::Torn { size, until: n % (size + 1) }),
        3 => (0..161_usize, 1..40_usize).prop_map(|(first, count)| Op::Take { first, count }),
        1 => (1..161_usize).prop_map(Op::TakeData),
    ]
}

fn play(ops: &[Op], compression: Compression, threads: usize) -> [u8; 32] {
    let (base_model, base_entries) = base();
    let base = base_sealed(compression);
    let blob = tempfile::tempfile().unwrap();
    let mut packer = Packer::create(blob.try_clone().unwrap(), &options(compression, threads)).unwrap();
    let mut model = Model::default();
    for (n, op) in ops.iter().enumerate() {
        let name = format!("{n}");
        match *op {
            Op::Dir => assert_eq!(packer.entry(&dir(&name)).unwrap(), model.add(&dir(&name), &[])),
            Op::File(size) => {
                let (entry, data) = (file(&name, size), data(size, n as u64));
                assert_eq!(packer.file(&entry, &data).unwrap(), model.add(&entry, &data));
            }
            Op::Stream { size, chunk, hole } => {
                let (entry, mut data) = (file(&name, size), data(size, n as u64));
                let hole = hole.min(size);
                data[size - hole..].fill(0);
                let mut file = packer.begin(&entry).unwrap();
                fill(&mut file, &data, chunk, size - hole);
                file.zeros(hole as u64).unwrap();
                assert_eq!(file.commit().unwrap(), model.add(&entry, &data));
            }
            Op::Torn { size, until } => {
                let mut torn = packer.begin(&file(&name, size)).unwrap();
                fill(&mut torn, &data(size, n as u64), 1 << 20, until);
            }
            Op::Take { first, count } => {
                for (index, (entry, extent)) in base_model.extents.iter().enumerate().skip(first).take(count)
                {
                    let taken = packer.take(&base, *extent).unwrap();
                    assert_eq!(taken, model.add(entry, &base_entries[index].1));
                }
            }
            Op::TakeData(index) => {
                let (old, data) = &base_entries[index];
                let entry = Entry { path: name.into_bytes(), ..old.clone() };
                let taken = packer.take_data(&entry, &base, base_model.extents[index].1).unwrap();
                assert_eq!(taken, model.add(&entry, data));
            }
        }
        assert_eq!(packer.position(), model.tar.len() as u64);
    }
    let packed = packer.finish().unwrap();
    check(&packed, &blob, &model.ended(), compression);
    packed.digest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_sequence_is_the_tar_of_the_model(ops in proptest::collection::vec(op(), 0..25), which in 0..3_usize) {
        prop_assert_eq!(play(&ops, ALL[which], 1), play(&ops, ALL[which], 3));
    }
}
