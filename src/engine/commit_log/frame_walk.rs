//! Going from frame to frame through one segment while another thread may append to it.
//!
//! Relies on nobody asking for a frame that is not known to be durable: what lies behind may be half written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::frame::{FRAME_OVERHEAD_BYTES, HEADER_BYTES, SegmentHeader, frame_at};
use super::segment;
use crate::model::Incarnation;

/// How much is read at a time.
const CHUNK_BYTES: usize = 128 * 1024;
/// A payload begins with its first sequence number: a tag and at most ten bytes.
const SEQUENCE_TAG: u8 = 1 << 3;
const SEQUENCE_MAX_BYTES: usize = 11;

/// Where a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first sequence number of the segment.
    pub segment: u64,
    /// The segment's salt.
    pub salt: u64,
    /// The frame's offset, in bytes.
    pub offset: u64,
    /// The first sequence number of the frame.
    pub first_sequence: u64,
}

/// An open segment and the frame that comes next.
pub struct FrameWalk {
    file: File,
    segment: u64,
    salt: u64,
    /// Where the next frame begins.
    offset: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file.
    buffer_offset: u64,
}

impl FrameWalk {
    /// At the first frame of a segment. `None` when there is no such file.
    pub fn open(dir: &Path, segment: u64, incarnation: Incarnation) -> io::Result<Option<Self>> {
        let start = Place { segment, salt: 0, offset: HEADER_BYTES as u64, first_sequence: segment };
        let Some(mut walk) = Self::at(dir, start)? else { return Ok(None) };
        walk.offset = 0;
        let header = SegmentHeader::decode(walk.bytes(HEADER_BYTES)?).ok();
        match header {
            Some(header) if header.incarnation == incarnation && header.first_sequence == segment => {
                walk.salt = header.salt;
                walk.offset = HEADER_BYTES as u64;
                Ok(Some(walk))
            }
            _ => Err(damaged(segment, 0)),
        }
    }

    /// At a place that was found before. `None` when the file is gone.
    pub fn at(dir: &Path, place: Place) -> io::Result<Option<Self>> {
        let file = match File::open(segment::path(dir, place.segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let Place { segment, salt, offset, .. } = place;
        Ok(Some(Self { file, segment, salt, offset, buffer: Vec::new(), buffer_offset: 0 }))
    }

    /// Where the next frame begins, which has this first sequence number.
    pub fn place(&self, first_sequence: u64) -> Place {
        Place { segment: self.segment, salt: self.salt, offset: self.offset, first_sequence }
    }

    /// Goes back, or on, to a place in the same segment.
    pub fn go_to(&mut self, place: Place) {
        self.offset = place.offset;
    }

    /// The payload of the next frame, checked; `None` at the end of the file.
    pub fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(length) = self.frame_length()? else { return Ok(None) };
        let (segment, offset, salt) = (self.segment, self.offset, self.salt);
        self.offset += length as u64;
        let frame = self.bytes_at(offset, length)?;
        match frame_at(frame, 0, salt) {
            Some(payload) => Ok(Some(payload)),
            None => Err(damaged(segment, offset)),
        }
    }

    /// The first sequence number of the next frame, unchecked; `None` where no frame follows.
    pub fn peek(&mut self) -> io::Result<Option<u64>> {
        let start = self.bytes(FRAME_OVERHEAD_BYTES + SEQUENCE_MAX_BYTES)?;
        let Some(mut payload) =
            start.get(FRAME_OVERHEAD_BYTES..).filter(|payload| payload.first() == Some(&SEQUENCE_TAG))
        else {
            return Ok(None);
        };
        payload = &payload[1..];
        Ok(prost::encoding::decode_varint(&mut payload).ok())
    }

    /// Goes over the next frame without looking at it.
    pub fn skip(&mut self) -> io::Result<()> {
        self.offset += self.frame_length()?.unwrap_or(0) as u64;
        Ok(())
    }

    fn frame_length(&mut self) -> io::Result<Option<usize>> {
        let head = self.bytes(FRAME_OVERHEAD_BYTES)?;
        let Some(length) = head.get(4..8) else {
            let torn = !head.is_empty();
            return if torn { Err(damaged(self.segment, self.offset)) } else { Ok(None) };
        };
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > super::frame::MAX_PAYLOAD_BYTES {
            Err(damaged(self.segment, self.offset))
        } else {
            Ok(Some(FRAME_OVERHEAD_BYTES + length))
        }
    }

    fn bytes(&mut self, length: usize) -> io::Result<&[u8]> {
        self.bytes_at(self.offset, length)
    }

    /// So many bytes of the file, or fewer at its end.
    fn bytes_at(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let buffered = offset.checked_sub(self.buffer_offset).map(|skip| skip as usize);
        let buffered = buffered.filter(|skip| skip + length <= self.buffer.len());
        let start = match buffered {
            Some(start) => start,
            None => {
                self.buffer.clear();
                self.buffer_offset = offset;
                self.file.seek(SeekFrom::Start(offset))?;
                (&self.file).take(length.max(CHUNK_BYTES) as u64).read_to_end(&mut self.buffer)?;
                0
            }
        };
        Ok(&self.buffer[start..self.buffer.len().min(start + length)])
    }
}

fn damaged(segment: u64, offset: u64) -> io::Error {
    let what = format!("commit log segment {segment}: the frame at byte {offset} is damaged");
    io::Error::new(io::ErrorKind::InvalidData, what)
}
