//! Input that is the same at every run: random bytes, and text that compresses as sources do.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::report::Base;

/// A generator of numbers (SplitMix64): small, seeded, and as good as needed here.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end.max(1) as u64).unwrap_or(0)
    }

    /// Fills `bytes`; what comes out does not compress.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.number().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Writes a file of `len` random bytes.
pub fn random_file(path: &Path, len: u64, random: &mut Random) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let part = &mut buffer[..usize::try_from(left.min(1 << 20)).unwrap_or(0)];
        random.fill(part);
        file.write_all(part).with_context(|| format!("write {}", path.display()))?;
        left -= part.len() as u64;
    }
    Ok(())
}

/// How a tree of [`tree`] looks.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Regular files.
    pub files: u64,
    /// Directories that hold them.
    pub dirs: u64,
    /// Bytes of all files together, about.
    pub bytes: u64,
    /// Text that looks like sources, else random bytes.
    pub is_source: bool,
    /// Times in whole seconds, as in what was unpacked from a layer; else as they were written.
    pub settled: bool,
}

/// Makes a tree below `root`: directories three deep, sizes spread as those of real trees (many small files,
/// few large).
pub fn tree(root: &Path, shape: Shape, seed: u64) -> Result<Base> {
    let mut random = Random::new(seed);
    let words = Words::new(&mut random);
    let dir_of =
        |number: u64| root.join(format!("d{:02}/e{:02}/f{number:05}", number % 17, number / 17 % 19));
    let mut entries = 1;
    for number in 0..shape.dirs {
        let dir = dir_of(number);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        entries += 1;
    }
    entries += 17.min(shape.dirs) + (17 * 19).min(shape.dirs);
    let mean = shape.bytes / shape.files.max(1);
    let (mut bytes, mut data) = (0, Vec::new());
    for number in 0..shape.files {
        let dir = dir_of(number % shape.dirs.max(1));
        let path = dir.join(format!("file{number:06}.{}", if shape.is_source { "rs" } else { "bin" }));
        // the mean of these factors is 1
        let part = match random.below(100) {
            0..50 => 20,
            50..80 => 80,
            80..95 => 200,
            95..99 => 500,
            _ => 1600,
        };
        let len = mean * part / 100 + u64::from(mean > 0) * (random.number() % 64);
        data.clear();
        if shape.is_source {
            words.source(&mut data, usize::try_from(len).unwrap_or(0), &mut random);
        } else {
            data.resize(usize::try_from(len).unwrap_or(0), 0);
            random.fill(&mut data);
        }
        fs::write(&path, &data).with_context(|| format!("write {}", path.display()))?;
        bytes += data.len() as u64;
        entries += 1;
        if shape.settled {
            settle(&path)?;
        }
    }
    if shape.settled {
        settle_dirs(root)?;
    }
    Ok(Base { files: shape.files, entries, bytes })
}

/// Counts what is below `root`.
pub fn count(root: &Path) -> Result<Base> {
    let mut base = Base { files: 0, entries: 1, bytes: 0 };
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        let path = entry.with_context(|| format!("list {}", root.display()))?.path();
        let metadata = path.symlink_metadata().with_context(|| format!("stat {}", path.display()))?;
        if metadata.is_dir() {
            let below = count(&path)?;
            base.files += below.files;
            base.entries += below.entries;
            base.bytes += below.bytes;
        } else {
            base.entries += 1;
            base.files += u64::from(metadata.is_file());
            base.bytes += if metadata.is_file() { metadata.len() } else { 0 };
        }
    }
    Ok(base)
}

fn settle_dirs(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            settle_dirs(&entry.path())?;
        }
    }
    settle(dir)
}

fn settle(path: &Path) -> Result<()> {
    let time = Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("set the times of {}", path.display()))
}

/// A vocabulary of made-up identifiers, the frequent ones short and in front.
#[derive(Debug)]
struct Words(Vec<String>);

impl Words {
    fn new(random: &mut Random) -> Self {
        const SYLLABLES: [&str; 24] = [
            "re", "con", "buf", "len", "map", "in", "out", "path", "node", "state", "get", "set", "byte",
            "err", "or", "iter", "key", "val", "off", "next", "read", "able", "ing", "seg",
        ];
        let word = |number: usize| {
            let syllables = 1 + number.ilog(12) as usize + random.below(2);
            (0..syllables).map(|_| SYLLABLES[random.below(SYLLABLES.len())]).collect()
        };
        Self((1..6000).map(word).collect())
    }

    /// A word; the frequency falls with the rank, as in all texts.
    fn pick(&self, random: &mut Random) -> &str {
        let ceiling = 1 + random.below(self.0.len());
        let ceiling = 1 + random.below(ceiling);
        &self.0[random.below(ceiling)]
    }

    /// Appends `len` bytes of statements, blocks and comments.
    fn source(&self, text: &mut Vec<u8>, len: usize, random: &mut Random) {
        const FORMS: [&str; 12] = [
            "let @ = @.@(@);\n",
            "if @ == @::@ {\n",
            "}\n",
            "/// The @ of @ that the @ has @ before its @.\n",
            "pub fn @(&mut self, @: &@) -> Result<@> {\n",
            "return Err(@::@ { @, @: # });\n",
            "self.@.@(@ + #)?;\n",
            "}\n\n",
            "for @ in @.iter().map(|@| @.@()) {\n",
            "assert_eq!(@(\"@ @\"), #);\n",
            "#[derive(Debug, Clone)]\n",
            "@: Vec<@>,\n",
        ];
        let end = text.len() + len;
        let mut depth = 0usize;
        while text.len() < end {
            let form = FORMS[random.below(FORMS.len())];
            depth = depth.saturating_sub(usize::from(form.starts_with('}')));
            text.resize(text.len() + 4 * depth.min(6), b' ');
            for byte in form.bytes() {
                match byte {
                    b'@' => text.extend_from_slice(self.pick(random).as_bytes()),
                    b'#' => text.extend_from_slice(random.below(4096).to_string().as_bytes()),
                    byte => text.push(byte),
                }
            }
            depth += usize::from(form.ends_with("{\n"));
        }
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_text() {
        let text = |seed| {
            let mut random = Random::new(seed);
            let words = Words::new(&mut random);
            let mut text = Vec::new();
            words.source(&mut text, 10_000, &mut random);
            text
        };
        assert_eq!(text(1).len(), 10_000);
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}
