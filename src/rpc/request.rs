//! What requests have in common: page sizes, page tokens, read masks.
//!
//! Invariant: validation collects. A request is answered with everything that is wrong with it.

use prost_types::FieldMask;

use super::error::RpcError;
use super::page_token::{CallFingerprint, PageToken};
use crate::model::limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE};
use crate::model::{ReadMask, Violations};
use crate::store::{Cursor, Scope};

/// The page that a caller asks for, as it was sent.
#[derive(Debug)]
pub struct Paging {
    /// How many entries at most; 0 leaves it to the server.
    pub page_size: i32,
    /// The token of the page before; empty for the first page.
    pub page_token: String,
}

/// The page that a caller asks for, validated; its token may still be another call's.
#[derive(Debug)]
pub struct PageRequest {
    /// How many entries at most.
    pub max_entries: usize,
    token: Option<PageToken>,
}

impl Paging {
    /// Validates the page together with the call's other arguments, whose violations so far are `violations`.
    ///
    /// A damaged token beside other violations is one more of them; alone it has a reason of its own.
    pub fn parse(self, mut violations: Violations) -> Result<PageRequest, RpcError> {
        let max_entries = violations.check(page_size(self.page_size));
        let token = if self.page_token.is_empty() { None } else { Some(PageToken::decode(&self.page_token)) };
        match (max_entries, token) {
            (Some(max_entries), None) if violations.is_empty() => Ok(PageRequest { max_entries, token: None }),
            (Some(max_entries), Some(Some(token))) if violations.is_empty() => {
                Ok(PageRequest { max_entries, token: Some(token) })
            }
            (_, Some(None)) if violations.is_empty() => Err(RpcError::InvalidPageToken),
            (_, token) => {
                if token == Some(None) {
                    violations.add("page_token", "must be the next_page_token of a call with the same arguments");
                }
                Err(violations.into())
            }
        }
    }
}

impl PageRequest {
    /// Where the page goes on, if there is a token and it is this call's.
    pub fn cursor(self, call: CallFingerprint) -> Result<Option<Cursor>, RpcError> {
        match self.token {
            None => Ok(None),
            Some(token) => token.cursor_for(call).map(Some).ok_or(RpcError::InvalidPageToken),
        }
    }
}

fn page_size(page_size: i32) -> Result<usize, Violations> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
        Err(_) => Err(Violations::one("page_size", "must not be negative")),
    }
}

/// A count as the API's messages have it.
pub fn to_int64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The fingerprint of a call that goes through a scope.
pub fn scope_fingerprint(call: &str, scope: &Scope) -> CallFingerprint {
    let call = CallFingerprint::new(call);
    match scope {
        Scope::All => call.and(b"all"),
        Scope::Domain(key) => call.and(b"domain").and(key.as_bytes()),
        Scope::Subtree(key) => call.and(b"subtree").and(key.as_bytes()),
        Scope::Email(key) => call.and(b"email").and(key.as_bytes()),
    }
}

/// The fingerprint of a call that lists a scope. Spellings of one domain, one address or one mask are equal.
pub fn fingerprint(call: &str, scope: &Scope, mask: &ReadMask, given_mask: Option<&FieldMask>) -> CallFingerprint {
    let call = scope_fingerprint(call, scope);
    let mut paths: Vec<_> =
        given_mask.filter(|_| !mask.is_all()).map(|mask| mask.paths.iter().collect()).unwrap_or_default();
    paths.sort_unstable();
    paths.dedup();
    paths.into_iter().fold(call, |call, path| call.and(path.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;

    fn parse(page_size: i32, page_token: &str, violations: Violations) -> Result<PageRequest, RpcError> {
        Paging { page_size, page_token: page_token.into() }.parse(violations)
    }

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask { paths: paths.iter().map(|path| path.to_string()).collect() }
    }

    fn fingerprint_of(domain: &str, include_subdomains: bool, paths: &[&str]) -> CallFingerprint {
        let scope = Scope::domain(&Domain::parse(domain, "domain").unwrap(), include_subdomains);
        let given = mask(paths);
        fingerprint("Call", &scope, &ReadMask::parse(Some(&given), "read_mask").unwrap(), Some(&given))
    }

    #[test]
    fn page_sizes_have_a_default_and_a_bound() {
        for (given, expected) in [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
            assert_eq!(parse(given, "", Violations::new()).unwrap().max_entries, expected);
        }
        assert!(matches!(parse(-1, "", Violations::new()), Err(RpcError::Invalid(_))));
    }

    #[test]
    fn a_damaged_token_is_reported_with_everything_else() {
        assert!(matches!(parse(1, "x", Violations::new()), Err(RpcError::InvalidPageToken)));
        let Err(RpcError::Invalid(violations)) = parse(-1, "x", Violations::one("domain", "must name a domain"))
        else {
            panic!("expected violations");
        };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["domain", "page_size", "page_token"]);
    }

    #[test]
    fn a_fingerprint_is_of_meanings_and_not_of_spellings() {
        let plain = fingerprint_of("bücher.example", false, &[]);
        assert_eq!(plain, fingerprint_of("XN--BCHER-KVA.example.", false, &["*"]));
        assert_ne!(plain, fingerprint_of("bücher.example", true, &[]));
        assert_ne!(plain, fingerprint_of("example", false, &[]));
        assert_ne!(plain, fingerprint_of("bücher.example", false, &["id"]));
        assert_eq!(
            fingerprint_of("a.example", false, &["id", "email"]),
            fingerprint_of("a.example", false, &["email", "id", "id"])
        );
    }
}
