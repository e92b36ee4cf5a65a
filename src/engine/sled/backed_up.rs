//! A snapshot on its way out as a backup.

use std::fs::File;
use std::io::{self, Read};

use tokio::sync::OwnedSemaphorePermit;

/// A snapshot that is being read, and the place of the one backup at a time.
pub(super) struct BackedUp {
    pub file: File,
    pub _permit: OwnedSemaphorePermit,
}

impl Read for BackedUp {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}
