//! E-mail domains.

use std::fmt;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

use super::limits::MAX_DOMAIN_INPUT_BYTES;
use super::violation::Violations;

/// A canonical e-mail domain: lower case, A-labels (UTS-46), no trailing dot, at most 253 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

impl Domain {
    /// Brings a domain into its canonical form; `field` is its path in the request.
    ///
    /// One trailing dot (the DNS root) is accepted and dropped. Labels follow STD3: letters, digits and
    /// hyphens that are neither first nor last; so underscores and address literals are refused.
    pub fn parse(domain: &str, field: &str) -> Result<Self, Violations> {
        let without_root = domain.strip_suffix('.').unwrap_or(domain);
        if without_root.is_empty() {
            return Err(Violations::one(field, "must name a domain"));
        }
        // Before the mapping, whose cost grows with the length of what it is given.
        if domain.len() > MAX_DOMAIN_INPUT_BYTES {
            let description = format!("has {} bytes; at most {MAX_DOMAIN_INPUT_BYTES} are allowed", domain.len());
            return Err(Violations::one(field, description));
        }
        Uts46::new()
            .to_ascii(without_root.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
            .map(|canonical| Self(canonical.into()))
            .map_err(|_| {
                let description = "must be a domain name: labels of letters, digits and inner hyphens, \
                                   each at most 63 bytes, 253 bytes in all";
                Violations::one(field, description)
            })
    }

    /// Puts a domain together from labels that were canonical when they were stored.
    pub(super) fn from_canonical(domain: String) -> Self {
        Self(domain.into())
    }

    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels from the last (top-level) to the first.
    pub fn labels_reversed(&self) -> impl Iterator<Item = &str> {
        self.0.rsplit('.')
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_domain_have_one_canonical_form() {
        for spelling in ["bücher.example", "BÜCHER.Example.", "xn--bcher-kva.example", "bu\u{308}cher.example"] {
            assert_eq!(Domain::parse(spelling, "domain").unwrap().as_str(), "xn--bcher-kva.example");
        }
        assert_eq!(Domain::parse("localhost", "domain").unwrap().as_str(), "localhost");
    }

    #[test]
    fn a_text_far_longer_than_any_domain_is_refused_before_it_is_mapped() {
        let long = "\u{4e00}.".repeat(MAX_DOMAIN_INPUT_BYTES / 4 + 1);
        let violations = Domain::parse(&long, "domain").unwrap_err();
        let violation = violations.iter().next().unwrap();
        assert_eq!(violation.field, "domain");
        assert!(violation.description.contains("at most 1024"), "{violation:?}");
    }

    #[test]
    fn what_is_not_a_domain_is_refused() {
        let label = "a".repeat(64);
        let long = format!("{}.example", vec!["a".repeat(49); 5].join("."));
        for bad in [
            "",
            ".",
            "a..b",
            "example.com..",
            "-a.example",
            "a-.example",
            "a_b.example",
            "[192.0.2.1]",
            "a b",
            &label,
            &long,
        ] {
            assert!(Domain::parse(bad, "domain").is_err(), "{bad:?}");
        }
    }
}
