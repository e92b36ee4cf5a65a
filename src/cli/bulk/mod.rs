//! Many profiles at once: `profilestore import` and `export`, in JSON lines and CSV.
//!
//! An import is a line of parts: [`window`] reads a file with bounded memory, [`json_lines`] and [`csv_records`] find
//! the lines in it, `source` runs them on a thread of their own, `course` knows which lines are under way and what
//! became of the others, and `progress` and `rejects` are the files in which that is kept.

mod course;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod csv_records;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod csv_row;
pub mod export;
pub mod import;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod json_lines;
mod meter;
mod output_file;
pub mod profile_json;
mod progress;
mod rejects;
mod source;
// Open to the fuzz targets only (tests/fuzz).
#[doc(hidden)]
pub mod window;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The form of a file of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
}

impl Format {
    /// What a file's ending says.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" | "json" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// The file beside another one, with a longer name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
