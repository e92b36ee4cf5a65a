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
    entry.extend_from_slice(key.as_bytes());
    entry.push(ID_START);
    entry.extend_from_slice(id.as_bytes());
    entry
}

/// The index key's bytes and the id of an entry. `None` when the bytes are not an entry.
pub fn split_entry(entry: &[u8]) -> Option<(&[u8], ProfileId)> {
    // An id has no 0x00, so the last one is the separator.
    let end = entry.iter().rposition(|&byte| byte == ID_START)?;
    IndexKey::from_stored(&entry[..end])?;
    Some((&entry[..end], ProfileId::from_stored(&entry[end + 1..])?))
}

/// The bytes with which all entries of a scope begin. For [`Scope::All`], whose entries are ids: nothing.
pub fn scope_prefix(scope: &Scope) -> Vec<u8> {
    match scope {
        Scope::All => Vec::new(),
        Scope::Domain(domain) => domain.own_entries_prefix(),
        Scope::Subtree(domain) => domain.as_bytes().to_vec(),
        Scope::Email(key) => {
            let mut prefix = key.as_bytes().to_vec();
            prefix.push(ID_START);
            prefix
        }
    }
}

/// Where the next page of a scope begins: after its cursor, or at its first entry.
pub fn page_start(scope: &Scope, after: Option<&Cursor>) -> Result<Bound<Vec<u8>>, StoreError> {
    let prefix = scope_prefix(scope);
    let Some(Cursor(last)) = after else { return Ok(Bound::Included(prefix)) };
    let readable = match scope {
        Scope::All => ProfileId::from_stored(last).is_some(),
        _ => last.starts_with(&prefix) && split_entry(last).is_some(),
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

/// Reads one page from a scope's entries in order. `load` gives the record of an entry, or `None` when
/// the entry is no longer true, since an ordered scan is not a snapshot.
pub fn read_page<E: AsRef<[u8]>>(
    mut entries: impl Iterator<Item = Result<E, StoreError>>,
    bounds: PageBounds,
    mut load: impl FnMut(&[u8]) -> Result<Option<Record>, StoreError>,
) -> Result<Page, StoreError> {
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    let mut last: Option<E> = None;
    for entry in entries.by_ref() {
        let entry = entry?;
        let Some(record) = load(entry.as_ref())? else { continue };
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
        assert_eq!(split_entry(&entry), Some((key.as_bytes(), id)));
        assert_eq!(split_entry(b"com\0"), None);
        assert_eq!(split_entry(b""), None);
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
