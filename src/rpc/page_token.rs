//! Page tokens: opaque, bound to their call, safe to hand out.
//!
//! ```text
//! base64url of: version 1 | fingerprint u64 | cursor | crc u32     (big-endian)
//! ```
//!
//! The fingerprint is of the call's name and canonical arguments. It is the same in every version and process, so a
//! token survives restarts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tonic::Status;

use super::error::invalid_page_token;
use crate::store::Cursor;

const VERSION: u8 = 1;
/// A token holds at most an index entry; anything longer was not made here.
const MAX_TOKEN_CHARS: usize = 2048;

/// What a token is bound to: the name of the call and its arguments but for `page_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a call and its arguments, each in canonical form.
    pub fn new(call: &str, arguments: &[&[u8]]) -> Self {
        // FNV-1a over the parts with their lengths: stable for ever, and all that is asked of it is to tell
        // honest calls apart.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut add = |bytes: &[u8]| {
            for byte in (bytes.len() as u64).to_be_bytes().iter().chain(bytes) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        add(call.as_bytes());
        for argument in arguments {
            add(argument);
        }
        Self(hash)
    }
}

/// The token of the page after a cursor; empty at the end.
pub fn encode(next: Option<&Cursor>, fingerprint: Fingerprint) -> String {
    let Some(Cursor(cursor)) = next else { return String::new() };
    let mut bytes = Vec::with_capacity(cursor.len() + 13);
    bytes.push(VERSION);
    bytes.extend_from_slice(&fingerprint.0.to_be_bytes());
    bytes.extend_from_slice(cursor);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The cursor of a token; `None` for the first page.
pub fn decode(token: &str, fingerprint: Fingerprint) -> Result<Option<Cursor>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() > MAX_TOKEN_CHARS {
        return Err(invalid_page_token());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid_page_token())?;
    let cursor = read(&bytes, fingerprint).ok_or_else(invalid_page_token)?;
    Ok(Some(Cursor(cursor.to_vec().into())))
}

fn read(bytes: &[u8], fingerprint: Fingerprint) -> Option<&[u8]> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    let (version, rest) = content.split_first()?;
    let (bound_to, cursor) = rest.split_first_chunk::<8>()?;
    let good = u32::from_be_bytes(*crc) == crc32c::crc32c(content)
        && *version == VERSION
        && u64::from_be_bytes(*bound_to) == fingerprint.0;
    good.then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_token_leads_back_to_its_cursor_and_any_changed_character_is_refused(
            cursor in proptest::collection::vec(0u8.., 0..200),
            position in 0usize..1000,
            replacement in "[A-Za-z0-9_-]",
        ) {
            let fingerprint = Fingerprint::new("Call", &[b"argument"]);
            let cursor = Cursor(cursor.into());
            let token = encode(Some(&cursor), fingerprint);
            proptest::prop_assert_eq!(decode(&token, fingerprint).unwrap(), Some(cursor));
            let position = position % token.len();
            let mut damaged = token.clone();
            damaged.replace_range(position..=position, &replacement);
            if damaged != token {
                proptest::prop_assert!(decode(&damaged, fingerprint).is_err());
            }
            proptest::prop_assert!(decode(&token[1..], fingerprint).is_err());
        }
    }

    #[test]
    fn a_token_of_another_call_is_refused() {
        let token = encode(Some(&Cursor(bytes::Bytes::from_static(b"x"))), Fingerprint::new("A", &[b"1", b"23"]));
        for other in [Fingerprint::new("B", &[b"1", b"23"]), Fingerprint::new("A", &[b"12", b"3"])] {
            assert!(decode(&token, other).is_err());
        }
    }

    #[test]
    fn a_fingerprint_never_changes() {
        assert_eq!(Fingerprint::new("QueryProfilesByDomain", &[b"example.com", &[1]]).0, 7_079_051_429_999_818_541);
    }
}
