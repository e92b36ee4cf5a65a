//! What was read of a file and is not used yet.
//!
//! Invariants: its memory is fixed, and holds a line of the largest size and one byte more; its place is where the unread
//! part begins, and the checksum of the place is that of everything before it.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// The longest line, in bytes. The largest profile, of nothing but characters that JSON escapes with six bytes, fits.
pub const MAX_LINE_BYTES: usize = 256 * 1024;
/// How much is read at a time at least.
const READ_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A place between two lines of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// The bytes before it.
    pub offset: u64,
    /// The line ends before it.
    pub lines: u64,
    /// CRC-32C of the bytes before it.
    pub checksum: u32,
}

impl Place {
    /// The place so many bytes further on.
    pub fn after(self, bytes: &[u8]) -> Self {
        Self {
            offset: self.offset + bytes.len() as u64,
            lines: self.lines + bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
            checksum: crc32c::crc32c_append(self.checksum, bytes),
        }
    }
}

/// A part of a file in memory.
pub struct Window<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    place: Place,
}

impl<R: Read> Window<R> {
    /// Begins to read at a place at which the source stands.
    pub fn new(source: R, place: Place) -> Self {
        let buffer = vec![0; MAX_LINE_BYTES + READ_BYTES].into_boxed_slice();
        Self { source, buffer, start: 0, end: 0, place }
    }

    /// What was read and is not used yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Where the unread part begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Reads more behind the unread part, which must not be larger than [`MAX_LINE_BYTES`]; `false` at the end.
    pub fn more(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The first `bytes` of the unread part are used.
    pub fn consume(&mut self, bytes: usize) {
        self.place = self.place.after(&self.buffer[self.start..self.start + bytes]);
        self.start += bytes;
    }

    /// Leaves out everything up to the next line, which stands behind one of these ends.
    pub fn skip_line(&mut self, ends: &[u8]) -> io::Result<()> {
        loop {
            let unread = self.unread();
            match unread.iter().position(|byte| ends.contains(byte)) {
                Some(at) => {
                    self.consume(at + 1);
                    return Ok(());
                }
                None => self.consume(unread.len()),
            }
            if !self.more()? {
                return Ok(());
            }
        }
    }

    /// Leaves out the mark with which some programs begin a file in UTF-8.
    pub fn skip_byte_order_mark(&mut self) -> io::Result<()> {
        while self.unread().len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(self.unread()) {
            if !self.more()? {
                return Ok(());
            }
        }
        if self.unread().starts_with(BYTE_ORDER_MARK) {
            self.consume(BYTE_ORDER_MARK.len());
        }
        Ok(())
    }
}

/// A line, or a record of several, as it stands in the file.
pub struct Found<T> {
    /// What it says, or why it cannot be used.
    pub content: Result<T, String>,
    /// Its bytes, without its end; empty when it is too long.
    pub text: Vec<u8>,
    /// The number of its first line, from 1.
    pub line: u64,
    /// Where the next one begins.
    pub end: Place,
}

/// Why a line over the limit cannot be used.
pub fn too_long() -> String {
    format!("has more than {MAX_LINE_BYTES} bytes")
}

/// What is said besides of a bad line that has no end.
pub const TORN: &str = "; the input ends in the middle of this line";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_however_the_bytes_before_it_were_read() {
        let text = b"one\ntwo\nthree";
        let whole = Place::default().after(text);
        assert_eq!((whole.offset, whole.lines), (13, 2));
        for cut in 0..text.len() {
            assert_eq!(Place::default().after(&text[..cut]).after(&text[cut..]), whole);
        }
    }

    #[test]
    fn a_line_of_any_length_is_skipped_in_fixed_memory() {
        let long = vec![b'x'; 3 * MAX_LINE_BYTES];
        let text = [&long[..], b"\nnext"].concat();
        let mut window = Window::new(&text[..], Place::default());
        window.skip_line(b"\n").unwrap();
        assert_eq!((window.place().offset, window.place().lines), (long.len() as u64 + 1, 1));
        window.more().unwrap();
        assert_eq!(window.unread(), b"next");
        assert_eq!(window.buffer.len(), MAX_LINE_BYTES + READ_BYTES);
    }

    #[test]
    fn a_byte_order_mark_is_left_out_at_the_beginning_only() {
        for (text, rest) in [(&b"\xef\xbb\xbfa"[..], &b"a"[..]), (b"a", b"a"), (b"\xef\xbb", b"\xef\xbb"), (b"", b"")]
        {
            let mut window = Window::new(text, Place::default());
            window.skip_byte_order_mark().unwrap();
            assert_eq!(window.unread(), rest);
        }
    }
}
