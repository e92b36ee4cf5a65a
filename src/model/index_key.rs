//! The keys of the e-mail and domain index.
//!
//! One ordered index answers three questions (exact e-mail, exact domain, domain with subdomains) because
//! a domain's labels are stored in reverse:
//!
//! ```text
//! DomainKey   label 0x00 label 0x00 …        jan@mail.example.com → com 00 example 00 mail 00
//! IndexKey    DomainKey 0x01 local-part                            … 01 jan
//! entry       IndexKey 0x00 id               (made by the engine)  … 01 jan 00 user-7
//! ```
//!
//! Invariants: a label holds only `a`–`z`, `0`–`9` and `-`, all above 0x01, and a local part holds no
//! control character. Hence a domain's own entries (0x01 after the domain) come before those of its
//! subdomains, a prefix never ends inside a label, and bytewise order is order label by label.

use super::domain::Domain;

const LABEL_END: u8 = 0x00;
const DOMAIN_END: u8 = 0x01;

/// The sort key of a domain: its labels reversed, each with an end mark.
///
/// It is a prefix of the key of every domain below it and of every index key in that subtree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainKey(Box<[u8]>);

impl DomainKey {
    /// The key of a domain.
    pub fn new(domain: &Domain) -> Self {
        let mut key = Vec::with_capacity(domain.as_str().len() + 1);
        for label in domain.labels_reversed() {
            key.extend_from_slice(label.as_bytes());
            key.push(LABEL_END);
        }
        Self(key.into())
    }

    /// Reads a key that an engine stored. `None` when the bytes are not such a key.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        let is_label = |label: &[u8]| !label.is_empty() && label.iter().all(|&byte| byte > b' ' && byte.is_ascii());
        let well_formed = bytes
            .strip_suffix(&[LABEL_END])
            .is_some_and(|labels| labels.split(|&byte| byte == LABEL_END).all(is_label));
        well_formed.then(|| Self(bytes.into()))
    }

    /// The domain that the key stands for.
    pub fn domain(&self) -> Domain {
        let labels = self.0[..self.0.len() - 1].rsplit(|&byte| byte == LABEL_END);
        let labels: Vec<_> = labels.map(String::from_utf8_lossy).collect();
        Domain::from_canonical(labels.join("."))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes with which the index keys of exactly this domain begin.
    pub fn own_entries_prefix(&self) -> Vec<u8> {
        let mut prefix = self.0.to_vec();
        prefix.push(DOMAIN_END);
        prefix
    }

    /// This domain and all its ancestors, up to the top-level domain.
    pub fn with_ancestors(&self) -> impl Iterator<Item = DomainKey> {
        let label_ends = self.0.iter().enumerate().filter(|(_, byte)| **byte == LABEL_END);
        label_ends.map(|(index, _)| DomainKey(self.0[..=index].into()))
    }
}

/// The sort key of a canonical e-mail address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexKey(Box<[u8]>);

impl IndexKey {
    pub(super) fn new(domain: &Domain, local_part: &str) -> Self {
        let mut key = DomainKey::new(domain).own_entries_prefix();
        key.extend_from_slice(local_part.as_bytes());
        Self(key.into())
    }

    /// Reads a key that an engine stored. `None` when the bytes are not such a key.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == DOMAIN_END)?;
        DomainKey::from_stored(&bytes[..end])?;
        Some(Self(bytes.into()))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What stored bytes of a key begin with: the key of each domain from the top-level domain down to its own, and
    /// then the prefix of that domain's own entries. Nothing for what is not a key.
    pub fn domain_prefixes(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        let end = bytes.iter().position(|&byte| byte == DOMAIN_END).map_or(0, |end| end + 1);
        let ends = bytes[..end].iter().enumerate().filter(|(_, byte)| matches!(**byte, LABEL_END | DOMAIN_END));
        ends.map(|(index, _)| &bytes[..=index])
    }

    /// The key of the address's domain.
    pub fn domain_key(&self) -> DomainKey {
        // The constructors make sure that the mark is there; without it the whole key would be a domain.
        let end = self.0.iter().position(|&byte| byte == DOMAIN_END).unwrap_or(self.0.len());
        DomainKey(self.0[..end].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain_key(domain: &str) -> DomainKey {
        DomainKey::new(&Domain::parse(domain, "domain").unwrap())
    }

    #[test]
    fn a_key_leads_back_to_its_domain() {
        for domain in ["localhost", "example.com", "a.b.c.example.com"] {
            let key = domain_key(domain);
            assert_eq!(key.domain().as_str(), domain);
            assert_eq!(DomainKey::from_stored(key.as_bytes()), Some(key));
        }
        assert_eq!(DomainKey::from_stored(b""), None);
        assert_eq!(DomainKey::from_stored(b"com"), None);
        assert_eq!(DomainKey::from_stored(b"\0"), None);
        assert_eq!(DomainKey::from_stored(b"com\0\0"), None);
    }

    #[test]
    fn order_is_label_by_label_and_subtrees_never_interleave() {
        let mut domains =
            ["a-b.example", "b.a.example", "a.example", "example", "badexample", "x.a-b.example", "ab.example"];
        domains.sort_by_key(|domain| domain_key(domain));
        assert_eq!(
            domains,
            ["badexample", "example", "a.example", "b.a.example", "a-b.example", "x.a-b.example", "ab.example"]
        );
    }

    #[test]
    fn ancestors_include_the_domain_itself_and_end_at_the_top() {
        let ancestors: Vec<_> =
            domain_key("a.b.example").with_ancestors().map(|key| key.domain().to_string()).collect();
        assert_eq!(ancestors, ["example", "b.example", "a.b.example"]);
    }

    #[test]
    fn an_index_key_knows_its_domain() {
        let key = IndexKey::new(&Domain::parse("mail.example.com", "domain").unwrap(), "jan");
        assert_eq!(key.domain_key(), domain_key("mail.example.com"));
        assert_eq!(key.as_bytes(), b"com\0example\0mail\0\x01jan");
        let prefixes: Vec<_> = IndexKey::domain_prefixes(key.as_bytes()).collect();
        let mut expected: Vec<_> = key.domain_key().with_ancestors().map(|key| key.as_bytes().to_vec()).collect();
        expected.push(key.domain_key().own_entries_prefix());
        assert_eq!(prefixes, expected);
        assert_eq!(IndexKey::domain_prefixes(b"").count(), 0);
    }
}
