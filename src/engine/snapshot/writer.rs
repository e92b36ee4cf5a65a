//! Writing a snapshot as a stream.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use rustix::fs::{Advice, fadvise};

use super::layout::{BLOCK_OVERHEAD_BYTES, SnapshotEnd, SnapshotHeader, block_checksum};
use super::reader::SnapshotRow;
use crate::engine::durable_file;
use crate::engine::storage_pb as pb;

/// A block is written when its records have so many bytes.
const BLOCK_BYTES: usize = 64 * 1024;
/// The file is synced after so many bytes, so that no single sync has much to do: those of the commit log wait
/// behind it.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// A snapshot in the making.
pub struct SnapshotWriter {
    file: File,
    block: pb::SnapshotBlock,
    block_bytes: usize,
    records: u64,
    bytes: u64,
    synced_bytes: u64,
    crc: u32,
    buffer: Vec<u8>,
}

impl SnapshotWriter {
    /// Begins a file that must not exist yet.
    pub fn create(path: &Path, header: &SnapshotHeader) -> io::Result<Self> {
        let header = header.encode();
        Ok(Self {
            file: durable_file::create(path, &header)?,
            block: pb::SnapshotBlock::default(),
            block_bytes: 0,
            records: 0,
            bytes: header.len() as u64,
            synced_bytes: 0,
            crc: crc32c::crc32c(&header),
            buffer: Vec::new(),
        })
    }

    /// Appends a record or a change.
    pub fn push(&mut self, row: &SnapshotRow) -> io::Result<()> {
        let record = pb::SnapshotRecord {
            id: row.id.as_str().to_owned(),
            revision: row.revision.0,
            profile: row.record.as_ref().map(|record| record.profile()),
            index_key: row
                .record
                .as_ref()
                .map(|record| Bytes::copy_from_slice(record.index_key_bytes()))
                .unwrap_or_default(),
        };
        self.block_bytes += record.encoded_len();
        self.block.records.push(record);
        self.records += 1;
        if self.block_bytes >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    /// How many records it has so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Writes the end mark and syncs the file. Returns its length in bytes.
    pub fn finish(mut self, end: &SnapshotEnd) -> io::Result<u64> {
        self.write_block()?;
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.buffer.extend_from_slice(&end.encode(crc));
        self.file.write_all(&self.buffer)?;
        self.bytes += self.buffer.len() as u64;
        self.sync()?;
        self.file.sync_all()?;
        Ok(self.bytes)
    }

    fn write_block(&mut self) -> io::Result<()> {
        if self.block.records.is_empty() {
            return Ok(());
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; BLOCK_OVERHEAD_BYTES]);
        // Appending to a vector cannot run out of room, the only way in which encoding fails.
        self.block.encode_raw(&mut self.buffer);
        let length = (self.buffer.len() - BLOCK_OVERHEAD_BYTES) as u32;
        let crc = block_checksum(length, &self.buffer[BLOCK_OVERHEAD_BYTES..]);
        self.buffer[..4].copy_from_slice(&length.to_le_bytes());
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        self.block.records.clear();
        self.block_bytes = 0;
        self.file.write_all(&self.buffer)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.buffer);
        self.bytes += self.buffer.len() as u64;
        if self.bytes - self.synced_bytes >= SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    /// Syncs what was written and lets the operating system forget it: nobody reads it soon, and when it is read back
    /// it must come from the disk.
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced_bytes = self.bytes;
        // Advice only: a filesystem that does not take it has lost nothing.
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }
}
