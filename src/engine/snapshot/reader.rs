//! Reading a snapshot as a stream.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use prost::Message;

use super::directory::SnapshotError;
use super::layout::{
    BLOCK_OVERHEAD_BYTES, END_BYTES, HEADER_BYTES, HeaderError, MAX_PAYLOAD_BYTES, SnapshotEnd, SnapshotHeader,
    block_checksum,
};
use crate::engine::storage_pb as pb;
use crate::model::{IndexKey, ProfileId, Record, Revision};

/// A profile as it is at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its id.
    pub id: ProfileId,
    /// The change that made it so.
    pub revision: Revision,
    /// The record; `None` after a delete.
    pub record: Option<Record>,
}

/// A snapshot that is being read. What it gives out is proven good only by the end mark: until then a block may be missing.
pub struct SnapshotReader {
    stream: BufReader<File>,
    header: SnapshotHeader,
    crc: u32,
    records: u64,
    end: Option<SnapshotEnd>,
    payload: Vec<u8>,
}

impl SnapshotReader {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let mut stream = BufReader::with_capacity(256 * 1024, File::open(path)?);
        let mut bytes = [0; HEADER_BYTES];
        read_exact(&mut stream, &mut bytes)?;
        let header = SnapshotHeader::decode(&bytes).map_err(|error| match error {
            HeaderError::Newer(found) => SnapshotError::Newer { found },
            HeaderError::Damaged => damaged("its header cannot be read"),
        })?;
        Ok(Self { stream, header, crc: crc32c::crc32c(&bytes), records: 0, end: None, payload: Vec::new() })
    }

    /// The header.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The end mark, when everything before it has been read.
    pub fn end(&self) -> Option<SnapshotEnd> {
        self.end
    }

    /// The records of the next block, in order; `None` at the end, where the whole file has been found good.
    pub fn next_block(&mut self) -> Result<Option<Vec<SnapshotRow>>, SnapshotError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let mut length = [0; 4];
        read_exact(&mut self.stream, &mut length)?;
        self.crc = crc32c::crc32c_append(self.crc, &length);
        let length = u32::from_le_bytes(length);
        if length == 0 {
            self.end = Some(self.read_end()?);
            return Ok(None);
        }
        if length as usize > MAX_PAYLOAD_BYTES {
            return Err(damaged("a block is too long"));
        }
        let mut crc = [0; BLOCK_OVERHEAD_BYTES - 4];
        read_exact(&mut self.stream, &mut crc)?;
        self.crc = crc32c::crc32c_append(self.crc, &crc);
        self.payload.resize(length as usize, 0);
        read_exact(&mut self.stream, &mut self.payload)?;
        self.crc = crc32c::crc32c_append(self.crc, &self.payload);
        if block_checksum(length, &self.payload) != u32::from_le_bytes(crc) {
            return Err(damaged("a block fails its checksum"));
        }
        let block = pb::SnapshotBlock::decode(&self.payload[..]).ok();
        let rows: Option<Vec<_>> = block.and_then(|block| block.records.into_iter().map(decode_row).collect());
        let rows = rows.ok_or_else(|| damaged("a block passes its checksum but does not hold records"))?;
        self.records += rows.len() as u64;
        Ok(Some(rows))
    }

    fn read_end(&mut self) -> Result<SnapshotEnd, SnapshotError> {
        let mut bytes = [0; END_BYTES];
        read_exact(&mut self.stream, &mut bytes)?;
        let end = SnapshotEnd::decode(&bytes, self.crc).ok_or_else(|| damaged("its end mark fails its checksum"))?;
        if end.records != self.records {
            return Err(damaged("it does not hold as many records as its end mark says"));
        }
        if self.stream.read(&mut [0])? != 0 {
            return Err(damaged("something follows its end mark"));
        }
        Ok(end)
    }
}

fn decode_row(row: pb::SnapshotRecord) -> Option<SnapshotRow> {
    let revision = Revision(row.revision);
    let record = match row.profile {
        None => None,
        Some(profile) => {
            if !row.index_key.is_empty() {
                IndexKey::from_stored(&row.index_key)?;
            }
            let index_key_len = u16::try_from(row.index_key.len()).ok()?;
            let stored = [&row.index_key[..], &profile[..]].concat();
            Some(Record::from_stored(stored.into(), index_key_len, revision)?)
        }
    };
    Some(SnapshotRow { id: ProfileId::from_stored(row.id.as_bytes())?, revision, record })
}

fn read_exact(stream: &mut impl Read, bytes: &mut [u8]) -> Result<(), SnapshotError> {
    stream.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends early"),
        _ => SnapshotError::Io(error),
    })
}

fn damaged(what: &str) -> SnapshotError {
    SnapshotError::Damaged(what.to_owned())
}
