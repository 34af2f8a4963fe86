//! The table for people and the JSON for programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::Machine;
use crate::measure::Series;

/// What a case was measured over.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Base {
    /// Regular files.
    pub files: u64,
    /// Files, directories and all else.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// The figures of one case on one file system.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// The letter of the case, and what is done in it.
    pub case: String,
    /// The file system that everything lies on.
    pub file_system: String,
    /// The image below the change.
    pub base: Base,
    /// The first is what the ratios refer to.
    pub rows: Vec<Series>,
    /// What a reader must know beside the figures.
    pub notes: Vec<String>,
}

/// Everything that one run has measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// What.
    pub tables: Vec<Table>,
}

impl Report {
    /// Writes the JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("make JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }
}

impl Table {
    /// Milliseconds first, then the ratio to the first row, CPU time and size.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Base { files, entries, bytes } = self.base;
        // a string takes everything
        let _ = writeln!(
            text,
            "\n{}\n  {}; base: {files} files, {entries} entries, {}",
            self.case,
            self.file_system,
            size(bytes)
        );
        let wide = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "  {:wide$}  {:>10}  {:>8}  {:>17}  {:>8}  {:>9}  n",
            "", "median ms", "ratio", "min – max ms", "CPU s", "output"
        );
        let first = self.rows.first().map_or(f64::NAN, Series::median_ms);
        for row in &self.rows {
            let median = row.median_ms();
            let span = format!("{:.1} – {:.1}", row.quantile_ms(0.0), row.quantile_ms(1.0));
            let _ = writeln!(
                text,
                "  {:wide$}  {median:>10.1}  {:>7.2}×  {span:>17}  {:>8.3}  {:>9}  {}",
                row.name,
                median / first,
                row.median_cpu(),
                row.output().map_or_else(|| "–".to_owned(), size),
                row.samples.len()
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }
}

/// Bytes in decimal units.
#[must_use]
pub fn size(bytes: u64) -> String {
    let exact = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", exact / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", exact / 1e6),
        _ => format!("{:.3} GB", exact / 1e9),
    }
}
