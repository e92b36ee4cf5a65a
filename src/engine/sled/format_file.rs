//! The file `FORMAT` of a data directory: what is in the directory, and whose it is.
//!
//! It is JSON for people and for other versions. Its last field is the checksum of all bytes before that field's name. Versions
//! that know of none leave it out and overlook it; a later version keeps this rule, so that damage is told from a later format.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::data_dir::DataDirError;
use crate::model::{Canonicalization, Incarnation};

/// The format that this version writes, and the newest that it reads.
///
/// Format 2: the applied sequence has a digest beside it, which a reader of format 1 would take for damage. A
/// directory of format 1 is raised when it is opened.
pub const FORMAT_VERSION: u32 = 2;

const CHECKSUM: &str = "\"checksum\"";
const REMEDY: &str = "put the file back from any copy of this directory since it was made or last reindexed, or restore the directory from a backup";

/// What it says. Unknown fields are an error only in effect: a later format has a later version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub format: u32,
    pub incarnation: String,
    pub canonicalization: Canonicalization,
    /// Set while the index is being rebuilt: part of it still follows other settings.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reindexing: bool,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub struct FormatFile {
    pub incarnation: Incarnation,
    pub format: Format,
    /// It has one, and it is right.
    has_checksum: bool,
}

impl FormatFile {
    /// Whether this version would write it in the same way.
    pub fn is_current(&self) -> bool {
        self.format.format == FORMAT_VERSION && self.has_checksum
    }
}

/// The file's bytes.
pub fn encode(incarnation: Incarnation, canonicalization: Canonicalization, reindexing: bool) -> io::Result<Vec<u8>> {
    let format = Format {
        format: FORMAT_VERSION,
        incarnation: format!("{:016x}", incarnation.0),
        canonicalization,
        reindexing,
    };
    let mut text = serde_json::to_string_pretty(&format)?;
    let fields = text.trim_end_matches('}').trim_end().len();
    text.truncate(fields);
    text.push_str(",\n  ");
    let checksum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{CHECKSUM}: \"{checksum:08x}\"\n}}"));
    Ok(text.into_bytes())
}

/// Reads the file's bytes; `dir` is for the error.
pub fn parse(dir: &Path, bytes: &[u8]) -> Result<FormatFile, DataDirError> {
    let not_ours = |what: &str| DataDirError::NotOurs { dir: dir.to_owned(), what: format!("{what}; {REMEDY}") };
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|_| not_ours("its FORMAT file is not JSON"))?;
    let has_checksum = match value.get("checksum") {
        None => false,
        Some(stored) => {
            let name = bytes.windows(CHECKSUM.len()).rposition(|window| window == CHECKSUM.as_bytes());
            let found = name.map(|name| format!("{:08x}", crc32c::crc32c(&bytes[..name])));
            if found.as_deref() != stored.as_str() {
                return Err(not_ours("its FORMAT file fails its checksum"));
            }
            true
        }
    };
    // The version first: a later format may have other fields.
    match value.get("format").and_then(serde_json::Value::as_u64) {
        None => return Err(not_ours("its FORMAT file has no version")),
        Some(found) if found > u64::from(FORMAT_VERSION) => {
            let found = u32::try_from(found).unwrap_or(u32::MAX);
            return Err(DataDirError::Newer { dir: dir.to_owned(), found });
        }
        Some(_) => {}
    }
    let format: Format = serde_json::from_value(value).map_err(|_| not_ours("its FORMAT file lacks a field"))?;
    let incarnation =
        u64::from_str_radix(&format.incarnation, 16).map_err(|_| not_ours("its FORMAT file has no incarnation"))?;
    Ok(FormatFile { incarnation: Incarnation(incarnation), format, has_checksum })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<FormatFile, DataDirError> {
        parse(Path::new("dir"), bytes)
    }

    #[test]
    fn any_flipped_bit_is_refused_with_a_remedy_or_changes_nothing() {
        for (fold_local_part, reindexing) in [(true, false), (false, true)] {
            let settings = Canonicalization { fold_local_part };
            let bytes = encode(Incarnation(0x0123_4567_89ab_cdef), settings, reindexing).unwrap();
            let whole = read(&bytes).unwrap();
            assert!(whole.is_current());
            assert_eq!((whole.incarnation.0, whole.format.canonicalization), (0x0123_4567_89ab_cdef, settings));
            let mut unnoticed = 0;
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                match read(&flipped) {
                    Err(error) => {
                        let remedies = ["made or last reindexed", "restore the directory from a backup"];
                        assert!(remedies.iter().all(|remedy| error.to_string().contains(remedy)), "{error}")
                    }
                    // The name of the checksum itself: then it is a file without one.
                    Ok(found) => {
                        unnoticed += 1;
                        assert_eq!(found.format, whole.format, "bit {bit}");
                        assert_eq!(found.incarnation, whole.incarnation, "bit {bit}");
                    }
                }
            }
            assert!(unnoticed <= 8 * CHECKSUM.len(), "{unnoticed}");
        }
    }

    #[test]
    fn a_file_of_a_version_that_knows_of_no_checksum_is_read_and_has_to_be_written_anew() {
        let old =
            br#"{"format": 2, "incarnation": "00000000000000ff", "canonicalization": {"fold_local_part": true}}"#;
        let read = read(old).unwrap();
        assert_eq!((read.incarnation, read.is_current()), (Incarnation(255), false));
    }

    #[test]
    fn a_later_format_is_called_that_and_a_damaged_version_is_not() {
        let later = |text: String| parse(Path::new("dir"), text.as_bytes()).unwrap_err();
        let fields = "{\"format\": 3, \"new\": {}, ";
        let checksum = crc32c::crc32c(fields.as_bytes());
        let error = later(format!("{fields}{CHECKSUM}: \"{checksum:08x}\"}}"));
        assert!(matches!(error, DataDirError::Newer { found: 3, .. }), "{error}");
        let text = String::from_utf8(encode(Incarnation(1), Canonicalization::default(), false).unwrap()).unwrap();
        let error = later(text.replace("\"format\": 2", "\"format\": 3"));
        assert!(error.to_string().contains("fails its checksum"), "{error}");
    }
}
