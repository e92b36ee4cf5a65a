//! E-mail addresses and their published normalisation.

use email_address::{EmailAddress, Options};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::domain::Domain;
use super::index_key::IndexKey;
use super::limits::MAX_EMAIL_BYTES;
use super::violation::Violations;

/// The settings that decide what the canonical form of an address is.
///
/// They belong to a data directory: its index was built with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canonicalization {
    /// Whether the local part is compared without regard to case.
    pub fold_local_part: bool,
}

impl Default for Canonicalization {
    fn default() -> Self {
        Self { fold_local_part: true }
    }
}

/// What is wrong with an address whose domain is good.
const LOCAL_PART: &str =
    "must be an e-mail address: its local part is 1 to 64 bytes, words joined by single dots, or a quoted string";

fn is_address(ascii_domain_form: &str) -> bool {
    let options = Options::default().with_no_minimum_sub_domains().without_display_text().without_domain_literal();
    EmailAddress::parse_with_options(ascii_domain_form, options).is_ok()
}

/// A valid address in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    local_part: String,
    domain: Domain,
}

impl Email {
    /// Validates an address and brings it into canonical form; `field` is its path in the request.
    ///
    /// The order matters: split at the last `@`, NFC, domain to A-labels, and only then the grammar check,
    /// because the grammar check refuses valid Unicode domains.
    ///
    /// The canonical form is a key. Not always is it an address again: the lower case of `İ` has a dot of its own, which
    /// the grammar check takes only as a part of another letter.
    pub fn parse(address: &str, settings: Canonicalization, field: &str) -> Result<Self, Violations> {
        let violation = |description: String| Err(Violations::one(field, description));
        if address.len() > MAX_EMAIL_BYTES {
            return violation(format!("has {} bytes; at most {MAX_EMAIL_BYTES} are allowed", address.len()));
        }
        if address.chars().any(char::is_control) {
            return violation("must not contain control characters".into());
        }
        let Some((local_part, domain)) = address.rsplit_once('@') else {
            return violation("must be an e-mail address: a local part, @ and a domain".into());
        };
        let composed = composed(local_part);
        let domain = match Domain::parse(domain, field) {
            Ok(domain) => domain,
            Err(mut violations) => {
                // What is wrong with the other half is told too.
                if !is_address(&format!("{composed}@a.example")) {
                    violations.add(field, LOCAL_PART);
                }
                return Err(violations);
            }
        };
        let ascii_domain_form = format!("{composed}@{domain}");
        if ascii_domain_form.len() > MAX_EMAIL_BYTES {
            return violation(format!(
                "has {} bytes with its domain in ASCII form; at most {MAX_EMAIL_BYTES} are allowed",
                ascii_domain_form.len()
            ));
        }
        if !is_address(&ascii_domain_form) {
            return violation(LOCAL_PART.into());
        }
        let local_part = if settings.fold_local_part {
            // Lower case may undo the composition, so compose again.
            self::composed(&composed.to_lowercase())
        } else {
            composed
        };
        Ok(Self { local_part, domain })
    }

    /// The canonical domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The key under which the address is indexed.
    pub fn index_key(&self) -> IndexKey {
        IndexKey::new(&self.domain, &self.local_part)
    }

    #[cfg(test)]
    fn canonical(&self) -> String {
        format!("{}@{}", self.local_part, self.domain)
    }
}

/// The text in NFC. ASCII is so already, and nearly all addresses are ASCII.
fn composed(text: &str) -> String {
    if text.is_ascii() { text.to_owned() } else { text.nfc().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(address: &str) -> Option<String> {
        Email::parse(address, Canonicalization::default(), "email").ok().map(|email| email.canonical())
    }

    #[test]
    fn spellings_of_one_address_have_one_canonical_form() {
        assert_eq!(canonical("Ada@Example.COM").unwrap(), "ada@example.com");
        assert_eq!(canonical("ada@example.com.").unwrap(), "ada@example.com");
        assert_eq!(canonical("JU\u{308}RGEN@bücher.example").unwrap(), "jürgen@xn--bcher-kva.example");
        assert_eq!(canonical("jürgen@xn--bcher-kva.example").unwrap(), "jürgen@xn--bcher-kva.example");
        assert_eq!(canonical("root@localhost").unwrap(), "root@localhost");
        assert_eq!(canonical("\"a@b\"@example.com").unwrap(), "\"a@b\"@example.com");
    }

    #[test]
    fn a_letter_whose_lower_case_is_two_is_one_key_all_the_same() {
        assert_eq!(canonical("\u{130}@x.example").unwrap(), "i\u{307}@x.example");
        assert_eq!(canonical("I\u{307}@x.example"), canonical("\u{130}@x.example"), "composed and not");
        assert_ne!(canonical("\u{130}@x.example"), canonical("i@x.example"));
    }

    #[test]
    fn the_local_part_keeps_its_case_when_the_setting_says_so() {
        let settings = Canonicalization { fold_local_part: false };
        let email = Email::parse("Ada@Example.COM", settings, "email").unwrap();
        assert_eq!(email.canonical(), "Ada@example.com");
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long = format!("{}@{}.example", "a".repeat(60), vec!["b".repeat(60); 4].join("."));
        for bad in [
            "ada",
            "@example.com",
            "ada@",
            "a b@example.com",
            ".a@example.com",
            "a.@example.com",
            "a..b@example.com",
            "ada@[192.0.2.1]",
            "Ada <ada@example.com>",
            "a\n@example.com",
            "a\u{85}@example.com",
            "a@-b.example",
            "a@b_c.example",
            &long_local,
            &long,
        ] {
            assert_eq!(canonical(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn both_halves_are_told_of() {
        for (address, local_part, domain) in [
            ("a b@-b.example", true, true),
            (".a@example.com", true, false),
            ("@", true, true),
            ("ada@-b.example", false, true),
        ] {
            let wrong = Email::parse(address, Canonicalization::default(), "email").unwrap_err();
            let of_local_part = wrong.iter().filter(|each| each.description.contains("local part")).count();
            assert_eq!((of_local_part > 0, wrong.iter().count() > of_local_part), (local_part, domain), "{wrong}");
            assert!(wrong.iter().all(|each| each.field == "email"), "{wrong}");
        }
    }

    #[test]
    fn an_error_never_repeats_the_address() {
        let error = Email::parse("secret name@example.com", Canonicalization::default(), "email").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_is_its_own_canonical_form(address in "\\PC{1,20}@[a-zA-Zäöüß.-]{1,30}") {
            if let Some(once) = canonical(&address)
                && let Some(twice) = canonical(&once)
            {
                proptest::prop_assert_eq!(twice, once);
            }
        }
    }
}
