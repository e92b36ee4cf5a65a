//! Scopes, pages and cursors.

use bytes::Bytes;

use crate::model::{Domain, DomainKey, Email, IndexKey, Record};

/// Which records a call is about, and in which order they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, in the order of their ids.
    All,
    /// Those of exactly this domain, in the order of local part and id.
    Domain(DomainKey),
    /// Those of this domain and all below it, in the order of domain (label by label), local part and id.
    Subtree(DomainKey),
    /// Those with exactly this e-mail, in the order of their ids.
    Email(IndexKey),
}

impl Scope {
    /// The scope of a domain, with or without its subdomains.
    pub fn domain(domain: &Domain, include_subdomains: bool) -> Self {
        let key = DomainKey::new(domain);
        if include_subdomains { Self::Subtree(key) } else { Self::Domain(key) }
    }

    /// With what the index keys of its profiles begin; nothing for all.
    pub fn key_prefix(&self) -> Vec<u8> {
        match self {
            Self::All => Vec::new(),
            Self::Domain(domain) => domain.own_entries_prefix(),
            Self::Subtree(domain) => domain.as_bytes().to_vec(),
            Self::Email(key) => key.as_bytes().to_vec(),
        }
    }

    /// The scope of an e-mail address.
    pub fn email(email: &Email) -> Self {
        Self::Email(email.index_key())
    }
}

/// Where a page ended. Opaque: only the engine that made it can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub Bytes);

/// The bounds of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageBounds {
    /// The most records; at least 1.
    pub max_records: usize,
    /// The most bytes of encoded profiles, each counted with the few bytes that frame it in a page.
    pub max_bytes: usize,
}

/// What framing adds to a profile in a page at most: a tag and a length of up to three bytes.
const FRAMING_BYTES: usize = 4;

impl PageBounds {
    /// Whether a page of so many records and bytes has room for another record.
    pub fn has_room_for(&self, record: &Record, records: usize, bytes: usize) -> bool {
        records == 0 || (records < self.max_records && bytes + Self::cost(record) <= self.max_bytes)
    }

    /// What a record takes of `max_bytes`.
    pub fn cost(record: &Record) -> usize {
        record.profile_len() + FRAMING_BYTES
    }
}

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The records in the scope's order.
    pub records: Vec<Record>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<Cursor>,
}

/// The order of a page of domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainOrder {
    /// Label by label from the top-level domain.
    Index,
    /// By the number of profiles, the most first.
    LargestFirst,
}

/// A domain and the number of its own profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainCount {
    /// The domain.
    pub domain: Domain,
    /// The number of profiles of exactly this domain.
    pub profiles: u64,
}

/// A page of domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainPage {
    /// The domains in the order asked for.
    pub domains: Vec<DomainCount>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<Cursor>,
}
