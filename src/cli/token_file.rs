//! The file in which a watch keeps its place.
//!
//! Invariant: a token is written after the lines that it stands behind were printed, and the file is replaced as a whole: a
//! watch that was killed prints some lines again and leaves none out.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How often the file is written at most, since each time waits for the disk.
const EVERY: Duration = Duration::from_secs(1);
/// More than any token takes.
const MAX_BYTES: u64 = 64 * 1024;

/// The place of a watch, if it keeps one.
pub struct TokenFile {
    path: Option<PathBuf>,
    /// The newest token, if it is not written yet.
    waiting: Option<String>,
    written: Option<Instant>,
}

impl TokenFile {
    /// The file, and the token in it if it is there.
    pub fn open(path: Option<&Path>) -> anyhow::Result<(Self, Option<String>)> {
        let this = Self { path: path.map(Path::to_owned), waiting: None, written: None };
        let Some(path) = path else { return Ok((this, None)) };
        let mut token = String::new();
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((this, None)),
            file => file.and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut token)),
        }
        .with_context(|| format!("the token file {} cannot be read", path.display()))?;
        let token = token.trim().to_owned();
        if token.is_empty() || token.len() as u64 > MAX_BYTES {
            bail!("the token file {} holds no token; remove it to start anew", path.display());
        }
        Ok((this, Some(token)))
    }

    /// Notes the place behind everything that was printed.
    pub fn keep(&mut self, token: String) -> anyhow::Result<()> {
        self.waiting = Some(token);
        if self.written.is_some_and(|written| written.elapsed() < EVERY) { Ok(()) } else { self.write() }
    }

    /// Writes what was noted and is not written yet.
    pub fn write(&mut self) -> anyhow::Result<()> {
        if let (Some(path), Some(token)) = (&self.path, self.waiting.take()) {
            replace(path, &token).with_context(|| format!("the token file {} cannot be written", path.display()))?;
            self.written = Some(Instant::now());
        }
        Ok(())
    }
}

fn replace(path: &Path, token: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut file = File::create(&name)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    fs::rename(&name, path)
}
