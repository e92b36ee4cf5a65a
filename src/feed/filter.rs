//! Which changes concern a watcher.

use crate::model::{Domain, IndexKey, Record};
use crate::pb::ProfileEventType;
use crate::store::{CommittedChange, Scope};

/// All profiles, or those of a domain with or without its subdomains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    scope: Scope,
    /// With what the index keys of the domain begin; `None` for all profiles, also those without an e-mail.
    prefix: Option<Box<[u8]>>,
}

impl Filter {
    /// All profiles.
    pub fn all() -> Self {
        Self { scope: Scope::All, prefix: None }
    }

    /// The profiles of a domain.
    pub fn domain(domain: &Domain, include_subdomains: bool) -> Self {
        let scope = Scope::domain(domain, include_subdomains);
        let prefix = scope.key_prefix().into();
        Self { scope, prefix: Some(prefix) }
    }

    /// The profiles that it lets through.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// With what the index keys begin that it lets through; `None` when it lets through everything.
    pub fn prefix(&self) -> Option<&[u8]> {
        self.prefix.as_deref()
    }

    /// What a change means to the watcher; `None` when it does not concern it.
    pub fn event_type(&self, change: &CommittedChange) -> Option<ProfileEventType> {
        let present = change.record.as_ref();
        let Some(prefix) = &self.prefix else {
            return Some(if present.is_some() { ProfileEventType::Put } else { ProfileEventType::Delete });
        };
        let now = present.map_or(&[][..], Record::index_key_bytes);
        let before = change.previous_index_key.as_ref().map_or(&[][..], IndexKey::as_bytes);
        if now.starts_with(prefix) {
            Some(ProfileEventType::Put)
        } else if before.starts_with(prefix) {
            Some(if present.is_some() { ProfileEventType::Left } else { ProfileEventType::Delete })
        } else {
            None
        }
    }
}
