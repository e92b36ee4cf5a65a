//! What commands print: tables on a terminal, tab-separated lines off it, JSON on demand.
//!
//! Invariants: what others stored never reaches a terminal or a tab-separated line with control characters in it;
//! a reader that goes away ends the command quietly, and only a reader of standard output does, so everything that is
//! printed goes through [`stdout`]; memory does not grow with the number of rows.

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::Args;
use serde::Serialize;

use super::table::TerminalTable;

/// After so many rows a table is printed and another begun.
const ROWS_PER_TABLE: usize = 1000;
/// The width of a table whose terminal does not tell its own.
const DEFAULT_WIDTH: u16 = 80;

/// Whoever read standard output has gone away.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
struct StdoutClosed;

/// Standard output, whose end is told apart from that of any other pipe.
pub struct Stdout(io::Stdout);

/// Where commands print.
pub fn stdout() -> Stdout {
    Stdout(io::stdout())
}

/// Whether a command ended because nobody reads what it prints.
pub fn is_stdout_closed(error: &anyhow::Error) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<StdoutClosed>())
}

fn mark_closed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed),
        _ => error,
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark_closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark_closed)
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// Print JSON: one object a line.
    #[arg(long)]
    json: bool,
}

/// Prints rows of one kind.
pub struct Rows {
    form: Form,
    out: BufWriter<Stdout>,
}

enum Form {
    Table(TerminalTable),
    Tabs,
    Json,
}

impl OutputArgs {
    /// Whether JSON is wanted.
    pub fn json(self) -> bool {
        self.json
    }

    /// Prints what a command has done: sentences for people, or an object.
    pub fn done<T: Serialize>(self, sentences: &str, object: &T) -> io::Result<()> {
        let mut line = sentences.as_bytes().to_vec();
        if self.json {
            line.clear();
            to_json(object)(&mut line);
        }
        line.push(b'\n');
        stdout().write_all(&line)
    }

    /// Begins to print rows with these headers.
    pub fn rows(self, headers: &'static [&'static str]) -> io::Result<Rows> {
        let mut out = BufWriter::new(stdout());
        let form = if self.json {
            Form::Json
        } else if io::stdout().is_terminal() {
            let width = console::Term::stdout().size_checked().map_or(DEFAULT_WIDTH, |(_, columns)| columns);
            Form::Table(TerminalTable::new(headers, width))
        } else {
            writeln!(out, "{}", headers.join("\t"))?;
            Form::Tabs
        };
        Ok(Rows { form, out })
    }
}

impl Rows {
    /// Prints one row, which is `json` where JSON is wanted.
    pub fn row(&mut self, cells: &[String], json: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        match &mut self.form {
            Form::Table(table) => {
                table.add_row(cells.iter().map(|cell| printable(cell)).collect());
                if table.row_count() >= ROWS_PER_TABLE {
                    writeln!(self.out, "{table}")?;
                    table.clear();
                }
            }
            Form::Tabs => {
                let cells: Vec<_> = cells.iter().map(|cell| printable(cell)).collect();
                writeln!(self.out, "{}", cells.join("\t"))?;
            }
            Form::Json => {
                let mut line = Vec::new();
                json(&mut line);
                line.push(b'\n');
                self.out.write_all(&line)?;
            }
        }
        Ok(())
    }

    /// Prints what is left.
    pub fn finish(mut self) -> io::Result<()> {
        if let Form::Table(table) = &self.form
            && table.row_count() > 0
        {
            writeln!(self.out, "{table}")?;
        }
        self.out.flush()
    }
}

/// JSON for [`Rows::row`].
pub fn to_json<T: Serialize>(value: &T) -> impl FnOnce(&mut Vec<u8>) + use<T> {
    let json = serde_json::to_vec(value);
    // Only maps with keys that are not strings cannot be written, and there are none.
    move |line| line.extend(json.unwrap_or_default())
}

/// A text with its control characters escaped.
pub fn printable(text: &str) -> String {
    let escape = |character: char| -> Vec<char> {
        if character.is_control() { character.escape_default().collect() } else { vec![character] }
    };
    text.chars().flat_map(escape).collect()
}

/// Bytes for people.
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\tb\n\u{1b}[31mü"), "a\\tb\\n\\u{1b}[31mü");
    }
}
