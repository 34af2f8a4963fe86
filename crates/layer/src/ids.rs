//! From the ids on disk to the ids that an image means.
//!
//! With an idmapped overlay new files carry the host's ids, image layers the image's; packing un-maps
//! (commit-semantics 4.7). An id outside of the map is an error: guessing would hand a file to a
//! stranger.

pub use linux::process::IdRange;

/// The map for users and the one for groups. Empty: ids on disk are the image's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// The image's user for one on disk; `None` outside of the map.
    #[must_use]
    pub fn uid(&self, host: u32) -> Option<u32> {
        to_image(&self.uids, host)
    }

    /// The image's group for one on disk; `None` outside of the map.
    #[must_use]
    pub fn gid(&self, host: u32) -> Option<u32> {
        to_image(&self.gids, host)
    }

    /// Whether ids stay as they are.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }
}

fn to_image(ranges: &[IdRange], host: u32) -> Option<u32> {
    if ranges.is_empty() {
        return Some(host);
    }
    let range = ranges.iter().find(|range| host >= range.host && host - range.host < range.size)?;
    range.container.checked_add(host - range.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unmapped_or_refused() {
        let map = IdMap {
            uids: vec![
                IdRange { container: 0, host: 100_000, size: 1000 },
                IdRange { container: 5000, host: 7, size: 1 },
            ],
            gids: vec![],
        };
        assert_eq!(map.uid(100_999), Some(999));
        assert_eq!(map.uid(101_000), None);
        assert_eq!(map.uid(7), Some(5000));
        assert_eq!(map.uid(0), None);
        assert_eq!(map.gid(4_000_000_000), Some(4_000_000_000));
        let overflow = IdMap { uids: vec![IdRange { container: u32::MAX, host: 0, size: 10 }], gids: vec![] };
        assert_eq!(overflow.uid(1), None);
    }
}
