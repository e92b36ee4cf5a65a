//! What a store should do, said as simply as possible: a map, and sorting.

use std::collections::{BTreeMap, BTreeSet};

use profilestore::model::{Outcome, Record, Rejection};
use profilestore::store::{CommitMode, StoreError};

use super::plan::{Action, Condition, Planned};
use crate::common::profiles::profile;

/// A profile as the oracle knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// As it was written.
    pub email: String,
    pub name: String,
    /// What the store made of it; `None` within a commit whose outcome is not known.
    pub record: Option<Record>,
}

/// Where a profile stands in the index: the labels from the last to the first, the local part, the id.
pub type Place = (Vec<String>, String, String);

/// The state of a store.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    pub profiles: BTreeMap<String, Known>,
    pub unique_email: bool,
}

/// What should become of a write.
#[derive(Debug, PartialEq)]
enum Verdict {
    Store { email: String, name: String },
    Unchanged,
    Delete,
    Absent,
    Refuse(&'static str),
}

fn kind(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::NotFound => "not found",
        Rejection::AlreadyExists => "already exists",
        Rejection::EmailInUse => "e-mail in use",
        Rejection::EtagMismatch { .. } => "etag mismatch",
        Rejection::Invalid(_) => "invalid",
        Rejection::DuplicateId => "duplicate id",
    }
}

fn reversed(domain: &str) -> Vec<String> {
    domain.to_lowercase().rsplit('.').map(str::to_owned).collect()
}

impl Oracle {
    pub fn etag(&self, key: &str) -> Option<String> {
        self.profiles.get(key).map(|known| known.etag().expect("between commits every record is known"))
    }

    pub fn record(&self, key: &str) -> Option<&Record> {
        self.profiles.get(key).and_then(|known| known.record.as_ref())
    }

    /// Checks what a commit gave and follows it.
    pub fn follow(
        &mut self,
        planned: &[Planned],
        mode: CommitMode,
        result: Result<Vec<Result<Outcome, Rejection>>, StoreError>,
    ) {
        match result {
            Ok(outcomes) => {
                assert_eq!(outcomes.len(), planned.len());
                assert!(mode == CommitMode::Each || duplicate(planned).is_none(), "two writes of one profile");
                for (write, outcome) in planned.iter().zip(outcomes) {
                    assert!(mode == CommitMode::Each || outcome.is_ok(), "a refused write fails the whole commit");
                    self.follow_one(write, outcome);
                }
            }
            Err(StoreError::Rejected { index, rejection }) => {
                assert_eq!(mode, CommitMode::All, "each write is decided by itself");
                let expected = self.first_refusal(planned);
                assert_eq!(Some((index, kind(&rejection))), expected);
            }
            Err(error) => panic!("the commit failed: {error}"),
        }
    }

    /// The first write of an atomic commit that should be refused.
    fn first_refusal(&self, planned: &[Planned]) -> Option<(usize, &'static str)> {
        if let Some(index) = duplicate(planned) {
            return Some((index, "duplicate id"));
        }
        let mut imagined = self.clone();
        for (index, write) in planned.iter().enumerate() {
            match imagined.verdict(write) {
                Verdict::Refuse(kind) => return Some((index, kind)),
                verdict => imagined.apply(&write.key, verdict, None),
            }
        }
        None
    }

    /// What the commit would leave, whose answer is not known; without the records that it stores. Also whether every
    /// write would be made.
    pub fn imagine(&self, planned: &[Planned], mode: CommitMode) -> (Self, bool) {
        let refused = self.first_refusal(planned);
        if mode == CommitMode::All && refused.is_some() {
            return (self.clone(), false);
        }
        let (mut imagined, mut all) = (self.clone(), true);
        for write in planned {
            let verdict = imagined.verdict(write);
            all &= !matches!(verdict, Verdict::Refuse(_));
            imagined.apply(&write.key, verdict, None);
        }
        (imagined, all)
    }

    /// E-mail and name of each profile.
    pub fn contents(&self) -> BTreeMap<String, (String, String)> {
        let contents = |(key, known): (&String, &Known)| (key.clone(), (known.email.clone(), known.name.clone()));
        self.profiles.iter().map(contents).collect()
    }

    fn follow_one(&mut self, write: &Planned, outcome: Result<Outcome, Rejection>) {
        let verdict = self.verdict(write);
        let before = self.record(&write.key).cloned();
        let agrees = match (&verdict, &outcome) {
            (Verdict::Store { email, name }, Ok(Outcome::Stored(record))) => {
                let stored = profile(record);
                let newer = before.as_ref().is_none_or(|before| before.revision() < record.revision());
                stored.id == write.key && stored.email == *email && stored.display_name == *name && newer
            }
            (Verdict::Unchanged, Ok(Outcome::Unchanged(record))) => before.as_ref() == Some(record),
            (Verdict::Delete, Ok(Outcome::Deleted(revision))) => {
                before.is_some_and(|before| before.revision() < *revision)
            }
            (Verdict::Absent, Ok(Outcome::Absent)) => true,
            (Verdict::Refuse(expected), Err(rejection)) => {
                let named = match rejection {
                    Rejection::EtagMismatch { current } => Some(current.as_str().to_owned()) == self.etag(&write.key),
                    _ => true,
                };
                *expected == kind(rejection) && named
            }
            _ => false,
        };
        assert!(agrees, "{write:?} should {verdict:?} and did {outcome:?}");
        let record = match outcome {
            Ok(Outcome::Stored(record)) => Some(record),
            _ => None,
        };
        self.apply(&write.key, verdict, record);
    }

    fn apply(&mut self, key: &str, verdict: Verdict, record: Option<Record>) {
        match verdict {
            Verdict::Store { email, name } => drop(self.profiles.insert(key.into(), Known { email, name, record })),
            Verdict::Delete => drop(self.profiles.remove(key)),
            Verdict::Unchanged | Verdict::Absent | Verdict::Refuse(_) => {}
        }
    }

    fn verdict(&self, write: &Planned) -> Verdict {
        let current = self.profiles.get(&write.key);
        match (&write.condition, current) {
            (Condition::Absent, Some(_)) => return Verdict::Refuse("already exists"),
            (Condition::Exists | Condition::Etag(_), None) => return Verdict::Refuse("not found"),
            (Condition::Etag(etag), Some(known)) if known.etag().as_ref() != Some(etag) => {
                return Verdict::Refuse("etag mismatch");
            }
            _ => {}
        }
        let (email_now, name_now) =
            current.map(|known| (known.email.clone(), known.name.clone())).unwrap_or_default();
        let (email, name) = match &write.action {
            Action::Delete => return if current.is_some() { Verdict::Delete } else { Verdict::Absent },
            Action::Refuse => return Verdict::Refuse("invalid"),
            Action::Put { email, name } => (email.clone(), name.clone()),
            Action::Rename(name) => (email_now, name.clone()),
            Action::Move(email) => (email.clone(), name_now),
        };
        if current.is_some_and(|known| known.email == email && known.name == name) {
            return Verdict::Unchanged;
        }
        let canonical = email.to_lowercase();
        let taken = |(key, known): (&String, &Known)| *key != write.key && known.email.to_lowercase() == canonical;
        if self.unique_email && !canonical.is_empty() && self.profiles.iter().any(taken) {
            return Verdict::Refuse("e-mail in use");
        }
        Verdict::Store { email, name }
    }

    /// The ids of all profiles with an e-mail, in the order of the index.
    pub fn places(&self) -> BTreeSet<Place> {
        let with_email = self.profiles.iter().filter_map(|(key, known)| Some((key, known.email.rsplit_once('@')?)));
        with_email.map(|(key, (local, domain))| (reversed(domain), local.to_lowercase(), key.clone())).collect()
    }

    /// The number of profiles of each domain, in the order of the index.
    pub fn domains(&self) -> BTreeMap<Vec<String>, u64> {
        let mut domains = BTreeMap::new();
        for (labels, _, _) in self.places() {
            *domains.entry(labels).or_default() += 1;
        }
        domains
    }
}

impl Known {
    fn etag(&self) -> Option<String> {
        self.record.as_ref().map(|record| profile(record).etag)
    }
}

/// The first write of a profile that has been written before.
fn duplicate(planned: &[Planned]) -> Option<usize> {
    let mut seen = BTreeSet::new();
    planned.iter().position(|write| !seen.insert(&write.key))
}

/// A scope, in a form that both sides can read.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    All,
    Domain(String),
    Subtree(String),
    Email(String),
}

impl Asked {
    /// Whether a place is in the scope. Of all profiles only those with an e-mail have a place.
    pub fn holds(&self, (labels, local, _): &Place) -> bool {
        match self {
            Asked::All => true,
            Asked::Domain(domain) => *labels == reversed(domain),
            Asked::Subtree(domain) => labels.starts_with(&reversed(domain)),
            Asked::Email(address) => {
                let (wanted, domain) = address.rsplit_once('@').unwrap();
                *labels == reversed(domain) && *local == wanted.to_lowercase()
            }
        }
    }
}

impl Oracle {
    /// The places in a scope, in its order. Of all profiles the id alone is the place.
    pub fn scope(&self, asked: &Asked) -> Vec<Place> {
        match asked {
            Asked::All => self.profiles.keys().map(|key| (Vec::new(), String::new(), key.clone())).collect(),
            _ => self.places().into_iter().filter(|place| asked.holds(place)).collect(),
        }
    }

    /// The domains at or below a parent, label by label or the largest first.
    pub fn domains_below(&self, parent: Option<&str>, largest_first: bool) -> Vec<(String, u64)> {
        let parent = parent.map(reversed).unwrap_or_default();
        let name = |mut labels: Vec<String>| {
            labels.reverse();
            labels.join(".")
        };
        let below = self.domains().into_iter().filter(|(labels, _)| labels.starts_with(&parent));
        let mut domains: Vec<_> = below.map(|(labels, profiles)| (name(labels), profiles)).collect();
        if largest_first {
            domains.sort_by_key(|(_, profiles)| std::cmp::Reverse(*profiles));
        }
        domains
    }
}
