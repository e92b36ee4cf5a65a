//! Who is woken by which changes.
//!
//! A filter waits for one topic: a domain's own entries, a domain with all below it, or everything. A change belongs to
//! the topics that its index keys, the one before and the one now, begin with. So a watcher of a quiet domain sleeps
//! while others write, and goes past what it slept through without looking at it.
//!
//! Topics are told apart by a hash. Two that share one are woken for each other, which costs a look and nothing else.
//!
//! Invariants: a topic has a slot as long as anybody waits for it; no change concerns a filter whose topic is not
//! among the change's topics; a listener that was woken since it was rearmed is not asleep.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::model::{IndexKey, Record};
use crate::store::CommittedChange;

/// The hash of a prefix of index keys. [`Topics::ALL`] stands for every change.
pub type Topic = u64;

/// Those who wait, by what they wait for.
#[derive(Debug, Default)]
pub struct Topics {
    slots: Mutex<HashMap<Topic, Arc<Slot>>>,
    hasher: RandomState,
    /// Whether nothing is added any more.
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Slot {
    /// The number behind the last chunk with a change of this topic.
    touched: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

/// Those who wait for a topic, in the order in which they came: watches of one connection are woken together.
#[derive(Debug, Default)]
struct Sleepers {
    last: u64,
    by_number: BTreeMap<u64, Arc<Sleeper>>,
}

/// What is known of a listener by those who wake it. It lives as long as the listener, so that falling asleep is a look and no
/// entry in a list.
#[derive(Debug, Default)]
struct Sleeper {
    is_woken: AtomicBool,
    task: AtomicWaker,
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
        let slots = self.slots.lock();
        for slot in topics.iter().chain([&Self::ALL]).filter_map(|topic| slots.get(topic)) {
            slot.touched.store(number, Ordering::Release);
        }
    }

    /// Wakes those who wait for one of these topics, and those who wait for all; says how many.
    pub fn wake(&self, topics: &[Topic]) -> usize {
        let slots = self.slots.lock();
        let touched = topics.iter().chain([&Self::ALL]).filter_map(|topic| slots.get(topic));
        touched.map(|slot| slot.wake()).sum()
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        self.slots.lock().values().for_each(|slot| _ = slot.wake());
    }

    /// Wakes everybody, now and from now on: nothing is added any more.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.wake_all();
    }
}

impl Slot {
    fn wake(&self) -> usize {
        let sleepers = self.sleepers.lock();
        for sleeper in sleepers.by_number.values() {
            sleeper.is_woken.store(true, Ordering::Release);
            sleeper.task.wake();
        }
        sleepers.by_number.len()
    }
}

/// One who waits for a topic; gives the place back when dropped.
#[derive(Debug)]
pub struct Listener {
    topics: Arc<Topics>,
    topic: Topic,
    slot: Arc<Slot>,
    number: u64,
    sleeper: Arc<Sleeper>,
}

impl Listener {
    pub fn new(topics: Arc<Topics>, topic: Topic) -> Self {
        let sleeper = Arc::<Sleeper>::default();
        let (slot, number) = {
            // An entry is made, and an empty slot taken away, under the lock of all slots.
            let mut slots = topics.slots.lock();
            let slot = slots.entry(topic).or_default();
            let mut sleepers = slot.sleepers.lock();
            sleepers.last += 1;
            let number = sleepers.last;
            sleepers.by_number.insert(number, sleeper.clone());
            (slot.clone(), number)
        };
        Self { topics, topic, slot, number, sleeper }
    }

    /// Forgets earlier wake-ups.
    pub fn rearm(&mut self) {
        self.sleeper.is_woken.store(false, Ordering::Relaxed);
    }

    /// Ready with a wake-up since the last [`rearm`](Self::rearm), and always when the topics are closed.
    pub fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleeper.task.register(cx.waker());
        if self.sleeper.is_woken.load(Ordering::Acquire) || self.is_closed() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Whether nothing is added any more.
    pub fn is_closed(&self) -> bool {
        self.topics.is_closed.load(Ordering::Acquire)
    }

    /// Whether a chunk with these topics has to be looked at.
    pub fn concerned(&self, topics: &[Topic]) -> bool {
        self.topic == Topics::ALL || topics.binary_search(&self.topic).is_ok()
    }

    /// Whether no chunk from a number on concerns it.
    pub fn untouched_since(&self, number: u64) -> bool {
        self.slot.touched.load(Ordering::Acquire) <= number
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut slots = self.topics.slots.lock();
        let mut sleepers = self.slot.sleepers.lock();
        sleepers.by_number.remove(&self.number);
        if sleepers.by_number.is_empty() {
            slots.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::task::{ArcWake, waker};

    use super::*;

    #[derive(Default)]
    struct Task(AtomicU64);

    impl ArcWake for Task {
        fn wake_by_ref(task: &Arc<Self>) {
            task.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        /// Polls a listener for this task.
        fn poll(self: &Arc<Self>, listener: &mut Listener) -> Poll<()> {
            listener.poll_woken(&mut Context::from_waker(&waker(self.clone())))
        }

        fn wake_ups(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    const MINE: Topic = 7;
    const OTHER: Topic = 8;

    #[test]
    fn a_listener_is_woken_once_for_its_topic_and_not_for_another() {
        let topics = Arc::<Topics>::default();
        let (mut listener, mut second) = (Listener::new(topics.clone(), MINE), Listener::new(topics.clone(), MINE));
        let (task, second_task) = (Arc::<Task>::default(), Arc::<Task>::default());
        assert!(task.poll(&mut listener).is_pending() && second_task.poll(&mut second).is_pending());
        assert_eq!(topics.wake(&[OTHER]), 0);
        assert_eq!((task.wake_ups(), second_task.wake_ups()), (0, 0));
        assert_eq!(topics.wake(&[MINE]), 2);
        assert_eq!((task.wake_ups(), second_task.wake_ups()), (1, 1));
        assert!(task.poll(&mut listener).is_ready());
        assert!(task.poll(&mut listener).is_ready(), "until it is rearmed");
        listener.rearm();
        assert!(task.poll(&mut listener).is_pending());
        drop(second);
        assert_eq!(topics.wake(&[MINE]), 1);
        drop(listener);
        assert_eq!(topics.wake(&[MINE]), 0);
        assert!(topics.slots.lock().is_empty(), "nobody waits");
    }

    #[test]
    fn a_wake_up_between_the_look_and_the_wait_is_not_lost() {
        let topics = Arc::<Topics>::default();
        let mut listener = Listener::new(topics.clone(), Topics::ALL);
        let task = Arc::<Task>::default();
        listener.rearm();
        topics.wake(&[MINE]);
        assert!(task.poll(&mut listener).is_ready());
    }

    #[test]
    fn who_waits_when_the_topics_close_is_woken_and_who_comes_later_does_not_wait() {
        let topics = Arc::<Topics>::default();
        let mut early = Listener::new(topics.clone(), MINE);
        let task = Arc::<Task>::default();
        assert!(task.poll(&mut early).is_pending());
        topics.close();
        assert_eq!(task.wake_ups(), 1);
        let mut late = Listener::new(topics, MINE);
        for listener in [&mut early, &mut late] {
            listener.rearm();
            assert!(task.poll(listener).is_ready() && listener.is_closed());
        }
    }
}
