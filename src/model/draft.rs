//! What a caller wants stored: validated, canonical, encoded.

use bytes::Bytes;
use prost::Message;

use super::email::{Canonicalization, Email};
use super::id::ProfileId;
use super::index_key::IndexKey;
use super::limits::*;
use super::record::OUTPUT_FIELDS_MAX_BYTES;
use super::violation::Violations;
use crate::pb::Profile;

/// The fields that a caller decides, validated and already encoded; the engine only appends the fields that
/// it decides (etag and times).
///
/// Invariant: `encoded` holds the fields 1 to 5 of [`Profile`] in ascending order with a sorted map, so
/// equal drafts have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    id: ProfileId,
    encoded: Bytes,
    index_key: Option<IndexKey>,
}

impl Draft {
    /// Validates a profile and encodes it. Output-only fields are ignored. `path` is the profile's path in
    /// the request, such as `profile`; every violation is reported, each under its own path.
    pub fn from_profile(mut profile: Profile, settings: Canonicalization, path: &str) -> Result<Self, Violations> {
        let mut violations = Violations::new();
        let id = violations.check(ProfileId::parse(&profile.id, &format!("{path}.id")));
        let email = if profile.email.is_empty() {
            None
        } else {
            violations.check(Email::parse(&profile.email, settings, &format!("{path}.email")))
        };
        check_display_name(&profile.display_name, path, &mut violations);
        check_attributes(&profile, path, &mut violations);

        profile.domain = email.as_ref().map(|email| email.domain().to_string()).unwrap_or_default();
        profile.etag = String::new();
        profile.create_time = None;
        profile.update_time = None;
        let encoded_bytes = profile.encoded_len() + OUTPUT_FIELDS_MAX_BYTES;
        if encoded_bytes > MAX_PROFILE_BYTES {
            let description = format!("has {encoded_bytes} bytes encoded; at most {MAX_PROFILE_BYTES} are allowed");
            violations.add(path, description);
        }
        match id {
            Some(id) if violations.is_empty() => Ok(Self {
                id,
                encoded: profile.encode_to_vec().into(),
                index_key: email.map(|email| email.index_key()),
            }),
            _ => Err(violations),
        }
    }

    /// The profile's id.
    pub fn id(&self) -> &ProfileId {
        &self.id
    }

    /// The encoded caller's fields.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The key under which the profile is found by e-mail and domain; `None` without an e-mail.
    pub fn index_key(&self) -> Option<&IndexKey> {
        self.index_key.as_ref()
    }
}

fn check_display_name(name: &str, path: &str, violations: &mut Violations) {
    let field = || format!("{path}.display_name");
    if name.len() > MAX_DISPLAY_NAME_BYTES {
        let description = format!("has {} bytes; at most {MAX_DISPLAY_NAME_BYTES} are allowed", name.len());
        violations.add(field(), description);
    }
    if name.chars().any(char::is_control) {
        violations.add(field(), "must not contain control characters");
    }
}

fn check_attributes(profile: &Profile, path: &str, violations: &mut Violations) {
    let field = || format!("{path}.attributes");
    if profile.attributes.len() > MAX_ATTRIBUTES {
        let count = profile.attributes.len();
        violations.add(field(), format!("has {count} entries; at most {MAX_ATTRIBUTES} are allowed"));
    }
    // Keys may be personal data, so the message gives the bound and not the key; one message for each kind
    // of mistake bounds the error's size.
    if profile.attributes.keys().any(String::is_empty) {
        violations.add(field(), "must not have an empty key");
    }
    if let Some(longest) = profile.attributes.keys().map(String::len).max()
        && longest > MAX_ATTRIBUTE_KEY_BYTES
    {
        violations
            .add(field(), format!("has a key of {longest} bytes; at most {MAX_ATTRIBUTE_KEY_BYTES} are allowed"));
    }
    if profile.attributes.keys().any(|key| key.chars().any(char::is_control)) {
        violations.add(field(), "must not have a key with control characters");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(profile: Profile) -> Result<Draft, Violations> {
        Draft::from_profile(profile, Canonicalization::default(), "profile")
    }

    #[test]
    fn every_violation_is_reported_at_once() {
        let profile = Profile {
            id: " ".into(),
            email: "nobody".into(),
            display_name: "x\u{7}".into(),
            attributes: [(String::new(), "v".repeat(17_000)), ("k".repeat(65), String::new())].into(),
            ..Profile::default()
        };
        let violations = draft(profile).unwrap_err();
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "profile.id",
                "profile.email",
                "profile.display_name",
                "profile.attributes",
                "profile.attributes",
                "profile"
            ]
        );
    }

    #[test]
    fn output_only_fields_of_the_caller_are_ignored() {
        let plain = Profile { id: "a".into(), email: "a@B.example".into(), ..Profile::default() };
        let forged = Profile {
            domain: "evil.example".into(),
            etag: "x".into(),
            create_time: Some(Default::default()),
            ..plain.clone()
        };
        assert_eq!(draft(plain).unwrap(), draft(forged).unwrap());
    }

    #[test]
    fn the_size_limit_counts_the_output_only_fields() {
        let with_value = |length: usize| Profile {
            id: "a".into(),
            attributes: [("k".into(), "v".repeat(length))].into(),
            ..Profile::default()
        };
        let largest = (15_000..MAX_PROFILE_BYTES).rev().find(|&length| draft(with_value(length)).is_ok()).unwrap();
        let encoded = draft(with_value(largest)).unwrap().encoded().len();
        assert_eq!(encoded + OUTPUT_FIELDS_MAX_BYTES, MAX_PROFILE_BYTES);
        let error = draft(with_value(largest + 1)).unwrap_err().to_string();
        assert!(error.contains("16385") && error.contains("16384"), "{error}");
    }
}
