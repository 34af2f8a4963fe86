//! The names that the layer in hand has made, so that its whiteouts spare them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// A set of (directory, name) in 16 bytes per member: two 64-bit hashes under keys that the archive's
/// author cannot know. Among a million names two are confused with a chance of 2^-89.
#[derive(Debug, Default)]
pub(super) struct Seen {
    keys: (RandomState, RandomState),
    names: HashSet<(u64, u64)>,
}

impl Seen {
    pub(super) fn clear(&mut self) {
        self.names.clear();
    }

    /// Remembers `name` in the directory with the inode number `parent`.
    pub(super) fn insert(&mut self, parent: u64, name: &[u8]) {
        self.names.insert(self.hash(parent, name));
    }

    pub(super) fn contains(&self, parent: u64, name: &[u8]) -> bool {
        self.names.contains(&self.hash(parent, name))
    }

    fn hash(&self, parent: u64, name: &[u8]) -> (u64, u64) {
        (self.keys.0.hash_one((parent, name)), self.keys.1.hash_one((parent, name)))
    }
}
