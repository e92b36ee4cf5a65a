//! What callers type: e-mail addresses and domains; and what the fast lane reads of a request.

use profilestore::model::{Canonicalization, Domain, DomainKey, Email, IndexKey, ProfileId};
use profilestore::pb::{BatchGetProfilesRequest, GetProfileRequest};
use profilestore::rpc::lane_request;
use prost::Message;

use super::Input;

/// Stands in every text that must not come back in an error.
const CANARY: &str = "qzx7canary";

/// An address, a domain or an id.
pub fn email(data: &[u8]) {
    let mut input = Input(data);
    let settings = Canonicalization { fold_local_part: input.byte() % 2 == 0 };
    let Ok(text) = std::str::from_utf8(input.0) else { return };
    if let Ok(email) = Email::parse(text, settings, "email") {
        assert!(text.len() <= 254);
        let key = email.index_key();
        assert_eq!(IndexKey::from_stored(key.as_bytes()), Some(key.clone()));
        assert_eq!(&key.domain_key().domain(), email.domain());
        // The canonical form, put together from the key, is its own canonical form.
        let local = &key.as_bytes()[key.domain_key().as_bytes().len() + 1..];
        assert!(!local.contains(&0) && !local.is_empty());
        let canonical = format!("{}@{}", std::str::from_utf8(local).expect("a local part is text"), email.domain());
        // It need not be an address: the lower case of some letters has marks that the grammar refuses.
        if let Ok(again) = Email::parse(&canonical, settings, "email") {
            assert_eq!(again.index_key(), key, "{canonical:?}");
        }
    }
    if let Ok(domain) = Domain::parse(text, "domain") {
        assert_eq!(Domain::parse(domain.as_str(), "domain").as_ref(), Ok(&domain));
        let key = DomainKey::new(&domain);
        assert_eq!(DomainKey::from_stored(key.as_bytes()), Some(key.clone()));
        assert_eq!(key.domain(), domain);
    }
    if let Ok(id) = ProfileId::parse(text, "id") {
        assert_eq!(ProfileId::from_stored(text.as_bytes()), Some(id));
    }
    let marked = format!("{CANARY}{text}");
    let errors = [
        Email::parse(&marked, settings, "email").err(),
        Domain::parse(&marked, "domain").err(),
        ProfileId::parse(&marked, "id").err(),
    ];
    for error in errors.into_iter().flatten() {
        assert!(!error.to_string().contains(CANARY), "{error}");
    }
}

/// The requests that the fast lane reads: as prost reads them, or not at all.
pub fn lane_request(data: &[u8]) {
    let framed = [&[0], &(data.len() as u32).to_be_bytes()[..], data].concat();
    assert_eq!(lane_request::message(&framed), Some(data));
    for message in lane_request::message(data).into_iter().chain([data]) {
        if let Some(id) = lane_request::id(message) {
            let read = GetProfileRequest::decode(message).expect("the lane has read it");
            assert_eq!(read, GetProfileRequest { id: id.into(), read_mask: None });
        }
        if let Some(ids) = lane_request::ids(message) {
            let read = BatchGetProfilesRequest::decode(message).expect("the lane has read it");
            assert_eq!(read.read_mask, None);
            assert_eq!(read.ids, ids);
            assert!((1..=1000).contains(&ids.len()));
        }
    }
}
