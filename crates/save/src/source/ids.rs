//! From the ids on disk to the ids of an image (commit-semantics 4.7).
//!
//! A container in a user namespace sees id `c` where the disk has `h = c - container + host`. What its
//! image must say is `c`. Whether the disk has `h` or `c` depends on how the layers were mounted, and
//! upper and lowers may differ: see [`detect`] for what counts as proof.

use layer::ids::IdMap;
use linux::process::IdRange;

use super::error::SourceError;
use super::proof::Sample;

/// The map that undoes these ranges. A kind of id without ranges, or whose ranges map every id to itself, is
/// the identity.
///
/// # Errors
/// [`SourceError::IdRange`] for ranges that overlap or leave the range of ids.
pub(super) fn undo(uids: &[IdRange], gids: &[IdRange]) -> Result<IdMap, SourceError> {
    Ok(IdMap { uids: checked(uids)?, gids: checked(gids)? })
}

fn checked(ranges: &[IdRange]) -> Result<Vec<IdRange>, SourceError> {
    for (index, range) in ranges.iter().enumerate() {
        let end = |first: u32| u64::from(first) + u64::from(range.size);
        let in_range = end(range.container).max(end(range.host)) <= u64::from(u32::MAX) + 1;
        let overlaps = |a: u32, a_size: u32, b: u32, b_size: u32| {
            u64::from(a) < u64::from(b) + u64::from(b_size) && u64::from(b) < u64::from(a) + u64::from(a_size)
        };
        let twice = ranges[..index].iter().any(|other| {
            overlaps(range.host, range.size, other.host, other.size)
                || overlaps(range.container, range.size, other.container, other.size)
        });
        if !in_range || twice || range.size == 0 {
            let IdRange { container, host, size } = *range;
            return Err(SourceError::IdRange { container, host, size });
        }
    }
    // An identical map of part of the ids is still a map: ids outside of it do not exist inside.
    let whole = |range: &IdRange| range.container == 0 && range.host == 0 && range.size >= u32::MAX - 1;
    Ok(if ranges.iter().any(whole) { Vec::new() } else { ranges.to_vec() })
}

/// The maps of an overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Maps {
    pub(super) upper: IdMap,
    pub(super) lower: IdMap,
    /// The container has a map of its own, and nothing showed how it lies over the layers.
    pub(super) unproven: bool,
}

/// What the samples of a live mount show: each has the owner on disk and the owner that the mount shows
/// to us, outside of the container's user namespace.
///
/// The rule, with `map` the container's own:
/// * a lower shown with other owners than on disk, each being `map`'s image of the one on disk, is
///   idmapped: it holds ids of the image. Other owners without such a map are an error.
/// * otherwise the lowers hold ids of the host; if all sampled owners lie within `map`, and one of them is
///   not its own image, they were shifted when they were unpacked and are un-shifted.
/// * an upper shown as it is on disk holds ids of the host and is un-shifted exactly when the lowers are
///   idmapped or shifted; an upper that is shown otherwise is itself idmapped and holds ids of the image.
/// * all else is the identity, and `unproven` if there is a map that could have mattered.
///
/// # Errors
/// `Err(())` when owners differ and no map explains it.
pub(super) fn detect(map: &IdMap, upper: Owners, lowers: &[Sample]) -> Result<Maps, ()> {
    let idmapped = lowers.iter().any(|sample| !sample.owners.same());
    if idmapped {
        if map.is_identity() || !lowers.iter().all(|sample| sample.owners.explained_by(map)) {
            return Err(());
        }
        let ids = if upper.same() { map.clone() } else { IdMap::default() };
        return Ok(Maps { upper: ids, lower: IdMap::default(), unproven: false });
    }
    if map.is_identity() {
        return if upper.same() { Ok(Maps::default()) } else { Err(()) };
    }
    if !upper.same() {
        // The upper alone is idmapped, and the lowers show no owner that could tell.
        return if upper.explained_by(map) { Ok(Maps::default()) } else { Err(()) };
    }
    let inside = |owners: &Owners| map.uid(owners.disk.0).is_some() && map.gid(owners.disk.1).is_some();
    let shifted = |owners: &Owners| {
        map.uid(owners.disk.0) != Some(owners.disk.0) || map.gid(owners.disk.1) != Some(owners.disk.1)
    };
    let proven = !lowers.is_empty()
        && lowers.iter().all(|sample| inside(&sample.owners))
        && lowers.iter().any(|sample| shifted(&sample.owners));
    if proven {
        Ok(Maps { upper: map.clone(), lower: map.clone(), unproven: false })
    } else {
        Ok(Maps { unproven: true, ..Maps::default() })
    }
}

/// Owner and group of one inode, on disk and through the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owners {
    pub(super) disk: (u32, u32),
    pub(super) live: (u32, u32),
}

impl Owners {
    fn same(&self) -> bool {
        self.disk == self.live
    }

    fn explained_by(&self, map: &IdMap) -> bool {
        // An id that the map does not reach is shown as the overflow id.
        let one = |shown: u32, image: Option<u32>, disk: u32| image == Some(disk) || shown == OVERFLOW_ID;
        one(self.live.0, map.uid(self.live.0), self.disk.0)
            && one(self.live.1, map.gid(self.live.1), self.disk.1)
    }
}

/// What the kernel shows for an id without a name in the reader's namespace (`overflowuid`).
const OVERFLOW_ID: u32 = 65_534;

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: IdRange = IdRange { container: 0, host: 100_000, size: 65_536 };

    fn map() -> IdMap {
        undo(&[MAP], &[MAP]).unwrap()
    }

    fn owners(disk: u32, live: u32) -> Owners {
        Owners { disk: (disk, disk), live: (live, live) }
    }

    fn sample(disk: u32, live: u32) -> Sample {
        Sample { lower: 0, owners: owners(disk, live) }
    }

    #[test]
    fn ids_outside_the_map_do_not_exist() {
        assert_eq!(map().uid(100_000), Some(0));
        assert_eq!(map().gid(165_535), Some(65_535));
        assert_eq!(map().uid(165_536), None);
        assert_eq!(map().uid(0), None);
        assert_eq!(IdMap::default().uid(7), Some(7));
    }

    #[test]
    fn the_whole_map_is_the_identity() {
        let whole = IdRange { container: 0, host: 0, size: u32::MAX };
        assert!(undo(&[whole], &[whole]).unwrap().is_identity());
        assert!(!undo(&[IdRange { size: 1000, ..whole }], &[]).unwrap().is_identity());
    }

    #[test]
    fn absurd_ranges_are_refused() {
        for ranges in [
            vec![IdRange { container: 0, host: u32::MAX, size: 2 }],
            vec![IdRange { container: u32::MAX, host: 0, size: 2 }],
            vec![IdRange { container: 0, host: 0, size: 0 }],
            vec![MAP, IdRange { container: 70_000, ..MAP }],
            vec![MAP, IdRange { host: 500_000, ..MAP }],
        ] {
            assert!(matches!(undo(&ranges, &[]), Err(SourceError::IdRange { .. })), "{ranges:?}");
        }
    }

    #[test]
    fn idmapped_lowers_leave_the_upper_shifted() {
        let maps = detect(&map(), owners(100_000, 100_000), &[sample(0, 100_000)]).unwrap();
        assert_eq!(maps, Maps { upper: map(), lower: IdMap::default(), unproven: false });
        let maps = detect(&map(), owners(0, 100_000), &[sample(0, 100_000)]).unwrap();
        assert_eq!(maps, Maps::default());
        assert!(detect(&map(), owners(0, 0), &[sample(0, 7)]).is_err());
        assert!(detect(&IdMap::default(), owners(0, 0), &[sample(0, 100_000)]).is_err());
    }

    #[test]
    fn chowned_lowers_are_unshifted_with_the_upper() {
        let maps = detect(&map(), owners(100_000, 100_000), &[sample(100_000, 100_000)]).unwrap();
        assert_eq!(maps, Maps { upper: map(), lower: map(), unproven: false });
    }

    #[test]
    fn without_proof_ids_stay() {
        assert_eq!(detect(&map(), owners(0, 0), &[]).unwrap(), Maps { unproven: true, ..Maps::default() });
        assert_eq!(
            detect(&map(), owners(0, 0), &[sample(0, 0), sample(100_000, 100_000)]).unwrap(),
            Maps { unproven: true, ..Maps::default() }
        );
        assert_eq!(detect(&IdMap::default(), owners(5, 5), &[sample(0, 0)]).unwrap(), Maps::default());
    }
}
