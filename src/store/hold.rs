//! Holds: named places in the order of changes that keep what follows them.

use std::fmt;

use super::changes::Position;

/// The most holds of a store.
pub const MAX_HOLDS: usize = 16;

/// The name of a hold: 1 to 64 lower-case letters, digits and hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldName(Box<str>);

impl HoldName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// A name; `None` when the text is not one.
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_BYTES).contains(&name.len());
        let good = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        (fits && good).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HoldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HoldName({})", self.0)
    }
}

/// A place that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Whose it is.
    pub name: HoldName,
    /// What comes after it is held.
    pub position: Position,
    /// How many changes come after it.
    pub lag: u64,
    /// How many of these are no longer kept, because the bound on held changes was reached.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for good in ["a", "publisher", "search-2", &"x".repeat(64)] {
            assert_eq!(HoldName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "A", "a b", "a\n", "ä", "a.b", &"x".repeat(65)] {
            assert_eq!(HoldName::new(bad), None, "{bad:?}");
        }
    }
}
