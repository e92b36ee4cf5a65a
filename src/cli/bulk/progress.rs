//! `FILE.progress`: how far an import of a file has come, for the next run of the same command.
//!
//! Invariants: it is there from before the first profile is sent until the import has ended; it is replaced as a whole,
//! after what was rejected before its place is in the file of rejects; and it says what it is bound to, so that it is
//! never used for another file, another server or another way to import. It waits for the disk once a second: a killed
//! process loses nothing, and a power cut on this machine may take the import back by about a second, with lines that
//! are then rejected although the import itself has written their profiles.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

use super::window::Place;
use super::{Format, beside};

const VERSION: u32 = 1;
/// More than any progress takes.
const MAX_BYTES: u64 = 64 * 1024;

/// What an import is an import of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub file_bytes: u64,
    /// When the file was changed last, in seconds and nanoseconds.
    pub file_modified: (i64, i64),
    pub format: Format,
    pub on_conflict: String,
    pub server: String,
    /// A path, with a replacement for what is not UTF-8.
    pub rejects: String,
}

/// How far an import has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    version: u32,
    pub binding: Binding,
    /// Everything before it is written, skipped or rejected.
    pub place: Place,
    pub written: u64,
    pub skipped: u64,
    pub rejected: u64,
    /// How much of the file of rejects is about lines before the place.
    pub rejects_bytes: u64,
    /// How many profiles behind the place may have been sent at most; 0 until the first of them may be.
    pub in_flight: u64,
    pub ids: Ids,
}

/// Gives ids to profiles without one, the same again when an import goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    milliseconds: u64,
    nonce: u32,
}

impl Ids {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { milliseconds: now.as_millis().try_into().unwrap_or_default(), nonce: rand::random() }
    }

    /// The id of the profile that ends at an offset, a UUIDv7 of the import's first moment.
    pub fn id(self, offset: u64) -> String {
        let mut random = [0; 10];
        random[..4].copy_from_slice(&self.nonce.to_be_bytes());
        random[4..].copy_from_slice(&offset.to_be_bytes()[2..]);
        let id: Uuid = Builder::from_unix_timestamp_millis(self.milliseconds, &random).into_uuid();
        id.to_string()
    }
}

impl Binding {
    /// Binds an import to a file as it is now.
    pub fn of(file: &fs::Metadata, format: Format, on_conflict: String, server: String, rejects: &Path) -> Self {
        Self {
            file_bytes: file.size(),
            file_modified: (file.mtime(), file.mtime_nsec()),
            format,
            on_conflict,
            server,
            rejects: rejects.to_string_lossy().into_owned(),
        }
    }

    /// Whether the file is as it was.
    pub fn is_of(&self, file: &fs::Metadata) -> bool {
        (self.file_bytes, self.file_modified) == (file.size(), (file.mtime(), file.mtime_nsec()))
    }

    /// What is not as it was, in a phrase behind the name of the file.
    fn difference(&self, now: &Self) -> Option<String> {
        if (self.file_bytes, self.file_modified) != (now.file_bytes, now.file_modified) {
            return Some("has changed since its import was begun".to_owned());
        }
        let was = |option: &str, before: &str| Some(format!("was begun to be imported with {option} {before}"));
        if self.format != now.format {
            let format = if self.format == Format::Csv { "csv" } else { "jsonl" };
            return was("--format", format);
        }
        if self.on_conflict != now.on_conflict {
            return was("--on-conflict", &self.on_conflict);
        }
        if self.server != now.server {
            return was("--addr", &self.server);
        }
        if self.rejects != now.rejects {
            return was("--rejects", &self.rejects);
        }
        None
    }
}

impl Progress {
    /// The progress of an import of nothing in particular.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        let nothing = File::open("/dev/null").and_then(|file| file.metadata());
        let nothing = nothing.unwrap_or_else(|error| panic!("{error}"));
        let binding = Binding::of(&nothing, Format::Jsonl, "fail".to_owned(), String::new(), Path::new("rejects"));
        Self::new(binding, Place::default())
    }

    /// The progress of an import that has not begun yet.
    pub fn new(binding: Binding, place: Place) -> Self {
        Self {
            version: VERSION,
            binding,
            place,
            written: 0,
            skipped: 0,
            rejected: 0,
            rejects_bytes: 0,
            in_flight: 0,
            ids: Ids::new(),
        }
    }
}

/// The file in which a progress is kept.
#[derive(Debug)]
pub struct ProgressFile {
    path: PathBuf,
    /// What is written before it replaces the file.
    next: PathBuf,
}

impl ProgressFile {
    /// The one of an imported file.
    pub fn of(input: &Path) -> Self {
        let path = beside(input, ".progress");
        Self { next: beside(&path, ".tmp"), path }
    }

    /// Where it is, and where the next one is written.
    pub fn paths(&self) -> [&Path; 2] {
        [&self.path, &self.next]
    }

    /// The progress of an import that broke off; it must be bound to the same things.
    pub fn load(&self, input: &Path, binding: &Binding) -> anyhow::Result<Option<Progress>> {
        let path = self.path.display();
        let anew = || format!("to begin anew, remove {path}");
        let text = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.and_then(|file| io::read_to_string(io::Read::take(file, MAX_BYTES))),
        };
        let text = text.with_context(|| format!("{path} cannot be read"))?;
        let progress: Progress =
            serde_json::from_str(&text).ok().filter(|progress: &Progress| progress.version == VERSION).with_context(
                || format!("{path} is not the progress of an import by this version of profilestore; {}", anew()),
            )?;
        if let Some(difference) = progress.binding.difference(binding) {
            bail!("{} {difference}; {}", input.display(), anew());
        }
        Ok(Some(progress))
    }

    /// What to say when the file is not what the progress is about.
    pub fn is_of_another_file(&self, input: &Path) -> anyhow::Error {
        let path = self.path.display();
        anyhow::anyhow!("{} has changed since its import was begun; to begin anew, remove {path}", input.display())
    }

    /// Replaces the file, with what is on disk if it `is_synced`.
    pub fn save(&self, progress: &Progress, is_synced: bool) -> anyhow::Result<()> {
        let save = || {
            let mut next = File::create(&self.next)?;
            next.write_all(&serde_json::to_vec(progress)?)?;
            if is_synced {
                next.sync_data()?;
            }
            fs::rename(&self.next, &self.path)
        };
        save().with_context(|| format!("{} cannot be written", self.path.display()))
    }

    pub fn remove(&self) -> anyhow::Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("{} cannot be removed", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_7_that_is_the_same_again_and_another_one_for_each_place() {
        let ids = Ids::new();
        let many: std::collections::HashSet<_> = (0..1000).map(|offset| ids.id(offset)).collect();
        assert_eq!(many.len(), 1000);
        assert!(many.iter().all(|id| Uuid::parse_str(id).unwrap().get_version_num() == 7));
        assert_eq!(ids.id(1 << 40), ids.id(1 << 40));
        assert_ne!(Ids { nonce: ids.nonce ^ 1, ..ids }.id(5), ids.id(5));
    }
}
