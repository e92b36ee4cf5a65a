//! The lines that were not imported, with their numbers and reasons, one JSON object a line.
//!
//! A reason never repeats what stands in its line: the line itself is beside it, for whoever may read the input anyway.
//! Invariant: the file is in the order of the lines and has each of them once, also when an import goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Serialize;

/// As the input, it holds personal data.
const MODE: u32 = 0o600;

#[derive(Serialize)]
struct Reject<'a> {
    line: u64,
    reason: &'a str,
    /// What stands there, with a replacement for what is not UTF-8; empty if the line is too long.
    text: &'a str,
}

/// The file of rejects. It is made with the first of them.
#[derive(Debug)]
pub struct Rejects {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    bytes: u64,
}

impl Rejects {
    /// Begins anew: the rejects of an earlier import are removed.
    pub fn begin(path: &Path) -> anyhow::Result<Self> {
        let is_device = fs::metadata(path).is_ok_and(|there| !there.is_file());
        if !is_device {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{} cannot be removed", path.display()));
                }
                _ => {}
            }
        }
        Ok(Self { path: path.to_owned(), file: None, bytes: 0 })
    }

    /// Goes on behind the first `bytes`: what is behind them will be found again.
    pub fn go_on(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        if bytes == 0 {
            return Self::begin(path);
        }
        let mut rejects = Self { path: path.to_owned(), file: None, bytes };
        let cut = || {
            let file = OpenOptions::new().append(true).open(path)?;
            let there = file.metadata()?;
            let found = if there.is_file() { there.len() } else { bytes };
            if found > bytes {
                file.set_len(bytes)?;
            }
            io::Result::Ok((file, found))
        };
        let (file, found) = cut().with_context(|| format!("{} cannot be gone on with", path.display()))?;
        ensure!(found >= bytes, "{} is shorter than the import has left it", path.display());
        rejects.file = Some(BufWriter::new(file));
        Ok(rejects)
    }

    pub fn add(&mut self, line: u64, reason: &str, text: &[u8]) -> anyhow::Result<()> {
        let mut reject = serde_json::to_vec(&Reject { line, reason, text: &String::from_utf8_lossy(text) })?;
        reject.push(b'\n');
        self.bytes += reject.len() as u64;
        let failed = || format!("{} cannot be written", self.path.display());
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().append(true).create(true).mode(MODE).open(&self.path);
                none.insert(BufWriter::new(file.with_context(failed)?))
            }
        };
        file.write_all(&reject).with_context(failed)
    }

    /// Hands over to the system what was added. Returns the bytes of the file.
    pub fn flush(&mut self) -> anyhow::Result<u64> {
        if let Some(file) = &mut self.file {
            file.flush().with_context(|| format!("{} cannot be written", self.path.display()))?;
        }
        Ok(self.bytes)
    }
}
