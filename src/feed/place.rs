//! Where a watch stands.
//!
//! ```text
//! kind (1) | length of the position (1) | position | cursor, for kind 2
//! kind: 0 changes, 1 snapshot at its start, 2 snapshot after a cursor, 3 snapshot listed to its end
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::store::{Cursor, Position};

/// Where a watch stands: everything before was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Behind a position.
    Changes(Position),
    /// In the middle of a snapshot: the changes up to a position, and the profiles up to a place of the listing.
    Snapshot {
        /// The changes up to here were sent.
        position: Position,
        /// The profiles up to here were sent.
        listing: Listing,
    },
}

/// How far the profiles of a snapshot were listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    Start,
    After(Cursor),
    End,
}

impl Place {
    /// The start of a snapshot.
    pub(super) fn snapshot(position: Position) -> Self {
        Self::Snapshot { position, listing: Listing::Start }
    }

    /// The position behind the last change that was sent.
    pub fn position(&self) -> Position {
        match self {
            Self::Changes(position) | Self::Snapshot { position, .. } => *position,
        }
    }

    pub(super) fn set_position(&mut self, to: Position) {
        match self {
            Self::Changes(position) | Self::Snapshot { position, .. } => *position = to,
        }
    }

    /// The place as bytes, for a token.
    pub fn encode(&self) -> Bytes {
        let (kind, cursor) = match self {
            Self::Changes(_) => (0, &[][..]),
            Self::Snapshot { listing: Listing::Start, .. } => (1, &[][..]),
            Self::Snapshot { listing: Listing::After(cursor), .. } => (2, &cursor.0[..]),
            Self::Snapshot { listing: Listing::End, .. } => (3, &[][..]),
        };
        let position = self.position();
        let mut bytes = BytesMut::with_capacity(2 + position.as_bytes().len() + cursor.len());
        bytes.put_u8(kind);
        bytes.put_u8(position.as_bytes().len() as u8);
        bytes.put_slice(position.as_bytes());
        bytes.put_slice(cursor);
        bytes.freeze()
    }

    /// Reads a place. `None` when the bytes are not one.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let (&kind, &length) = (bytes.first()?, bytes.get(1)?);
        let cursor_start = 2 + usize::from(length);
        let position = Position::new(bytes.get(2..cursor_start)?)?;
        let cursor = bytes.slice(cursor_start..);
        match (kind, cursor.is_empty()) {
            (0, true) => Some(Self::Changes(position)),
            (1, true) => Some(Self::Snapshot { position, listing: Listing::Start }),
            (2, false) => Some(Self::Snapshot { position, listing: Listing::After(Cursor(cursor)) }),
            (3, true) => Some(Self::Snapshot { position, listing: Listing::End }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_and_nothing_else_is() {
        let position = Position::new(b"a position").unwrap();
        let listings = [Listing::Start, Listing::After(Cursor(Bytes::from_static(b"c"))), Listing::End];
        let snapshots = listings.into_iter().map(|listing| Place::Snapshot { position, listing });
        for place in std::iter::once(Place::Changes(position)).chain(snapshots) {
            let bytes = place.encode();
            assert_eq!(Place::decode(&bytes), Some(place));
            assert_eq!(Place::decode(&bytes.slice(..5)), None);
        }
        for bad in [&b""[..], b"\0", b"\x09\0", b"\0\x20a position of more than 31 bytes in all", b"\0\0more"] {
            assert_eq!(Place::decode(&Bytes::from_static(bad)), None, "{bad:?}");
        }
    }
}
