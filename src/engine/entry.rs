//! The entries of the e-mail and domain index, and how a page is read from an ordered range.
//!
//! An entry is an [`IndexKey`], 0x00, and the profile's id: entries of one address differ by their ids, and
//! neither part holds a 0x00 of its own behind the domain.

use std::ops::Bound;

use bytes::Bytes;

use crate::model::{DomainKey, IndexKey, ProfileId, Record};
use crate::store::{Cursor, DomainOrder, Page, PageBounds, Scope, StoreError};

const ID_START: u8 = 0x00;

/// The entry of a profile under its index key.
pub fn entry(key: &IndexKey, id: &ProfileId) -> Vec<u8> {
    let mut entry = Vec::with_capacity(key.as_bytes().len() + 1 + id.as_bytes().len());
    push_entry(&mut entry, key.as_bytes(), id.as_bytes());
    entry
}

/// Appends the entry of a profile under the bytes of its index key.
pub fn push_entry(buffer: &mut Vec<u8>, index_key: &[u8], id: &[u8]) {
    buffer.extend_from_slice(index_key);
    buffer.push(ID_START);
    buffer.extend_from_slice(id);
}

/// The bytes of the index key and of the id of an entry that a checksum covers. `None` without a separator.
pub fn split_entry(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    // An id has no 0x00, so the last one is the separator.
    let end = entry.iter().rposition(|&byte| byte == ID_START)?;
    Some((&entry[..end], &entry[end + 1..]))
}

/// The index key and the id of an entry that came from elsewhere. `None` when the bytes are not an entry.
pub fn parse_entry(entry: &[u8]) -> Option<(IndexKey, ProfileId)> {
    let (index_key, id) = split_entry(entry)?;
    Some((IndexKey::from_stored(index_key)?, ProfileId::from_stored(id)?))
}

/// The bytes with which all entries of a scope begin. For [`Scope::All`], whose entries are ids: nothing.
pub fn scope_prefix(scope: &Scope) -> Vec<u8> {
    let mut prefix = scope.key_prefix();
    if matches!(scope, Scope::Email(_)) {
        prefix.push(ID_START);
    }
    prefix
}

/// Where the next page of a scope begins: after its cursor, or at its first entry.
pub fn page_start(scope: &Scope, after: Option<&Cursor>) -> Result<Bound<Vec<u8>>, StoreError> {
    let prefix = scope_prefix(scope);
    let Some(Cursor(last)) = after else { return Ok(Bound::Included(prefix)) };
    let readable = match scope {
        Scope::All => ProfileId::from_stored(last).is_some(),
        _ => last.starts_with(&prefix) && parse_entry(last).is_some(),
    };
    if readable { Ok(Bound::Excluded(last.to_vec())) } else { Err(StoreError::InvalidCursor) }
}

/// The bytes with which the keys of a domain and all below it begin; of all domains: nothing.
pub fn domains_prefix(parent: Option<&DomainKey>) -> Vec<u8> {
    parent.map(|key| key.as_bytes().to_vec()).unwrap_or_default()
}

/// Where the next page of the domains under `parent` begins. Only index order has further pages.
pub fn domain_page_start(
    parent: Option<&DomainKey>,
    order: DomainOrder,
    after: Option<&Cursor>,
) -> Result<Bound<Vec<u8>>, StoreError> {
    let prefix = domains_prefix(parent);
    match after {
        None => Ok(Bound::Included(prefix)),
        Some(_) if order == DomainOrder::LargestFirst => Err(StoreError::InvalidCursor),
        Some(Cursor(last)) if last.starts_with(&prefix) && DomainKey::from_stored(last).is_some() => {
            Ok(Bound::Excluded(last.to_vec()))
        }
        Some(_) => Err(StoreError::InvalidCursor),
    }
}

/// Reads one page from a scope's rows in order, each with its entry (for [`Scope::All`]: its id).
pub fn read_page<E: AsRef<[u8]>>(
    rows: impl Iterator<Item = Result<(E, Record), StoreError>>,
    bounds: PageBounds,
) -> Result<Page, StoreError> {
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    let mut last: Option<E> = None;
    for row in rows {
        let (entry, record) = row?;
        if !bounds.has_room_for(&record, records.len(), bytes) {
            let next = last.map(|entry| Cursor(Bytes::copy_from_slice(entry.as_ref())));
            return Ok(Page { records, next });
        }
        bytes += PageBounds::cost(&record);
        records.push(record);
        last = Some(entry);
    }
    Ok(Page { records, next: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Canonicalization, Email};

    #[test]
    fn an_entry_leads_back_to_its_parts() {
        let key = Email::parse("jan@mail.example", Canonicalization::default(), "email").unwrap().index_key();
        let id = ProfileId::parse("user-7", "id").unwrap();
        let entry = entry(&key, &id);
        assert_eq!(split_entry(&entry), Some((key.as_bytes(), id.as_bytes())));
        assert_eq!(parse_entry(&entry), Some((key, id)));
        assert_eq!(parse_entry(b"com\0"), None);
        assert_eq!(parse_entry(b""), None);
    }

    #[test]
    fn a_cursor_of_another_scope_is_refused() {
        let email = Email::parse("jan@mail.example", Canonicalization::default(), "email").unwrap();
        let id = ProfileId::parse("user-7", "id").unwrap();
        let cursor = Cursor(entry(&email.index_key(), &id).into());
        assert!(page_start(&Scope::domain(email.domain(), false), Some(&cursor)).is_ok());
        let other = Email::parse("jan@other.example", Canonicalization::default(), "email").unwrap();
        let refused = page_start(&Scope::domain(other.domain(), true), Some(&cursor));
        assert_eq!(refused, Err(StoreError::InvalidCursor));
        assert_eq!(page_start(&Scope::All, Some(&cursor)), Err(StoreError::InvalidCursor));
    }
}
