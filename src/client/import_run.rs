//! The course of one import.
//!
//! Invariants: chunks are sent, and sent again, in the order of their positions; a chunk is kept until its
//! acknowledgement; profiles are taken from the caller only when there is room for them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, Fuse, poll_fn};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Streaming;

use super::Client;
use super::chunk::{Chunk, is_what_was_sent, prepare};
use super::error::ClientError;
use super::import::{ImportOptions, Imported, OnConflict};
use super::retry::{Backoff, may_be_repeated};
use crate::model::limits::MAX_BATCH_GET_IDS;
use crate::pb::{ImportConflictPolicy, ImportProfilesRequest, ImportProfilesResponse, Profile};

/// An import under way.
pub(super) struct Run {
    client: Client,
    options: ImportOptions,
    profiles: Fuse<BoxStream<'static, Profile>>,
    /// There are no more profiles.
    ended: bool,
    /// How many profiles were taken from the caller.
    taken: u64,
    /// The chunk that is not sent yet.
    filling: Chunk,
    /// In the order in which they are sent.
    unacknowledged: VecDeque<Chunk>,
    /// `None` before the first chunk and after a failure.
    sending: Option<Sending>,
    /// How many chunks the server has acknowledged on this stream.
    acknowledged: usize,
    /// How many chunks the transport has taken of this stream. The others have not left this process.
    left: Arc<AtomicUsize>,
    backoff: Backoff,
    so_far: Imported,
    /// The ids of the chunks in doubt that were settled one behind the other: what comes later with one of them was not
    /// written.
    doubted: HashSet<String>,
}

/// A stream to the server, into which all unacknowledged chunks were put.
struct Sending {
    /// Has room for all chunks that may be unacknowledged.
    chunks: mpsc::Sender<ImportProfilesRequest>,
    acknowledgements: Streaming<ImportProfilesResponse>,
}

/// What an import waits for.
enum Event {
    Opened,
    Acknowledged(ImportProfilesResponse),
    /// `None` when there are no more.
    Given(Option<Profile>),
    /// The caller has no more for the moment, and nothing is under way.
    Idle,
}

impl Run {
    pub(super) fn new(client: Client, profiles: Fuse<BoxStream<'static, Profile>>, options: ImportOptions) -> Self {
        Self {
            backoff: Backoff::of(&client),
            client,
            options,
            profiles,
            ended: false,
            taken: 0,
            filling: Chunk::default(),
            unacknowledged: VecDeque::new(),
            sending: None,
            acknowledged: 0,
            left: Arc::default(),
            so_far: Imported { position: 0, written: 0, skipped: 0, refused: Vec::new() },
            doubted: HashSet::new(),
        }
    }

    /// The next report; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Imported>, ClientError> {
        self.options.check()?;
        let allowed = self.client.inner.deadline;
        let mut deadline = Instant::now() + allowed;
        let mut last = None;
        loop {
            if self.has_room() && (self.is_full() || self.ended && self.filling.len() > 0) {
                self.send();
            }
            if self.unacknowledged.is_empty() {
                // The time that the caller takes to give profiles is not the server's.
                deadline = Instant::now() + allowed;
                if self.ended {
                    self.finish(deadline).await;
                    return Ok(None);
                }
            }
            let error = match timeout_at(deadline, self.event()).await {
                Err(_) if self.unacknowledged.is_empty() => continue,
                Err(_) => return Err(ClientError::too_late(allowed, last.as_ref())),
                Ok(Ok(Event::Opened)) => continue,
                Ok(Ok(Event::Given(profile))) => {
                    self.take(profile);
                    continue;
                }
                Ok(Ok(Event::Idle)) => {
                    self.send();
                    continue;
                }
                Ok(Ok(Event::Acknowledged(acknowledgement))) => return self.settle(acknowledgement).await.map(Some),
                Ok(Err(error)) => error,
            };
            self.note_what_is_in_doubt();
            match self.backoff.pause_after(&error, deadline) {
                Some(pause) if may_be_repeated(&error) => {
                    last = Some(error);
                    sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn event(&mut self) -> Result<Event, ClientError> {
        let is_waiting = !self.unacknowledged.is_empty();
        if is_waiting && self.sending.is_none() {
            // Alone: a stream that is half opened must not be given up for a profile.
            return self.open().await.map(|()| Event::Opened);
        }
        let wants_profiles = !self.ended && self.has_room() && !self.is_full();
        tokio::select! {
            biased;
            acknowledgement = next_acknowledgement(self.sending.as_mut()), if is_waiting => {
                acknowledgement.map(Event::Acknowledged)
            }
            profile = self.profiles.next(), if wants_profiles => Ok(Event::Given(profile)),
            () = ready(()), if !is_waiting && self.filling.len() > 0 => Ok(Event::Idle),
        }
    }

    fn is_full(&self) -> bool {
        self.filling.len() >= self.options.chunk_profiles
    }

    fn has_room(&self) -> bool {
        self.unacknowledged.len() < self.options.chunks_in_flight
    }

    fn take(&mut self, profile: Option<Profile>) {
        let Some(profile) = profile else {
            self.ended = true;
            return;
        };
        let prepared = prepare(profile);
        let is_too_much = self.filling.bytes() + prepared.bytes() > self.options.chunk_bytes;
        // The profiles of one chunk are in doubt together.
        let is_other_side = self.taken == self.options.in_doubt;
        if self.filling.len() > 0 && (is_too_much || is_other_side) {
            self.send();
        }
        self.filling.in_doubt = self.taken < self.options.in_doubt;
        self.filling.add(self.taken, prepared);
        self.taken += 1;
    }

    /// Sends the chunk that is being filled; there is room for it.
    fn send(&mut self) {
        let chunk = std::mem::take(&mut self.filling);
        if let Some(sending) = &self.sending {
            // A stream that has failed is found when its acknowledgements are read.
            let _ = sending.chunks.try_send(message(&chunk, &self.options));
        }
        self.unacknowledged.push_back(chunk);
    }

    /// Opens a stream and puts all unacknowledged chunks into it.
    async fn open(&mut self) -> Result<(), ClientError> {
        let (chunks, mut to_send) = mpsc::channel(self.options.chunks_in_flight);
        for chunk in &self.unacknowledged {
            // There is room for all of them.
            let _ = chunks.try_send(message(chunk, &self.options));
        }
        (self.acknowledged, self.left) = (0, Arc::default());
        let left = self.left.clone();
        let requests = poll_fn(move |context| {
            to_send.poll_recv(context).map(|chunk| {
                left.fetch_add(usize::from(chunk.is_some()), Ordering::Release);
                chunk
            })
        });
        let answer = self.client.connection().profiles().import_profiles(requests).await;
        let acknowledgements = answer.map_err(|status| ClientError::from_status(&status))?.into_inner();
        self.sending = Some(Sending { chunks, acknowledgements });
        Ok(())
    }

    /// After a failure: what has left may have been written.
    fn note_what_is_in_doubt(&mut self) {
        self.sending = None;
        let in_doubt = self.left.load(Ordering::Acquire).saturating_sub(self.acknowledged);
        self.unacknowledged.iter_mut().take(in_doubt).for_each(|chunk| chunk.in_doubt = true);
    }

    /// Reads the acknowledgement of the oldest chunk.
    async fn settle(&mut self, acknowledgement: ImportProfilesResponse) -> Result<Imported, ClientError> {
        let is_next = usize::try_from(acknowledgement.chunk).ok() == Some(self.acknowledged);
        let Some(chunk) = self.unacknowledged.pop_front().filter(|_| is_next) else {
            let message = format!("the server acknowledged chunk {} out of turn", acknowledgement.chunk);
            return Err(ClientError::contract_broken(message));
        };
        self.acknowledged += 1;
        self.backoff.reset();
        let own = if chunk.in_doubt && self.options.on_conflict == OnConflict::Fail {
            let own = own(&self.client, &chunk, &acknowledgement, &self.doubted).await?;
            self.doubted.extend(chunk.profiles.iter().map(|profile| profile.id.clone()));
            own
        } else {
            self.doubted.clear();
            HashSet::new()
        };
        self.so_far.position += chunk.len() as u64;
        let settled = chunk.settle(acknowledgement, &own)?;
        self.so_far.written += settled.written;
        self.so_far.skipped += settled.skipped;
        Ok(Imported { refused: settled.refused, ..self.so_far.clone() })
    }

    /// Ends the stream in good order. Everything is acknowledged, so how it ends does not matter.
    async fn finish(&mut self, deadline: Instant) {
        if let Some(Sending { chunks, mut acknowledgements }) = self.sending.take() {
            drop(chunks);
            let _ = timeout_at(deadline, acknowledgements.message()).await;
        }
    }
}

async fn next_acknowledgement(sending: Option<&mut Sending>) -> Result<ImportProfilesResponse, ClientError> {
    let Some(sending) = sending else { return Err(ClientError::ended_early()) };
    let message = sending.acknowledgements.message().await;
    message.map_err(|status| ClientError::from_status(&status))?.ok_or_else(ClientError::ended_early)
}

fn message(chunk: &Chunk, options: &ImportOptions) -> ImportProfilesRequest {
    let conflict_policy = match options.on_conflict {
        OnConflict::Fail => ImportConflictPolicy::Fail,
        OnConflict::Skip => ImportConflictPolicy::Skip,
        OnConflict::Replace => ImportConflictPolicy::Replace,
    };
    ImportProfilesRequest { conflict_policy: conflict_policy.into(), profiles: chunk.profiles.clone() }
}

/// Which of the profiles that are reported as taken this import wrote itself, when it sent them first: those that
/// are stored exactly as they were sent.
async fn own(
    client: &Client,
    chunk: &Chunk,
    acknowledgement: &ImportProfilesResponse,
    before: &HashSet<String>,
) -> Result<HashSet<usize>, ClientError> {
    let mut own = HashSet::new();
    for indexes in chunk.taken(acknowledgement, before).chunks(MAX_BATCH_GET_IDS) {
        let ids = indexes.iter().map(|index| chunk.profiles[*index].id.clone()).collect();
        let found = client.batch_get(ids, Vec::new()).await?;
        let stored: HashMap<_, _> = found.profiles.iter().map(|profile| (&profile.id, profile)).collect();
        let is_own = |index: &&usize| {
            let sent = &chunk.profiles[**index];
            stored.get(&sent.id).is_some_and(|stored| is_what_was_sent(stored, sent))
        };
        own.extend(indexes.iter().filter(is_own));
    }
    Ok(own)
}
