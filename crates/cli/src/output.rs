//! What a command prints: the answer to stdout, everything else to stderr.

use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// The option of every command that prints an answer.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// Print the answer as text or as one line of JSON
    #[arg(
        short,
        long,
        value_name = "text|json",
        hide_possible_values = true,
        default_value = "text",
        hide_default_value = true
    )]
    output: Format,
}

impl OutputArgs {
    pub(crate) fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// Prints a piece of the answer; the line end is added.
pub(crate) fn answer(text: &str) -> Result<(), Failure> {
    raw(format!("{text}\n").as_bytes())
}

/// Prints a piece of the answer as it is.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    io::stdout().write_all(bytes).map_err(|error| Failure::stdout(&error))
}

/// Prints the answer as one line of JSON.
pub(crate) fn json(answer: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(answer).map_err(|error| Failure::io("JSON", &error.into()))?;
    line.push(b'\n');
    raw(&line)
}

/// Prints the answer as JSON for reading, as docker's `inspect` does.
pub(crate) fn pretty_json(answer: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(answer).map_err(|error| Failure::io("JSON", &error.into()))?;
    text.push(b'\n');
    raw(&text)
}

/// Tells something on the way. A stderr that is gone is no reason to stop.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Tells of something that the user should know although the command goes on.
pub(crate) fn warn(text: &str) {
    tell(&format!("warning: {text}"));
}

/// Whether a person reads the answer.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Columns, each as wide as its widest cell, three spaces apart.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) -> Result<(), Failure> {
        raw(self.render().as_bytes())
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}   "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(vec!["débian:latest".to_owned(), "1 B".to_owned()]);
        table.row(vec!["x".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME            SIZE\ndébian:latest   1 B\nx\n");
    }
}
