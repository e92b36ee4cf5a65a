//! What becomes of a write: the rules that all engines share.
//!
//! A [`GroupDecision`] decides requests one after the other against the engine's current state and against the
//! changes it has already decided itself, so that a whole group can be logged and applied at once.
//!
//! Invariant: a request that fails or is refused as a whole leaves no trace in the group.

use std::collections::{HashMap, HashSet};

use super::request_memory::RequestMemory;
use crate::model::{
    Action, Change, CommitTime, Draft, Etag, Incarnation, IndexKey, Outcome, Precondition, ProfileId, Record,
    Rejection, Revision, Write,
};
use crate::store::{Commit, CommitMode, Corruption, Outcomes, RequestMark, StoreError};
use crate::trace::TraceParent;

/// The state that an engine has applied so far.
pub trait CurrentState {
    /// The current record of a profile.
    fn record(&self, id: &ProfileId) -> Result<Option<Record>, StoreError>;

    /// Whether any profile that `counts` has this index key.
    fn has_email(&self, key: &IndexKey, counts: &dyn Fn(&ProfileId) -> bool) -> Result<bool, StoreError>;

    /// Told of what each request changes, in order, after it was decided. An error says that the state cannot take these
    /// changes, and the request then fails with it, alone.
    fn accept(&self, _changes: &[Change]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What a group is decided on.
pub struct GroupBasis<'a, S> {
    /// The state before the group.
    pub state: &'a S,
    /// The requests made before the group.
    pub requests: &'a RequestMemory,
    /// Refuse a second profile with the same canonical e-mail.
    pub unique_email: bool,
    /// The life of the store.
    pub incarnation: Incarnation,
    /// The revision of the group's first change; the others count on.
    pub first_revision: Revision,
    /// When the group is made.
    pub time: CommitTime,
}

/// A group of changes in the making.
pub struct GroupDecision<'a, S> {
    basis: GroupBasis<'a, S>,
    next_revision: Revision,
    changes: Vec<Change>,
    requests: Vec<RequestMark>,
    /// The span that wants the commit which is being decided.
    trace: Option<TraceParent>,
    /// The records that the group's changes leave behind, by id.
    overlay: HashMap<ProfileId, Option<Record>>,
}

/// What a group comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The requests to remember. There may be some without a change: a request that found everything as it
    /// should be has succeeded too.
    pub requests: Vec<RequestMark>,
    /// When it is made.
    pub time: CommitTime,
}

impl<'a, S: CurrentState> GroupDecision<'a, S> {
    /// An empty group.
    pub fn new(basis: GroupBasis<'a, S>) -> Self {
        let next_revision = basis.first_revision;
        Self { basis, next_revision, changes: Vec::new(), requests: Vec::new(), trace: None, overlay: HashMap::new() }
    }

    /// Decides one commit. After an error nothing of it is in the group.
    pub fn decide(&mut self, commit: Commit) -> Result<Outcomes, StoreError> {
        let Commit { writes, mode, request, trace } = commit;
        self.trace = trace;
        if let Some(request) = &request
            && let Some(made_ids) = self.made_before(request)?
        {
            return self.repeat(&writes, request, &made_ids);
        }
        let mut undo = Undo { changes: self.changes.len(), revision: self.next_revision, overlay: Vec::new() };
        let result = match mode {
            CommitMode::All => self.decide_all(writes, &mut undo),
            CommitMode::Each => writes.into_iter().map(|write| self.decide_one(write, &mut undo)).collect(),
        };
        let result = result.and_then(|outcomes: Outcomes| {
            self.basis.state.accept(&self.changes[undo.changes..])?;
            Ok(outcomes)
        });
        match &result {
            Ok(outcomes) if outcomes.iter().all(Result::is_ok) => self.requests.extend(request),
            Ok(_) => {}
            Err(_) => self.roll_back(undo),
        }
        result
    }

    /// The ids that the server made for a request when it was made; `None` when it has not been.
    fn made_before(&self, request: &RequestMark) -> Result<Option<Box<[ProfileId]>>, StoreError> {
        let in_group = self.requests.iter().find(|made| made.id == request.id);
        let (fingerprint, made_ids) = match (in_group, self.basis.requests.get(&request.id)) {
            (Some(made), _) => (made.fingerprint, &made.made_ids),
            (None, Some(made)) => (made.fingerprint, &made.made_ids),
            (None, None) => return Ok(None),
        };
        if fingerprint == request.fingerprint { Ok(Some(made_ids.clone())) } else { Err(StoreError::RequestIdReused) }
    }

    /// The outcomes of a request that was made before.
    fn repeat(
        &self,
        writes: &[Write],
        request: &RequestMark,
        made_ids: &[ProfileId],
    ) -> Result<Outcomes, StoreError> {
        let outcome = |write: &Write| {
            // Whoever deleted is not interested in a profile that somebody made since.
            if matches!(write.action, Action::Delete) {
                return Ok(Ok(Outcome::Repeated(None)));
            }
            let made = request.made_ids.iter().position(|id| *id == write.id);
            let id = made.and_then(|position| made_ids.get(position)).unwrap_or(&write.id);
            Ok(Ok(Outcome::Repeated(self.current(id)?)))
        };
        writes.iter().map(outcome).collect()
    }

    fn current(&self, id: &ProfileId) -> Result<Option<Record>, StoreError> {
        match self.overlay.get(id) {
            Some(pending) => Ok(pending.clone()),
            None => self.basis.state.record(id),
        }
    }

    /// About how many bytes the changes so far take in the log.
    pub fn size_bytes(&self) -> usize {
        self.changes.iter().map(|change| change.record.as_ref().map_or(0, |record| record.stored_bytes().len())).sum()
    }

    /// The group as it was decided.
    pub fn finish(self) -> Decided {
        Decided { changes: self.changes, requests: self.requests, time: self.basis.time }
    }

    fn decide_all(&mut self, writes: Vec<Write>, undo: &mut Undo) -> Result<Outcomes, StoreError> {
        let mut seen = HashSet::with_capacity(writes.len());
        let duplicate = writes.iter().position(|write| !seen.insert(write.id.clone()));
        if let Some(index) = duplicate {
            return Err(StoreError::Rejected { index, rejection: Rejection::DuplicateId });
        }
        let mut outcomes = Vec::with_capacity(writes.len());
        for (index, write) in writes.into_iter().enumerate() {
            match self.decide_one(write, undo)? {
                Ok(outcome) => outcomes.push(Ok(outcome)),
                Err(rejection) => return Err(StoreError::Rejected { index, rejection }),
            }
        }
        Ok(outcomes)
    }

    fn decide_one(&mut self, write: Write, undo: &mut Undo) -> Result<Result<Outcome, Rejection>, StoreError> {
        let Write { id, action, precondition, .. } = write;
        let current = self.current(&id)?;
        let engine_fields = match &current {
            // Only these need to look inside the current record.
            Some(record) if precondition.has_etag() || !matches!(action, Action::Delete) => {
                Some(record.engine_fields().map_err(|_| undecodable(&id))?)
            }
            _ => None,
        };
        let held = match (&precondition, &current) {
            (Precondition::None, _) => Ok(()),
            (Precondition::MustBeAbsent | Precondition::MustMatchIfPresent(_), None) => Ok(()),
            (Precondition::MustBeAbsent, Some(_)) => Err(Rejection::AlreadyExists),
            (Precondition::MustExist | Precondition::MustMatch(_), None) => Err(Rejection::NotFound),
            (Precondition::MustExist, Some(_)) => Ok(()),
            (Precondition::MustMatch(wanted) | Precondition::MustMatchIfPresent(wanted), Some(_)) => {
                let now = engine_fields.as_ref().map(|fields| fields.etag.as_str()).unwrap_or_default();
                if wanted.as_str() == now {
                    Ok(())
                } else {
                    Err(Rejection::EtagMismatch { current: Etag::from_caller(now.to_owned()) })
                }
            }
        };
        if let Err(rejection) = held {
            return Ok(Err(rejection));
        }
        let draft = match action {
            Action::Delete => {
                if current.is_none() {
                    return Ok(Ok(Outcome::Absent));
                }
                let revision = self.add(id, current.as_ref(), None, undo);
                return Ok(Ok(Outcome::Deleted(revision)));
            }
            Action::Put(draft) => draft,
            Action::Update(function) => {
                let profile = current.as_ref().map(Record::decode).transpose().map_err(|_| undecodable(&id))?;
                match function(profile) {
                    Ok(draft) => draft,
                    Err(violations) => return Ok(Err(Rejection::Invalid(violations))),
                }
            }
        };
        debug_assert_eq!(draft.id(), &id, "a write and its draft are about one profile");
        if let Some(record) = current.as_ref().filter(|record| record.has_content_of(&draft)) {
            return Ok(Ok(Outcome::Unchanged(record.clone())));
        }
        if self.basis.unique_email && self.email_is_taken(&draft)? {
            return Ok(Err(Rejection::EmailInUse));
        }
        let create_time =
            engine_fields.and_then(|fields| fields.create_time).unwrap_or_else(|| self.basis.time.to_timestamp());
        let etag = Etag::new(self.basis.incarnation, self.next_revision);
        let record = Record::from_draft(&draft, &etag, create_time, self.basis.time, self.next_revision);
        self.add(id, current.as_ref(), Some(record.clone()), undo);
        Ok(Ok(Outcome::Stored(record)))
    }

    fn email_is_taken(&self, draft: &Draft) -> Result<bool, StoreError> {
        let Some(key) = draft.index_key() else { return Ok(false) };
        let pending = self.overlay.iter().any(|(id, record)| {
            id != draft.id() && record.as_ref().is_some_and(|record| record.index_key_bytes() == key.as_bytes())
        });
        Ok(pending || self.basis.state.has_email(key, &|id| id != draft.id() && !self.overlay.contains_key(id))?)
    }

    fn add(&mut self, id: ProfileId, current: Option<&Record>, record: Option<Record>, undo: &mut Undo) -> Revision {
        let revision = self.next_revision;
        self.next_revision = Revision(revision.0 + 1);
        undo.overlay.push((id.clone(), self.overlay.insert(id.clone(), record.clone())));
        self.changes.push(Change {
            revision,
            id,
            record,
            previous_bytes: current.map(Record::profile_len),
            previous_revision: current.map(Record::revision),
            previous_index_key: current.and_then(Record::index_key),
            trace: self.trace,
        });
        revision
    }

    fn roll_back(&mut self, undo: Undo) {
        self.changes.truncate(undo.changes);
        self.next_revision = undo.revision;
        for (id, before) in undo.overlay.into_iter().rev() {
            match before {
                Some(pending) => self.overlay.insert(id, pending),
                None => self.overlay.remove(&id),
            };
        }
    }
}

/// How to forget a request.
struct Undo {
    changes: usize,
    revision: Revision,
    overlay: Vec<(ProfileId, Option<Option<Record>>)>,
}

fn undecodable(id: &ProfileId) -> StoreError {
    tracing::debug!(%id, "a record is not a profile");
    StoreError::Corrupt(Corruption("a record passes its checksum but is not a profile".into()))
}
