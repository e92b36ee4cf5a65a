//! Answers to queries for a page of a domain, as they were sent, for those who ask the same again.
//!
//! # Coherence
//!
//! Every scope (a domain, or a domain with all below it) belongs to one of some thousand *slots*, by its hash. A slot
//! counts two things in one word: how often a change of a profile in its scopes was announced or applied, and how
//! many of these changes are announced and not yet applied.
//!
//! 1. A page may be kept only with a [`Ticket`], taken before the store is read, and there is none while a change
//!    of the slot is under way. It holds the slot's word.
//! 2. A kept page is an answer only while the slot's word is that of its ticket: then nothing was announced since
//!    before it was read, so nothing that it shows has changed, and nothing that should be on it is missing.
//!
//! A change that is announced makes the kept pages of its scopes worthless before the store shows it, and a page
//! that was read before it is never kept after it. Scopes that share a slot cost each other pages, nothing else. An
//! engine that fails between the announcement and the change leaves the slot as it is, and its pages are never kept
//! again.
//!
//! # Bounds
//!
//! Pages are bounded in bytes, each shard by its share; those used longest ago go first. A page is kept when it is asked for
//! the second time within a while, so that whoever reads everything once pushes nothing out.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::model::{Change, Domain, IndexKey};
use crate::store::Scope;

const SLOTS: usize = 4096;
const SHARDS: usize = 16;
/// Each shard remembers so many requests that were made once.
const SEEN: usize = 256;
/// Longer requests are not remembered; one without a mask and a page token is shorter than this.
const MAX_REQUEST_BYTES: usize = 512;
/// A shard keeps no page that takes more than this part of it.
const LARGEST_SHARE: usize = 4;
/// What a page takes beside its bytes and those of its request.
const ENTRY_BYTES: usize = 200;
/// A slot's word: changes under way in the low bits, above them how often anything happened.
const UNDER_WAY_BITS: u32 = 20;
const HAPPENED: u64 = 1 << UNDER_WAY_BITS;

/// The right to keep a page that is read from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    slot: usize,
    word: u64,
}

/// Pages by the request that they answer.
pub struct PageCache {
    slots: Box<[AtomicU64]>,
    /// None is locked while another is.
    shards: Box<[Mutex<Shard>]>,
    hasher: lru::DefaultHasher,
}

struct Shard {
    max_bytes: usize,
    bytes: usize,
    pages: LruCache<Box<[u8]>, Page>,
    /// The hashes of requests that were answered once.
    seen: Box<[u64]>,
    hits: u64,
    misses: u64,
}

/// What the kept pages are and were good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageFigures {
    /// Pages now.
    pub pages: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// Requests that a kept page answered.
    pub hits: u64,
    /// Requests that found none, or one that was no longer current.
    pub misses: u64,
}

struct Page {
    ticket: Ticket,
    kept: KeptPage,
}

/// A page that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPage {
    /// The answer, encoded.
    pub answer: Bytes,
    /// The domain that was queried.
    pub domain: Arc<str>,
}

impl Page {
    fn cost(request: &[u8], answer: &Bytes) -> usize {
        ENTRY_BYTES + request.len() + answer.len()
    }
}

impl PageCache {
    /// A cache of so many bytes; with 0 it keeps nothing.
    pub fn new(max_bytes: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                max_bytes: max_bytes / SHARDS,
                bytes: 0,
                pages: LruCache::unbounded(),
                seen: vec![0; SEEN].into(),
                hits: 0,
                misses: 0,
            })
        };
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: lru::DefaultHasher::default(),
        }
    }

    /// The page that answers a request, if it is here.
    pub fn get(&self, request: &[u8]) -> Option<KeptPage> {
        if request.len() > MAX_REQUEST_BYTES {
            return None;
        }
        let mut shard = self.shard(self.hasher.hash_one(request)).lock();
        let shard = &mut *shard;
        match shard.pages.get(request) {
            Some(page) if self.word(page.ticket.slot) == page.ticket.word => {
                shard.hits += 1;
                return Some(page.kept.clone());
            }
            Some(_) => shard.remove(request),
            None => {}
        }
        shard.misses += 1;
        None
    }

    /// The right to keep a page of a scope. Taken before the store is asked for it.
    pub fn ticket(&self, scope: &Scope) -> Option<Ticket> {
        let slot = match scope {
            Scope::Domain(_) | Scope::Subtree(_) => self.slot(&scope.key_prefix()),
            Scope::All | Scope::Email(_) => return None,
        };
        let word = self.word(slot);
        word.is_multiple_of(HAPPENED).then_some(Ticket { slot, word })
    }

    /// Keeps the answer to a request, if it has been asked for before.
    pub fn fill(&self, request: &[u8], ticket: Ticket, domain: &Domain, answer: &Bytes) {
        if request.len() > MAX_REQUEST_BYTES || self.word(ticket.slot) != ticket.word {
            return;
        }
        let hash = self.hasher.hash_one(request);
        let mut shard = self.shard(hash).lock();
        if Page::cost(request, answer) > shard.max_bytes / LARGEST_SHARE {
            return;
        }
        let seen = &mut shard.seen[hash as usize % SEEN];
        if *seen == hash {
            let kept = KeptPage { answer: answer.clone(), domain: domain.as_str().into() };
            shard.insert(request, Page { ticket, kept });
        } else {
            *seen = hash;
        }
    }

    /// These changes are about to become visible.
    pub(super) fn announce(&self, changes: &[Change]) {
        changes.iter().for_each(|change| self.count(change, HAPPENED + 1));
    }

    /// These changes are visible.
    pub(super) fn settle(&self, changes: &[Change]) {
        changes.iter().for_each(|change| self.count(change, HAPPENED - 1));
    }

    /// Forgets everything for good.
    pub(super) fn close(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.max_bytes = 0;
            shard.bytes = 0;
            shard.pages.clear();
        }
    }

    /// What is kept now, and what came of all requests.
    pub fn figures(&self) -> PageFigures {
        self.shards.iter().fold(PageFigures::default(), |sum, shard| {
            let shard = shard.lock();
            PageFigures {
                pages: sum.pages + shard.pages.len() as u64,
                bytes: sum.bytes + shard.bytes as u64,
                hits: sum.hits + shard.hits,
                misses: sum.misses + shard.misses,
            }
        })
    }

    /// The number of pages and what they take, in bytes.
    pub fn sizes(&self) -> (usize, usize) {
        let sizes = self.shards.iter().map(|shard| {
            let shard = shard.lock();
            (shard.pages.len(), shard.bytes)
        });
        sizes.fold((0, 0), |(pages, bytes), (more_pages, more_bytes)| (pages + more_pages, bytes + more_bytes))
    }

    /// Adds to the words of all scopes that a change is about.
    fn count(&self, change: &Change, add: u64) {
        let before = change.previous_index_key.as_ref().map_or(&[][..], IndexKey::as_bytes);
        let after = change.record.as_ref().map_or(&[][..], |record| record.index_key_bytes());
        self.count_scopes(before, add);
        if before != after {
            self.count_scopes(after, add);
        }
    }

    fn count_scopes(&self, index_key: &[u8], add: u64) {
        for prefix in IndexKey::domain_prefixes(index_key) {
            self.slots[self.slot(prefix)].fetch_add(add, Ordering::SeqCst);
        }
    }

    /// The slot of the scope whose index keys begin with a prefix.
    fn slot(&self, key_prefix: &[u8]) -> usize {
        self.hasher.hash_one(key_prefix) as usize % SLOTS
    }

    fn word(&self, slot: usize) -> u64 {
        self.slots[slot].load(Ordering::SeqCst)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The middle of the hash; the shard's own tables use its ends.
        &self.shards[(hash >> 24) as usize % SHARDS]
    }
}

impl Shard {
    fn insert(&mut self, request: &[u8], page: Page) {
        self.remove(request);
        self.bytes += Page::cost(request, &page.kept.answer);
        self.pages.push(request.into(), page);
        while self.bytes > self.max_bytes {
            let Some((request, page)) = self.pages.pop_lru() else { break };
            self.bytes -= Page::cost(&request, &page.kept.answer);
        }
    }

    fn remove(&mut self, request: &[u8]) {
        if let Some(page) = self.pages.pop(request) {
            self.bytes -= Page::cost(request, &page.kept.answer);
        }
    }
}

#[cfg(test)]
#[path = "page_cache_tests.rs"]
mod tests;
