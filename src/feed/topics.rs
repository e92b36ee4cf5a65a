//! Who is woken by which changes.
//!
//! A filter waits for one topic: a domain's own entries, a domain with all below it, or everything. A change belongs to
//! the topics that its index keys, the one before and the one now, begin with. So a watcher of a quiet domain sleeps
//! while others write, and goes past what it slept through without looking at it.
//!
//! Topics are told apart by a hash. Two that share one are woken for each other, which costs a look and nothing else.
//!
//! Invariants: a topic has a slot as long as anybody waits for it; no change concerns a filter whose topic is not
//! among the change's topics.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::{IndexKey, Record};
use crate::store::CommittedChange;

/// The hash of a prefix of index keys. [`Topics::ALL`] stands for every change.
pub type Topic = u64;

/// Those who wait, by what they wait for.
#[derive(Debug, Default)]
pub struct Topics {
    slots: Mutex<HashMap<Topic, Slot>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Slot {
    wake: watch::Sender<()>,
    waiting: usize,
    /// The number behind the last chunk with a change of this topic.
    touched: u64,
}

impl Topics {
    /// The topic of all changes.
    const ALL: Topic = 0;

    /// The topic of the filter that lets through what begins with a prefix, or everything.
    pub fn of_filter(&self, prefix: Option<&[u8]>) -> Topic {
        prefix.map_or(Self::ALL, |prefix| self.topic(prefix))
    }

    /// The topics of some changes, in order and each once.
    pub fn of_changes<'a>(&self, changes: impl Iterator<Item = &'a CommittedChange>) -> Box<[Topic]> {
        let mut topics = Vec::new();
        for change in changes {
            let now = change.record.as_ref().map_or(&[][..], Record::index_key_bytes);
            let before = change.previous_index_key.as_ref().map_or(&[][..], IndexKey::as_bytes);
            topics.extend(IndexKey::domain_prefixes(now).map(|prefix| self.topic(prefix)));
            if before != now {
                topics.extend(IndexKey::domain_prefixes(before).map(|prefix| self.topic(prefix)));
            }
        }
        topics.sort_unstable();
        topics.dedup();
        topics.into()
    }

    fn topic(&self, prefix: &[u8]) -> Topic {
        self.hasher.hash_one(prefix).max(Self::ALL + 1)
    }

    /// Notes that the chunk before a number has changes of these topics.
    pub fn touch(&self, topics: &[Topic], number: u64) {
        let mut slots = self.slots.lock();
        for topic in topics.iter().chain([&Self::ALL]) {
            if let Some(slot) = slots.get_mut(topic) {
                slot.touched = number;
            }
        }
    }

    /// Wakes those who wait for one of these topics, and those who wait for all; says how many.
    pub fn wake(&self, topics: &[Topic]) -> usize {
        let slots = self.slots.lock();
        let touched = topics.iter().chain([&Self::ALL]).filter_map(|topic| slots.get(topic));
        touched.map(Slot::wake).sum()
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        self.slots.lock().values().for_each(|slot| _ = slot.wake());
    }
}

impl Slot {
    fn wake(&self) -> usize {
        self.wake.send_replace(());
        self.waiting
    }
}

/// One who waits for a topic; gives the place back when dropped.
#[derive(Debug)]
pub struct Listener {
    topics: Arc<Topics>,
    topic: Topic,
    woken: watch::Receiver<()>,
}

impl Listener {
    pub fn new(topics: Arc<Topics>, topic: Topic) -> Self {
        let woken = {
            let mut slots = topics.slots.lock();
            let new = || Slot { wake: watch::Sender::new(()), waiting: 0, touched: 0 };
            let slot = slots.entry(topic).or_insert_with(new);
            slot.waiting += 1;
            slot.wake.subscribe()
        };
        Self { topics, topic, woken }
    }

    /// Forgets earlier wake-ups.
    pub fn rearm(&mut self) {
        self.woken.mark_unchanged();
    }

    /// Waits for a wake-up since the last [`rearm`](Self::rearm).
    pub async fn wait(&mut self) {
        // The sender is in the slot, which this listener keeps.
        let _ = self.woken.changed().await;
    }

    /// Whether a chunk with these topics has to be looked at.
    pub fn concerned(&self, topics: &[Topic]) -> bool {
        self.topic == Topics::ALL || topics.binary_search(&self.topic).is_ok()
    }

    /// Whether no chunk from a number on concerns it.
    pub fn untouched_since(&self, number: u64) -> bool {
        self.topics.slots.lock().get(&self.topic).is_some_and(|slot| slot.touched <= number)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut slots = self.topics.slots.lock();
        if let Some(slot) = slots.get_mut(&self.topic) {
            slot.waiting -= 1;
            if slot.waiting == 0 {
                slots.remove(&self.topic);
            }
        }
    }
}
