//! The requests that were made lately, so that a repetition is not made again.
//!
//! Bounded by age and by number. What it holds is what the engine has logged: the sled engine fills it from
//! the commit log when it opens.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::model::{CommitTime, ProfileId};
use crate::store::{RequestId, RequestMark};

/// For how long a request is remembered.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// How many requests are remembered at most, where each id that was made for one counts as another; the oldest go first.
pub const MAX_REMEMBERED: usize = 1_000_000;

/// The requests of the last ten minutes, or the last million of them.
#[derive(Debug, Default)]
pub struct RequestMemory {
    by_id: HashMap<RequestId, Remembered>,
    /// In the order in which they were made.
    order: VecDeque<(CommitTime, RequestId)>,
    /// What is remembered, in requests and ids that were made for them.
    weight: usize,
}

/// What is known of a request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// What it asked for.
    pub fingerprint: u64,
    /// The ids that the server made for it.
    pub made_ids: Box<[ProfileId]>,
}

impl Remembered {
    fn weight(&self) -> usize {
        1 + self.made_ids.len()
    }
}

impl RequestMemory {
    /// What is known of a request.
    pub fn get(&self, id: &RequestId) -> Option<&Remembered> {
        self.by_id.get(id)
    }

    /// Remembers a request that was made at `time`, which is not before that of any other.
    pub fn remember(&mut self, request: RequestMark, time: CommitTime) {
        let RequestMark { id, fingerprint, made_ids } = request;
        let remembered = Remembered { fingerprint, made_ids };
        self.weight += remembered.weight();
        match self.by_id.insert(id, remembered) {
            Some(former) => self.weight -= former.weight(),
            None => self.order.push_back((time, id)),
        }
        while self.weight > MAX_REMEMBERED {
            self.forget_oldest();
        }
    }

    /// Forgets what is too old at `now`.
    pub fn forget_old(&mut self, now: CommitTime) {
        let oldest_kept = now.saturating_sub(REMEMBERED_FOR);
        while self.order.front().is_some_and(|(time, _)| *time < oldest_kept) {
            self.forget_oldest();
        }
        // After a burst the room goes back, but not for every dip.
        if self.order.capacity() > 4 * self.order.len().max(1024) {
            self.order.shrink_to(2 * self.order.len());
            self.by_id.shrink_to(2 * self.by_id.len());
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front()
            && let Some(forgotten) = self.by_id.remove(&id)
        {
            self.weight -= forgotten.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u128) -> RequestMark {
        RequestMark { id: RequestId(number.to_be_bytes()), fingerprint: 7, made_ids: Box::default() }
    }

    #[test]
    fn a_request_is_forgotten_after_ten_minutes() {
        let mut memory = RequestMemory::default();
        let at = |seconds: i64| CommitTime::from_unix_nanos(seconds * 1_000_000_000);
        memory.remember(mark(1), at(0));
        memory.remember(mark(2), at(1));
        memory.forget_old(at(600));
        assert!(memory.get(&mark(1).id).is_some());
        memory.forget_old(at(601));
        assert!(memory.get(&mark(1).id).is_none() && memory.get(&mark(2).id).is_some());
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut memory = RequestMemory::default();
        for number in 0..=MAX_REMEMBERED as u128 {
            memory.remember(mark(number), CommitTime::default());
        }
        assert!(memory.get(&mark(0).id).is_none());
        assert!(memory.get(&mark(1).id).is_some() && memory.get(&mark(MAX_REMEMBERED as u128).id).is_some());
        let made_ids = vec![ProfileId::parse("a", "id").unwrap(); 99].into();
        memory.remember(RequestMark { made_ids, ..mark(u128::MAX) }, CommitTime::default());
        assert_eq!(memory.by_id.len(), MAX_REMEMBERED - 99, "an id that was made counts like a request");
        memory.forget_old(CommitTime::from_unix_nanos(i64::MAX));
        assert_eq!(memory.weight, 0);
        assert!(memory.by_id.is_empty() && memory.by_id.capacity() < 10_000 && memory.order.capacity() < 10_000);
    }
}
