//! What own layers hold that does not show any more, counted from their archives alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use anyhow::{Result, ensure};
use layer::codec::read::Pipeline;
use layer::entry::{Kind, PathBytes};
use layer::tar::read::{EndMarker, Reader};

/// Files and bytes of the layers, bottom first, that a layer above replaces or removes. A further name of a
/// file has no bytes of its own. Two members of one path in a layer are an error (image-spec, layer.md).
pub(crate) fn count(layers: impl IntoIterator<Item = File>) -> Result<(u64, u64)> {
    let mut shown: BTreeMap<PathBytes, Option<u64>> = BTreeMap::new();
    let mut all = (0, 0);
    for layer in layers {
        let mut made: BTreeMap<PathBytes, Option<u64>> = BTreeMap::new();
        let mut markers = BTreeSet::new();
        std::thread::scope(|scope| {
            let mut archive = Reader::new(Pipeline::spawn(scope, layer, None)?, EndMarker::Required);
            while let Some(member) = archive.next_member()? {
                let path = member.entry.path;
                let bytes = match member.entry.kind {
                    Kind::Whiteout => {
                        ensure!(markers.insert((path.clone(), 'w')), "two whiteouts of {path:?}");
                        shown.remove(&path);
                        remove_below(&mut shown, &path);
                        continue;
                    }
                    Kind::Opaque => {
                        ensure!(markers.insert((path.clone(), 'o')), "two opaque markers in {path:?}");
                        remove_below(&mut shown, &path);
                        continue;
                    }
                    Kind::Dir => None,
                    Kind::File { size } => Some(size),
                    Kind::Hardlink { .. } => Some(0),
                    _ => None,
                };
                if member.entry.kind != Kind::Dir {
                    remove_below(&mut shown, &path);
                }
                shown.remove(&path);
                if let Some(bytes) = bytes {
                    all = (all.0 + 1, all.1 + bytes);
                }
                ensure!(made.insert(path.clone(), bytes).is_none(), "two members {path:?} in one layer");
            }
            Ok(())
        })?;
        shown.extend(made);
    }
    let files = shown.values().flatten();
    Ok((all.0 - files.clone().count() as u64, all.1 - files.sum::<u64>()))
}

fn remove_below(shown: &mut BTreeMap<PathBytes, Option<u64>>, path: &[u8]) {
    // '0' follows '/'
    let (first, end) = ([path, b"/"].concat(), [path, b"0"].concat());
    let below: Vec<PathBytes> = shown.range(first..end).map(|(path, _)| path.clone()).collect();
    for path in below {
        shown.remove(&path);
    }
}
