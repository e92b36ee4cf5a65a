//! The lines that were not imported, with their numbers and reasons, one JSON object a line.
//!
//! A reason never repeats what stands in its line: the line itself is beside it, for whoever may read the input anyway.
//! Invariants: the file is in the order of the lines and has each of them once, also when an import goes on; whoever
//! writes to it holds its lock; nothing but a file of rejected lines is ever written over; an empty one does not stay.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

/// As the input, it holds personal data.
const MODE: u32 = 0o600;
/// How a line begins, before its number.
const BEGINNING: &[u8] = b"{\"line\":";
/// How much is read at a time to find the end of the last line.
const READ_BYTES: u64 = 64 * 1024;

#[derive(Serialize)]
struct Reject<'a> {
    line: u64,
    reason: &'a str,
    /// What stands there, with a replacement for what is not UTF-8; empty if the line is too long.
    text: &'a str,
}

/// The file of rejects.
#[derive(Debug)]
pub struct Rejects {
    path: PathBuf,
    /// `None` where it is made with the first of them.
    file: Option<BufWriter<File>>,
    is_device: bool,
    bytes: u64,
}

impl Rejects {
    /// Begins anew: the rejects of an earlier import go away.
    pub fn begin(path: &Path) -> anyhow::Result<Self> {
        let mut rejects = Self::open(path)?;
        rejects.cut(0)?;
        Ok(rejects)
    }

    /// Begins a file that nobody else has. It is made with the first reject.
    pub fn begin_new(path: &Path) -> anyhow::Result<Self> {
        // That it cannot be made is better told before anything is sent.
        drop(create_new(path)?);
        fs::remove_file(path).with_context(|| format!("{} cannot be removed", path.display()))?;
        Ok(Self { path: path.to_owned(), file: None, is_device: false, bytes: 0 })
    }

    /// Goes on behind the first `bytes`: what is behind them will be found again. Where there are fewer, which takes a
    /// power cut or somebody's hand, it goes on behind those.
    pub fn go_on(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let mut rejects = Self::open(path)?;
        if rejects.is_device {
            rejects.bytes = bytes;
            return Ok(rejects);
        }
        let there = rejects.bytes;
        if there < bytes {
            let whole = rejects.whole_lines().with_context(|| format!("{} cannot be read", path.display()))?;
            rejects.cut(whole)?;
            let path = path.display();
            eprintln!(
                "profilestore: {path} is shorter than the import has left it; some rejected lines are not in it"
            );
        } else {
            rejects.cut(bytes)?;
        }
        Ok(rejects)
    }

    /// Opens and locks the file, which must be one of rejects if it has a content.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("{} cannot be written", path.display());
        let is_device = fs::metadata(path).is_ok_and(|there| !there.is_file());
        let mut options = OpenOptions::new();
        options.append(true);
        if is_device {
            let file = options.open(path).with_context(failed)?;
            return Ok(Self { path: path.to_owned(), file: Some(BufWriter::new(file)), is_device, bytes: 0 });
        }
        let file = options.read(true).create(true).mode(MODE).open(path).with_context(failed)?;
        let is_ours = !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
            // Whoever held the lock may have removed it.
            && fs::metadata(path).is_ok_and(|there| {
                file.metadata().is_ok_and(|opened| (opened.dev(), opened.ino()) == (there.dev(), there.ino()))
            });
        ensure!(is_ours, "another import writes its rejected lines to {}", path.display());
        let mut beginning = Vec::new();
        (&file).take(BEGINNING.len() as u64).read_to_end(&mut beginning).with_context(failed)?;
        if !beginning.is_empty() && beginning != BEGINNING {
            let path = path.display();
            bail!(
                "{path} is not a file of rejected lines and is not written over; remove it, or name another --rejects"
            );
        }
        let bytes = file.metadata().with_context(failed)?.len();
        Ok(Self { path: path.to_owned(), file: Some(BufWriter::new(file)), is_device, bytes })
    }

    /// Takes away what is behind the first `bytes`.
    fn cut(&mut self, bytes: u64) -> anyhow::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.is_device) {
            file.get_ref().set_len(bytes).with_context(|| format!("{} cannot be written", self.path.display()))?;
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The bytes up to the end of the last line that has one.
    fn whole_lines(&self) -> io::Result<u64> {
        let Some(mut file) = self.file.as_ref().map(BufWriter::get_ref) else { return Ok(0) };
        let mut end = self.bytes;
        while end > 0 {
            let start = end.saturating_sub(READ_BYTES);
            let mut part = Vec::new();
            file.seek(SeekFrom::Start(start))?;
            file.take(end - start).read_to_end(&mut part)?;
            if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
                return Ok(start + at as u64 + 1);
            }
            end = start;
        }
        Ok(0)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn add(&mut self, line: u64, reason: &str, text: &[u8]) -> anyhow::Result<()> {
        let mut reject = serde_json::to_vec(&Reject { line, reason, text: &String::from_utf8_lossy(text) })?;
        reject.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(create_new(&self.path)?)),
        };
        file.write_all(&reject).with_context(|| format!("{} cannot be written", self.path.display()))?;
        self.bytes += reject.len() as u64;
        Ok(())
    }

    /// Hands over to the system what was added. Returns the bytes of the file.
    pub fn flush(&mut self) -> anyhow::Result<u64> {
        if let Some(file) = &mut self.file {
            file.flush().with_context(|| format!("{} cannot be written", self.path.display()))?;
        }
        Ok(self.bytes)
    }

    /// Waits until what was handed over is on disk.
    pub fn sync(&self) -> anyhow::Result<()> {
        match &self.file {
            Some(file) if !self.is_device => {
                file.get_ref().sync_data().with_context(|| format!("{} cannot be written", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Rejects {
    /// Under the lock, so that it is not somebody else's. One that cannot be removed is empty.
    fn drop(&mut self) {
        if self.bytes == 0 && !self.is_device && self.file.is_some() {
            // Behind a link, the file and not the link.
            let _ = fs::canonicalize(&self.path).and_then(fs::remove_file);
        }
    }
}

fn create_new(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path);
    file.with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shorter_than_it_was_is_gone_on_with_behind_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rejects");
        let mut rejects = Rejects::begin(&path).unwrap();
        rejects.add(1, "one", b"1").unwrap();
        let first = rejects.flush().unwrap();
        rejects.add(2, "two", &vec![b'x'; 200_000]).unwrap();
        let both = rejects.flush().unwrap();
        drop(rejects);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(both - 1).unwrap();
        let mut rejects = Rejects::go_on(&path, both).unwrap();
        rejects.add(3, "three", b"3").unwrap();
        assert!(rejects.flush().unwrap() > first);
        let text = fs::read_to_string(&path).unwrap();
        let ends: Vec<_> = text.lines().map(|line| &line[..10]).collect();
        assert_eq!(ends, [r#"{"line":1,"#, r#"{"line":3,"#]);
    }

    #[test]
    fn an_empty_file_does_not_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rejects");
        drop(Rejects::begin(&path).unwrap());
        assert!(!path.exists());
        drop(Rejects::begin_new(&path).unwrap());
        assert!(!path.exists());
    }
}
