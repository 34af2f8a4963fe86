//! Giving and taking names.

use super::{Collected, Store, layout};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// What [`Store::remove`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names that are gone, whole.
    pub untagged: Vec<String>,
    /// The image that is gone with its last name.
    pub image: Option<Digest>,
    /// The blobs that went with it.
    pub collected: Collected,
}

impl Store {
    /// Gives the image that `source` means another name; who had it loses it.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`]; [`Error::Name`] for a name with a digest.
    pub fn tag(&self, source: &str, name: &Reference) -> Result<()> {
        name.check_taggable()?;
        let _lock = self.lock()?;
        let mut index = self.index()?.unwrap_or_default();
        let target = index.manifests[self.entry(&index, source)?].clone();
        layout::point(&mut index, Some(name), &target);
        self.replace_index(&index, None)
    }

    /// Removes a name; with an image's last name, the image and what only it needed. An id removes the
    /// image and its name, if it has one; several only with `force`.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`]; [`Error::InUse`] for an id with several names. When another image's
    /// manifest cannot be read, the name is gone but no blob was removed, and that error is returned.
    pub fn remove(&self, text: &str, force: bool) -> Result<Removed> {
        let _lock = self.lock()?;
        let mut index = self.index()?.unwrap_or_default();
        let at = self.entry(&index, text)?;
        let digest = index.manifests[at].digest;
        let by_name = layout::raw_name(&index.manifests[at]).is_some_and(|raw| {
            raw == text
                || text.parse::<Reference>().is_ok_and(|name| layout::is_named(&index.manifests[at], &name))
        });
        let same =
            |index: &crate::document::Index| index.manifests.iter().filter(|e| e.digest == digest).count();
        let mut removed = Removed::default();
        if by_name {
            removed.untagged.extend(layout::raw_name(&index.manifests[at]).map(str::to_owned));
            index.manifests.remove(at);
        } else {
            let names: Vec<String> = index
                .manifests
                .iter()
                .filter(|e| e.digest == digest)
                .filter_map(layout::raw_name)
                .map(str::to_owned)
                .collect();
            if names.len() > 1 && !force {
                return Err(Error::InUse { name: text.to_owned(), count: names.len() });
            }
            removed.untagged = names;
            index.manifests.retain(|e| e.digest != digest);
        }
        let last = same(&index) == 0;
        // Only this image's own blobs are looked at: others that nothing refers to may be on their way
        // in by a tool that does not know our lock.
        let candidates = if last { self.reachable(&digest) } else { Vec::new() };
        self.replace_index(&index, None)?;
        if last {
            removed.image = Some(digest);
            removed.collected = self.collect(&index, candidates)?;
        }
        Ok(removed)
    }
}
