//! A backup that is being read.

use std::fmt;
use std::io::{self, Read};

/// A consistent, checksummed copy of a store, as a stream of bytes. Reading may block. Nothing else can be backed up
/// until it is dropped.
pub struct Backup {
    /// As of which change it holds every profile.
    pub sequence: u64,
    /// How many profiles it holds.
    pub profiles: u64,
    /// Its length in bytes.
    pub bytes: u64,
    content: Box<dyn Read + Send>,
}

impl Backup {
    /// A backup with this content.
    pub fn new(sequence: u64, profiles: u64, bytes: u64, content: impl Read + Send + 'static) -> Self {
        Self { sequence, profiles, bytes, content: Box::new(content) }
    }
}

impl Read for Backup {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer)
    }
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").field("sequence", &self.sequence).field("bytes", &self.bytes).finish()
    }
}
