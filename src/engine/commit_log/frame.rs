//! The bytes of a segment file. Integers are little-endian.
//!
//! ```text
//! header  magic "PSCLOG\r\n" | version u32 | incarnation u64 | first sequence u64 | salt u64 | crc u32
//! frame   marker "PSGF" | payload length u32 | crc u32 | payload (a CommitGroup)
//! ```
//!
//! The header's CRC-32C covers the bytes before it. A frame's covers the segment's salt, the length and the
//! payload. The salt is random and never leaves the file, so no caller can put bytes into a profile that
//! look like a frame of this log: what looks like a good frame behind a torn one is one.

use std::io::{self, Read};

use crate::model::Incarnation;

/// The length of a segment's header, in bytes.
pub const HEADER_BYTES: usize = 40;
/// What a frame adds to its payload, in bytes.
pub const FRAME_OVERHEAD_BYTES: usize = 12;
/// The largest payload: one atomic commit of 1 MiB with room for what the log adds to it.
pub const MAX_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;
/// The version of this layout.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"PSCLOG\r\n";
const MARKER: &[u8; 4] = b"PSGF";

/// What a segment file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The life of the store that the segment belongs to.
    pub incarnation: Incarnation,
    /// The sequence number of the first change in the segment.
    pub first_sequence: u64,
    /// Mixed into the checksum of every frame.
    pub salt: u64,
}

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// The bytes are not a header, or damaged.
    Damaged,
    /// The header is of a later version of this layout.
    Newer(u32),
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the start of a segment.
    pub fn decode(segment: &[u8]) -> Result<Self, HeaderError> {
        let bytes = segment.get(..HEADER_BYTES).ok_or(HeaderError::Damaged)?;
        if &bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..36]) != u32_at(bytes, 36) {
            return Err(HeaderError::Damaged);
        }
        match u32_at(bytes, 8) {
            VERSION => Ok(Self {
                incarnation: Incarnation(u64_at(bytes, 12)),
                first_sequence: u64_at(bytes, 20),
                salt: u64_at(bytes, 28),
            }),
            newer => Err(HeaderError::Newer(newer)),
        }
    }
}

/// Appends a frame around a payload that `write_payload` appends.
pub fn encode_frame(salt: u64, buffer: &mut Vec<u8>, write_payload: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(MARKER);
    buffer.extend_from_slice(&[0; 8]);
    write_payload(buffer);
    let length = (buffer.len() - start - FRAME_OVERHEAD_BYTES) as u32;
    buffer[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(salt, length, &buffer[start + FRAME_OVERHEAD_BYTES..]);
    buffer[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

/// The payload of the frame that begins at `offset`; `None` when there is no good frame.
pub fn frame_at(segment: &[u8], offset: usize, salt: u64) -> Option<&[u8]> {
    let frame = segment.get(offset..)?;
    if frame.get(..4)? != MARKER {
        return None;
    }
    let length = u32_at(frame.get(..FRAME_OVERHEAD_BYTES)?, 4);
    if length as usize > MAX_PAYLOAD_BYTES {
        return None;
    }
    let payload = frame.get(FRAME_OVERHEAD_BYTES..FRAME_OVERHEAD_BYTES + length as usize)?;
    (checksum(salt, length, payload) == u32_at(frame, 8)).then_some(payload)
}

/// Reads the next frame of a segment from a stream and leaves its payload in `buffer`. `false` at the end of the
/// stream; an error of the kind `InvalidData` when what follows is not a good frame.
pub fn read_frame(stream: &mut impl Read, salt: u64, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut head = [0; FRAME_OVERHEAD_BYTES];
    if stream.read(&mut head[..1])? == 0 {
        return Ok(false);
    }
    stream.read_exact(&mut head[1..])?;
    let length = u32_at(&head, 4);
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a frame is damaged");
    if &head[..4] != MARKER || length as usize > MAX_PAYLOAD_BYTES {
        return Err(damaged());
    }
    buffer.resize(length as usize, 0);
    stream.read_exact(buffer)?;
    if checksum(salt, length, buffer) == u32_at(&head, 8) { Ok(true) } else { Err(damaged()) }
}

/// Whether a good frame begins anywhere at or behind `offset`.
pub fn good_frame_behind(segment: &[u8], offset: usize, salt: u64) -> bool {
    let rest = segment.get(offset..).unwrap_or_default();
    rest.windows(MARKER.len())
        .enumerate()
        .any(|(distance, window)| window == MARKER && frame_at(segment, offset + distance, salt).is_some())
}

fn checksum(salt: u64, length: u32, payload: &[u8]) -> u32 {
    let mut prefix = [0; 12];
    prefix[..8].copy_from_slice(&salt.to_le_bytes());
    prefix[8..].copy_from_slice(&length.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&prefix), payload)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader { incarnation: Incarnation(3), first_sequence: 17, salt: 99 };

    #[test]
    fn a_header_with_any_flipped_bit_is_refused() {
        let bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_with_any_flipped_bit_or_a_missing_end_is_refused() {
        let mut bytes = Vec::new();
        encode_frame(7, &mut bytes, |buffer| buffer.extend_from_slice(b"payload"));
        assert_eq!(frame_at(&bytes, 0, 7), Some(&b"payload"[..]));
        assert_eq!(frame_at(&bytes, 0, 8), None, "another segment's salt");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(frame_at(&damaged, 0, 7), None, "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert_eq!(frame_at(&bytes[..end], 0, 7), None, "cut at {end}");
        }
    }

    #[test]
    fn a_good_frame_behind_a_bad_one_is_found_and_a_forged_one_is_not() {
        let mut bytes = b"torn".to_vec();
        encode_frame(8, &mut bytes, |buffer| buffer.extend_from_slice(b"forged without the salt"));
        assert!(!good_frame_behind(&bytes, 0, 7));
        encode_frame(7, &mut bytes, |buffer| buffer.extend_from_slice(b"real"));
        assert!(good_frame_behind(&bytes, 0, 7));
    }
}
