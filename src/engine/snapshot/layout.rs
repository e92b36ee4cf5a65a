//! The bytes of a snapshot file. Integers are little-endian.
//!
//! ```text
//! header  magic "PSSNAP\r\n" | version u32 | incarnation u64 | scan sequence u64 | fold local parts u8 | crc u32
//! block   payload length u32, not 0 | crc u32 | payload (a SnapshotBlock)
//! end     0 u32 | sequence u64 | commit time i64 | profiles u64 | domains u64 | profile bytes u64 | digest u64
//!         | records u64 | crc u32
//! ```
//!
//! The CRC-32C of the header covers the header before it, that of a block its length and payload, and that of the end
//! mark everything in the file before it. Nothing follows the end mark. The settings are those that the index keys
//! followed when the snapshot was made.

use crate::engine::digest::Digest;
use crate::model::{Canonicalization, CommitTime, Incarnation};
use crate::store::Totals;

/// The version of this layout.
pub const VERSION: u32 = 1;
/// The length of the header, in bytes.
pub const HEADER_BYTES: usize = 33;
/// What a block adds to its payload, in bytes.
pub const BLOCK_OVERHEAD_BYTES: usize = 8;
/// The largest payload of a block: a full one and the largest record.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// The length of the end mark after its zero, in bytes.
pub const END_BYTES: usize = 7 * 8 + 4;

const MAGIC: &[u8; 8] = b"PSSNAP\r\n";

/// What a snapshot says of itself at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The life of the store that it is of.
    pub incarnation: Incarnation,
    /// The applied sequence when the scan began. Records of the scan are not above it, changes behind them are.
    pub scan_sequence: u64,
    /// The settings that the index keys follow.
    pub canonicalization: Canonicalization,
}

/// What a snapshot says of itself at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// The sequence as of which it holds every record.
    pub sequence: u64,
    /// When that change was committed.
    pub time: CommitTime,
    /// What the store held.
    pub totals: Totals,
    /// The digest of all records.
    pub digest: Digest,
    /// How many records the blocks hold, changes included.
    pub records: u64,
}

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// The bytes are not a header, or damaged.
    Damaged,
    /// The file is of a later version.
    Newer(u32),
}

impl SnapshotHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.scan_sequence.to_le_bytes());
        bytes[28] = u8::from(self.canonicalization.fold_local_part);
        let crc = crc32c::crc32c(&bytes[..29]);
        bytes[29..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(HeaderError::Damaged)?;
        if &bytes[..8] != MAGIC || crc32c::crc32c(content) != u32::from_le_bytes(*crc) {
            return Err(HeaderError::Damaged);
        }
        let mut version = [0; 4];
        version.copy_from_slice(&bytes[8..12]);
        match u32::from_le_bytes(version) {
            VERSION => Ok(Self {
                incarnation: Incarnation(u64_at(bytes, 12)),
                scan_sequence: u64_at(bytes, 20),
                canonicalization: Canonicalization { fold_local_part: bytes[28] != 0 },
            }),
            newer => Err(HeaderError::Newer(newer)),
        }
    }
}

impl SnapshotEnd {
    /// The end mark after its zero; `file_crc` is the checksum of the file up to and with the zero.
    pub fn encode(&self, file_crc: u32) -> [u8; END_BYTES] {
        let Totals { profiles, domains, profile_bytes } = self.totals;
        let time = self.time.unix_nanos() as u64;
        let words = [self.sequence, time, profiles, domains, profile_bytes, self.digest.0, self.records];
        let mut bytes = [0; END_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(file_crc, &bytes[..END_BYTES - 4]);
        bytes[END_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads an end mark; `None` when the checksum over the file is another one.
    pub fn decode(bytes: &[u8; END_BYTES], file_crc: u32) -> Option<Self> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c_append(file_crc, content) != u32::from_le_bytes(*crc) {
            return None;
        }
        let word = |number: usize| u64_at(bytes, 8 * number);
        Some(Self {
            sequence: word(0),
            time: CommitTime::from_unix_nanos(word(1) as i64),
            totals: Totals { profiles: word(2), domains: word(3), profile_bytes: word(4) },
            digest: Digest(word(5)),
            records: word(6),
        })
    }
}

/// The checksum of a block.
pub fn block_checksum(length: u32, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), payload)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
