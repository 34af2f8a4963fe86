//! What the cases of saving share.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::Ran;

/// What a program must say when it ends badly.
pub(crate) trait Says {
    /// Demands a status, words on standard error in this order, at most three lines, and an empty answer.
    fn says(&self, code: i32, words: &[&str]) -> Result<()>;
}

impl Says for Ran {
    fn says(&self, code: i32, words: &[&str]) -> Result<()> {
        let text = self.stderr_text();
        ensure!(self.code() == code, "`{}` ended with {}:\n{text}", self.line, self.status);
        let error = text.find("error: ").map(|at| &text[at..]).unwrap_or_default();
        let mut rest = error;
        for word in words {
            let at = rest.find(word);
            ensure!(at.is_some(), "`{}` does not say {word:?}:\n{text}", self.line);
            rest = &rest[at.unwrap_or(0) + word.len()..];
        }
        ensure!(error.lines().count() <= 3, "`{}` says too much:\n{text}", self.line);
        ensure!(self.stdout.is_empty(), "`{}` answers: {}", self.line, self.stdout_text());
        Ok(())
    }
}

/// What `-o json` printed.
pub(crate) fn answer(ran: &Ran) -> Result<serde_json::Value> {
    serde_json::from_slice(&ran.stdout).with_context(|| format!("`{}` says: {}", ran.line, ran.stderr_text()))
}

/// A path as a word of a command line.
pub(crate) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}
