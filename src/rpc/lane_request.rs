//! The requests of the fast lane, read without a copy.
//!
//! Each function gives `None` for whatever is not the plain form of its request, even if it would be valid: the
//! generated services read that.

use bytes::Bytes;

use crate::model::limits::{MAX_BATCH_GET_IDS, MAX_REQUEST_BYTES};

/// The tag of field 1 as a string, in both requests.
const ID_TAG: u8 = 1 << 3 | 2;

/// The one message of a body: an uncompressed frame and nothing behind it.
pub fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    (prefix[0] == 0 && length == message.len() && length <= MAX_REQUEST_BYTES).then_some(message)
}

/// The same without a copy, as bytes of its own.
pub fn shared_message(body: &Bytes) -> Option<Bytes> {
    let length = message(body)?.len();
    Some(body.slice(body.len() - length..))
}

/// The id in a `GetProfileRequest` that has nothing else.
pub fn id(message: &[u8]) -> Option<&str> {
    let (id, rest) = split_id(std::str::from_utf8(message).ok()?)?;
    rest.is_empty().then_some(id)
}

/// The ids in a `BatchGetProfilesRequest` that has nothing else, if they are not too many. There may be repeats
/// among them.
pub fn ids(message: &[u8]) -> Option<Vec<&str>> {
    // The whole message is a text if its ids are, since their tags and lengths are ASCII: checked once, and not id by id.
    let mut rest = std::str::from_utf8(message).ok()?;
    let mut ids = Vec::with_capacity(128);
    while !rest.is_empty() {
        let (id, behind) = split_id(rest)?;
        if ids.len() == MAX_BATCH_GET_IDS {
            return None;
        }
        ids.push(id);
        rest = behind;
    }
    (!ids.is_empty()).then_some(ids)
}

/// Splits the string of field 1 off the front; an id needs one byte of length.
fn split_id(message: &str) -> Option<(&str, &str)> {
    let &[tag, length] = message.as_bytes().first_chunk::<2>()?;
    if tag != ID_TAG || length >= 0x80 {
        return None;
    }
    message.get(2..)?.split_at_checked(usize::from(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use prost_types::FieldMask;

    use super::*;
    use crate::pb::{BatchGetProfilesRequest, GetProfileRequest};

    #[test]
    fn a_body_is_one_uncompressed_message() {
        assert_eq!(message(b"\0\0\0\0\x02ab"), Some(&b"ab"[..]));
        assert_eq!(message(b"\0\0\0\0\0"), Some(&b""[..]));
        assert_eq!(shared_message(&Bytes::from_static(b"\0\0\0\0\x02ab")).as_deref(), Some(&b"ab"[..]));
        for other in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x02ab", b"\0\0\0\0\x02a", b"\0\0\0\0\x02abc"] {
            assert_eq!(message(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_plain_requests_are_read() {
        let get = GetProfileRequest { id: "a".into(), read_mask: None };
        let masked = GetProfileRequest { read_mask: Some(FieldMask::default()), ..get.clone() };
        assert_eq!(id(&get.encode_to_vec()), Some("a"));
        assert_eq!(id(&masked.encode_to_vec()), None);
        assert_eq!(id(&[get.encode_to_vec(), get.encode_to_vec()].concat()), None);
        assert_eq!(id(b""), None);
        assert_eq!(id(b"\x0a\x01\xff"), None, "not UTF-8");
        let request = |ids: &[&str]| BatchGetProfilesRequest {
            ids: ids.iter().map(|id| (*id).into()).collect(),
            read_mask: None,
        };
        assert_eq!(super::ids(&request(&["b", "a"]).encode_to_vec()), Some(vec!["b", "a"]));
        assert_eq!(super::ids(&request(&["b", "a", "b"]).encode_to_vec()), Some(vec!["b", "a", "b"]));
        assert_eq!(super::ids(b""), None);
        let names: Vec<_> = (0..=MAX_BATCH_GET_IDS).map(|number| number.to_string()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(super::ids(&request(&names[1..]).encode_to_vec()).is_some());
        assert!(super::ids(&request(&names).encode_to_vec()).is_none());
    }

    proptest! {
        /// What is read here is what prost reads.
        #[test]
        fn any_bytes_are_read_as_prost_reads_them_or_not_at_all(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                proptest::collection::vec((Just(b"\x0a\x02".to_vec()), "[a-c]{2}"), 0..6)
                    .prop_map(|parts| parts.into_iter().flat_map(|(tag, id)| [tag, id.into_bytes()].concat()).collect()),
            ]
        ) {
            if let Some(id) = id(&bytes) {
                let expected = GetProfileRequest { id: id.into(), read_mask: None };
                prop_assert_eq!(GetProfileRequest::decode(&bytes[..]).unwrap(), expected);
            }
            if let Some(ids) = super::ids(&bytes) {
                let request = BatchGetProfilesRequest::decode(&bytes[..]).unwrap();
                prop_assert_eq!(request.read_mask, None);
                prop_assert_eq!(request.ids, ids);
            }
        }
    }
}
