//! `ImportProfiles`: a stream of chunks in, a stream of acknowledgements out.
//!
//! The profiles of a chunk are committed in groups, a few groups at a time, and several chunks may be under
//! way, so that the next group is checked while the one before is synced. Everything happens while the answer
//! is polled: a caller that does not read its acknowledgements is not read from either, and a caller that goes
//! away ends the import, but for groups that are already queued.
//!
//! Invariants: groups are queued in the order of the stream, so of two profiles with one id the later one
//! wins; acknowledgements come in the order of the chunks; no more than one chunk that is not yet committed is
//! held, and no more than [`WINDOW`] groups; no more than [`GROUP_PROFILES`] profiles are checked without letting
//! other calls of this thread have their turn; a stream that fails acknowledges first what was queued before.

use std::collections::VecDeque;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{Stream, StreamExt, poll, stream};
use tonic::{Code, Status};
use uuid::Uuid;

use super::error::{RpcError, rejection_parts};
use crate::model::limits::MAX_IMPORT_CHUNK_PROFILES;
use crate::model::{Canonicalization, Draft, Outcome, Precondition, Profile, Rejection, Violations, Write};
use crate::pb::{self, ImportConflictPolicy};
use crate::store::{Commit, Outcomes, Store, StoreError};

/// How many profiles are committed at once, and about how many bytes of them.
const GROUP_PROFILES: usize = 100;
const GROUP_BYTES: usize = 128 * 1024;
/// How many groups are queued at most: enough to keep the committer busy, few enough to leave room for others.
const WINDOW: usize = 4;
/// The longest message of one refused profile: with the most errors of a chunk the acknowledgement still fits gRPC's
/// customary message limit of 4 MiB.
const MAX_ERROR_MESSAGE_BYTES: usize = 256;
/// After this a group that met a full queue is tried again.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(20);

/// The acknowledgements of an import.
pub fn import<S: Store>(
    store: Arc<S>,
    settings: Canonicalization,
    chunks: impl Stream<Item = Result<pb::ImportProfilesRequest, Status>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<pb::ImportProfilesResponse, Status>> + Send {
    let import = Import {
        store,
        settings,
        chunks,
        ended: false,
        failure: None,
        policy: None,
        next_chunk: 0,
        waiting: VecDeque::new(),
        queued: VecDeque::new(),
        acknowledgements: VecDeque::new(),
    };
    stream::try_unfold(import, |mut import| async move {
        Ok(import.next().await?.map(|acknowledgement| (acknowledgement, import)))
    })
}

struct Import<S, C> {
    store: Arc<S>,
    settings: Canonicalization,
    chunks: C,
    /// There are no more chunks.
    ended: bool,
    /// Why there are no more, if that is a failure: the import's last answer.
    failure: Option<Status>,
    policy: Option<ImportConflictPolicy>,
    next_chunk: i64,
    /// The profiles of the last chunk that are not queued yet, with their places in it.
    waiting: VecDeque<(i32, Profile)>,
    queued: VecDeque<Group>,
    /// One for each chunk that is not acknowledged yet.
    acknowledgements: VecDeque<pb::ImportProfilesResponse>,
}

type PendingCommit = Pin<Box<dyn Future<Output = Result<Outcomes, StoreError>> + Send>>;

/// Profiles of one chunk that were queued together.
struct Group {
    chunk: i64,
    /// Their places in the chunk.
    indexes: Vec<i32>,
    commit: PendingCommit,
}

/// What an import waits for.
enum Event {
    Chunk(Option<Result<pb::ImportProfilesRequest, Status>>),
    Committed(Result<Outcomes, StoreError>),
}

impl<S, C> Import<S, C>
where
    S: Store,
    C: Stream<Item = Result<pb::ImportProfilesRequest, Status>> + Send + Unpin + 'static,
{
    /// The next acknowledgement; `None` at the end.
    async fn next(&mut self) -> Result<Option<pb::ImportProfilesResponse>, Status> {
        loop {
            if self.first_is_finished() {
                let mut acknowledgement = self.acknowledgements.pop_front();
                if let Some(acknowledgement) = &mut acknowledgement {
                    acknowledgement.errors.sort_by_key(|error| error.index);
                }
                return Ok(acknowledgement);
            }
            if !self.waiting.is_empty() && self.queued.len() < WINDOW {
                self.queue_group().await?;
                continue;
            }
            if self.ended && self.queued.is_empty() {
                return self.failure.take().map_or(Ok(None), Err);
            }
            match self.event().await {
                Event::Chunk(None) => self.ended = true,
                Event::Chunk(Some(chunk)) => {
                    if let Err(failure) = chunk.and_then(|chunk| Ok(self.take(chunk)?)) {
                        self.ended = true;
                        self.failure = Some(failure);
                    }
                }
                Event::Committed(outcomes) => self.settle(outcomes)?,
            }
        }
    }

    /// Whether everything of the oldest chunk is committed.
    fn first_is_finished(&self) -> bool {
        let Some(first) = self.acknowledgements.front() else { return false };
        let has_waiting = self.acknowledgements.len() == 1 && !self.waiting.is_empty();
        !has_waiting && self.queued.front().is_none_or(|group| group.chunk != first.chunk)
    }

    async fn event(&mut self) -> Event {
        let wants_chunk = !self.ended && self.waiting.is_empty() && self.queued.len() < WINDOW;
        match self.queued.front_mut() {
            None => Event::Chunk(self.chunks.next().await),
            Some(group) => tokio::select! {
                biased;
                outcomes = &mut group.commit => Event::Committed(outcomes),
                chunk = self.chunks.next(), if wants_chunk => Event::Chunk(chunk),
            },
        }
    }

    fn take(&mut self, chunk: pb::ImportProfilesRequest) -> Result<(), RpcError> {
        if self.policy.is_none() {
            let unknown = || Violations::one("conflict_policy", "must be one of FAIL, SKIP and REPLACE");
            self.policy = Some(ImportConflictPolicy::try_from(chunk.conflict_policy).map_err(|_| unknown())?);
        }
        let profiles = chunk.profiles.len();
        if profiles > MAX_IMPORT_CHUNK_PROFILES {
            let description = format!("has {profiles} entries; at most {MAX_IMPORT_CHUNK_PROFILES} are allowed");
            return Err(Violations::one("profiles", description).into());
        }
        let number = self.next_chunk;
        self.next_chunk += 1;
        self.acknowledgements
            .push_back(pb::ImportProfilesResponse { chunk: number, ..pb::ImportProfilesResponse::default() });
        self.waiting.extend((0..).zip(chunk.profiles));
        Ok(())
    }

    /// Checks as many of the waiting profiles as make a group, and queues it.
    async fn queue_group(&mut self) -> Result<(), RpcError> {
        let (mut drafts, mut indexes, mut bytes, mut checked) = (Vec::new(), Vec::new(), 0, 0);
        while checked < GROUP_PROFILES
            && bytes < GROUP_BYTES
            && let Some((index, profile)) = self.waiting.pop_front()
        {
            checked += 1;
            match self.check(index, profile) {
                Ok(draft) => {
                    bytes += draft.encoded().len();
                    drafts.push(draft);
                    indexes.push(index);
                }
                Err(violations) => self.report(self.next_chunk - 1, index, RpcError::from(violations).parts()),
            }
        }
        tokio::task::yield_now().await;
        if drafts.is_empty() {
            return Ok(());
        }
        let commit = loop {
            let mut commit = self.commit(&drafts);
            // The first poll queues it: here, before any later group.
            match poll!(&mut commit) {
                Poll::Pending => break commit,
                Poll::Ready(Err(StoreError::Overloaded)) => self.wait_for_room().await?,
                Poll::Ready(outcomes) => break Box::pin(ready(outcomes)),
            }
        };
        self.queued.push_back(Group { chunk: self.next_chunk - 1, indexes, commit });
        Ok(())
    }

    fn check(&self, index: i32, mut profile: Profile) -> Result<Draft, Violations> {
        if profile.id.is_empty() {
            profile.id = Uuid::now_v7().to_string();
        }
        Draft::from_profile(profile, self.settings, &format!("profiles[{index}]"))
    }

    fn commit(&self, drafts: &[Draft]) -> PendingCommit {
        let precondition = match self.policy {
            Some(ImportConflictPolicy::Replace) => Precondition::None,
            _ => Precondition::MustBeAbsent,
        };
        let writes = drafts.iter().map(|draft| Write::put(draft.clone(), precondition.clone())).collect();
        let store = self.store.clone();
        Box::pin(async move { store.commit(Commit::each(writes)).await })
    }

    /// After a full queue: until one of our own groups is through, or for a moment.
    async fn wait_for_room(&mut self) -> Result<(), RpcError> {
        match self.queued.front_mut() {
            Some(group) => {
                let outcomes = (&mut group.commit).await;
                self.settle(outcomes)
            }
            None => {
                tokio::time::sleep(OVERLOAD_PAUSE).await;
                Ok(())
            }
        }
    }

    /// Notes what became of the oldest group.
    fn settle(&mut self, outcomes: Result<Outcomes, StoreError>) -> Result<(), RpcError> {
        let Some(group) = self.queued.pop_front() else { return Ok(()) };
        let outcomes = match outcomes {
            // Damage that one profile of the group met is no reason to give up the others.
            Err(error @ StoreError::Corrupt(_)) => {
                let parts = RpcError::from(error).parts();
                group.indexes.into_iter().for_each(|index| self.report(group.chunk, index, parts.clone()));
                return Ok(());
            }
            outcomes => outcomes?,
        };
        for (index, outcome) in group.indexes.into_iter().zip(outcomes) {
            let skip = self.policy == Some(ImportConflictPolicy::Skip);
            let acknowledgement = self.acknowledgements.iter_mut().find(|each| each.chunk == group.chunk);
            match (outcome, acknowledgement) {
                (Ok(Outcome::Stored(_) | Outcome::Unchanged(_)), Some(acknowledgement)) => {
                    acknowledgement.written_count += 1;
                }
                (Err(Rejection::AlreadyExists), Some(acknowledgement)) if skip => acknowledgement.skipped_count += 1,
                (Err(rejection), _) => self.report(group.chunk, index, rejection_parts(rejection)),
                (Ok(_), _) => {}
            }
        }
        Ok(())
    }

    fn report(&mut self, chunk: i64, index: i32, (code, reason, mut message): (Code, &'static str, String)) {
        message.truncate(message.floor_char_boundary(MAX_ERROR_MESSAGE_BYTES));
        let error = pb::ImportError { index, code: code as i32, reason: reason.to_owned(), message };
        if let Some(acknowledgement) = self.acknowledgements.iter_mut().find(|each| each.chunk == chunk) {
            acknowledgement.errors.push(error);
        }
    }
}
