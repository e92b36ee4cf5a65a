//! What is wrong with a caller's input.

use std::fmt;

/// One thing that is wrong: where, and what the bound is.
///
/// Invariant: the description never repeats the offending value, which may be personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path from the request's root, such as `profile.email`.
    pub field: String,
    /// What is wrong and what would be right, in a phrase that follows the field's name.
    pub description: String,
}

/// Everything that is wrong with one input. Validation collects; it does not stop at the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A single violation.
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        let mut violations = Self::new();
        violations.add(field, description);
        violations
    }

    /// Notes one more violation.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    /// Takes over the violations of a part of the input.
    pub fn extend(&mut self, other: Violations) {
        self.0.extend(other.0);
    }

    /// The violations of a part that stands at `path` in the whole input.
    pub fn below(mut self, path: &str) -> Self {
        for violation in &mut self.0 {
            violation.field = format!("{path}.{}", violation.field);
        }
        self
    }

    /// Keeps a part's value, or takes over its violations.
    pub fn check<T>(&mut self, part: Result<T, Violations>) -> Option<T> {
        part.map_err(|violations| self.extend(violations)).ok()
    }

    /// `Ok` when nothing is wrong.
    pub fn into_result(self) -> Result<(), Violations> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The violations in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{} {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}
