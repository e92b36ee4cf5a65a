//! Page tokens: a store's cursor, bound to the call that it continues.
//!
//! The text is base64url without padding of
//!
//! ```text
//! version (1) | fingerprint of the call, big-endian (8) | cursor (any) | CRC-32C of all before, big-endian (4)
//! ```
//!
//! Invariants: a token with any one character changed is refused, and so is a token of another call. The
//! fingerprint is FNV-1a over length-prefixed parts, so that it is the same in every process and version:
//! tokens survive restarts. It guards against mistakes, not against forgery; a forged cursor reads nothing
//! that its caller could not list anyway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::store::Cursor;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8;
const CHECKSUM_BYTES: usize = 4;

const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// What a call is about: its name and its canonical arguments, without the page's size and token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFingerprint(u64);

impl CallFingerprint {
    /// A call without arguments.
    pub fn new(call: &str) -> Self {
        Self(FNV_OFFSET_BASIS).and(call.as_bytes())
    }

    /// The hash itself, for keeping.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The same call with one more argument. The order of arguments counts.
    pub fn and(self, argument: &[u8]) -> Self {
        let length = (argument.len() as u64).to_be_bytes();
        let hash = length
            .iter()
            .chain(argument)
            .fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        Self(hash)
    }
}

/// A token that is undamaged but may be another call's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    call: CallFingerprint,
    cursor: Cursor,
}

impl PageToken {
    /// The token with which `call` goes on after `cursor`.
    pub fn new(call: CallFingerprint, cursor: Cursor) -> Self {
        Self { call, cursor }
    }

    /// The token as text.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.cursor.0.len() + CHECKSUM_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.call.0.to_be_bytes());
        bytes.extend_from_slice(&self.cursor.0);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token's text. `None` when it is damaged or of a version that is not known.
    pub fn decode(token: &str) -> Option<Self> {
        let bytes = Bytes::from(URL_SAFE_NO_PAD.decode(token).ok()?);
        let body_len = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|&length| length >= HEADER_BYTES)?;
        let checksum = u32::from_be_bytes(bytes[body_len..].try_into().ok()?);
        if crc32c::crc32c(&bytes[..body_len]) != checksum || bytes[0] != VERSION {
            return None;
        }
        let call = CallFingerprint(u64::from_be_bytes(bytes[1..HEADER_BYTES].try_into().ok()?));
        Some(Self { call, cursor: Cursor(bytes.slice(HEADER_BYTES..body_len)) })
    }

    /// The cursor, if the token is this call's.
    pub fn cursor_for(self, call: CallFingerprint) -> Option<Cursor> {
        (self.call == call).then_some(self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE64URL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ ";

    #[test]
    fn tokens_of_earlier_versions_are_still_read() {
        let call = CallFingerprint::new("QueryProfilesByDomain").and(b"com\0example\0").and(b"");
        let token = PageToken::new(call, Cursor(Bytes::from_static(b"com\0example\0\x01ada\0u1")));
        assert_eq!(token.encode(), "AZXJeeAIK-nYY29tAGV4YW1wbGUAAWFkYQB1MRQisCg");
    }

    #[test]
    fn arguments_are_told_apart_by_value_place_and_bounds() {
        let calls = [
            CallFingerprint::new("ListProfiles"),
            CallFingerprint::new("ListProfiles").and(b""),
            CallFingerprint::new("ListProfiles").and(b"ab").and(b"c"),
            CallFingerprint::new("ListProfiles").and(b"a").and(b"bc"),
            CallFingerprint::new("ListProfiles").and(b"c").and(b"ab"),
            CallFingerprint::new("ListDomains"),
        ];
        for (index, call) in calls.iter().enumerate() {
            assert!(!calls[..index].contains(call), "{index}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for bad in ["", "A", "AAAA", "not base64!", "AQAAAAAAAAAAAAAAAAA", "\u{0}", "ü"] {
            assert_eq!(PageToken::decode(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_cursor_for_its_call_only(
            cursor in prop::collection::vec(any::<u8>(), 0..300),
            arguments in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let call = CallFingerprint::new("ListProfiles").and(&arguments);
            let cursor = Cursor(cursor.into());
            let token = PageToken::decode(&PageToken::new(call, cursor.clone()).encode()).unwrap();
            prop_assert_eq!(token.clone().cursor_for(call), Some(cursor));
            prop_assert_eq!(token.cursor_for(call.and(b"")), None);
        }

        #[test]
        fn a_token_with_any_character_changed_is_refused(
            cursor in prop::collection::vec(any::<u8>(), 0..60),
            place in any::<prop::sample::Index>(),
            other in prop::sample::select(BASE64URL),
        ) {
            let mut token = PageToken::new(CallFingerprint::new("ListProfiles"), Cursor(cursor.into())).encode();
            let place = place.index(token.len());
            prop_assume!(token.as_bytes()[place] != other);
            token.replace_range(place..=place, char::from(other).encode_utf8(&mut [0; 4]));
            prop_assert_eq!(PageToken::decode(&token), None);
        }

        #[test]
        fn a_token_cut_short_or_drawn_out_is_refused(cursor in prop::collection::vec(any::<u8>(), 0..60), cut in 1..8usize) {
            let token = PageToken::new(CallFingerprint::new("ListProfiles"), Cursor(cursor.into())).encode();
            prop_assert_eq!(PageToken::decode(&token[..token.len() - cut]), None);
            prop_assert_eq!(PageToken::decode(&format!("{token}{}", "A".repeat(cut))), None);
        }
    }
}
