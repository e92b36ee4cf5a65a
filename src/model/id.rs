//! Profile ids.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::limits::MAX_ID_BYTES;
use super::violation::Violations;

/// The key of a profile: 1 to 128 bytes of printable ASCII without the space, case-sensitive.
///
/// Cloning shares the bytes. Ids order bytewise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(Arc<str>);

impl ProfileId {
    /// Validates an id; `field` is its path in the request.
    pub fn parse(id: &str, field: &str) -> Result<Self, Violations> {
        if id.is_empty() {
            return Err(Violations::one(field, "must not be empty"));
        }
        if id.len() > MAX_ID_BYTES {
            let description = format!("has {} bytes; at most {MAX_ID_BYTES} are allowed", id.len());
            return Err(Violations::one(field, description));
        }
        if !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Violations::one(field, "must be printable ASCII without spaces (0x21 to 0x7E)"));
        }
        Ok(Self(Arc::from(id)))
    }

    /// Reads an id that an engine stored. `None` when the bytes are not an id.
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        let id = std::str::from_utf8(bytes).ok()?;
        Self::parse(id, "id").ok()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Borrow<str> for ProfileId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProfileId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_1_to_128_printable_ascii_bytes() {
        for good in ["a", "user-1", "!~", &"x".repeat(128)] {
            assert_eq!(ProfileId::parse(good, "id").unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a\n", "a\0", "ü", "\u{7f}", &"x".repeat(129)] {
            let violations = ProfileId::parse(bad, "profile.id").unwrap_err();
            assert_eq!(violations.iter().next().unwrap().field, "profile.id", "{bad:?}");
        }
    }
}
