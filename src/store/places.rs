//! Places that are few and for all, such as those in line for a long read: nobody who asks takes more of them than he leaves.
//!
//! With a bound on all together only, one client could have everybody else refused. So whoever has a place already gets
//! another one only while more are left than he has: a lone one takes half of them, and however many are greedy,
//! somebody who has none finds one.
//!
//! Who asks ([`Asker`]) is handed to whatever is polled for him on this thread, so that nothing between needs to know of
//! him. What nobody in particular asks for, such as the server's own reads, is bounded by the number of places alone.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

thread_local! {
    static CURRENT: Cell<Option<Asker>> = const { Cell::new(None) };
}

/// One of those who share, such as a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asker(u64);

impl Asker {
    /// One that is no other.
    pub fn new_one() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs `poll` for this asker, and for nobody else on this thread, however `poll` ends.
    pub fn around<T>(self, poll: impl FnOnce() -> T) -> T {
        let _restored = Restored(CURRENT.replace(Some(self)));
        poll()
    }
}

/// Who asked before, and does again when this is dropped.
struct Restored(Option<Asker>);

impl Drop for Restored {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// A bounded number of places.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    /// Guards the counts; held to count only.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of those who have any.
    by: HashMap<Asker, usize>,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    asker: Option<Asker>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// All are taken.
    Full,
    /// Some are left, but no more than who asks has already.
    LeftToOthers,
}

impl Places {
    /// So many places.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// The number of places.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.taken.lock().all
    }

    /// Takes a place for whom this thread works.
    pub fn take(self: &Arc<Self>) -> Result<Place, NoPlace> {
        let asker = CURRENT.get();
        let mut taken = self.taken.lock();
        let left = self.limit.saturating_sub(taken.all);
        let own = asker.and_then(|asker| taken.by.get(&asker)).copied().unwrap_or_default();
        if left == 0 {
            return Err(NoPlace::Full);
        }
        if own > 0 && own >= left {
            return Err(NoPlace::LeftToOthers);
        }
        taken.all += 1;
        if let Some(asker) = asker {
            taken.by.insert(asker, own + 1);
        }
        Ok(Place { places: self.clone(), asker })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        if let Some(asker) = self.asker
            && let Some(own) = taken.by.get_mut(&asker)
        {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_take_what_they_may_one_who_has_none_finds_a_place() {
        const LIMIT: usize = 1000;
        for askers in [1, 2, 10, 40] {
            let places = Places::new(LIMIT);
            let askers: Vec<_> = (0..askers).map(|_| Asker::new_one()).collect();
            let mut held = Vec::new();
            loop {
                let more: Vec<_> = askers.iter().filter_map(|asker| asker.around(|| places.take()).ok()).collect();
                if more.is_empty() {
                    break;
                }
                held.extend(more);
            }
            let left = LIMIT - places.taken();
            assert!(left + askers.len() >= LIMIT / (askers.len() + 1), "{} leave {left}", askers.len());
            assert_eq!(askers[0].around(|| places.take()).unwrap_err(), NoPlace::LeftToOthers);
            held.push(Asker::new_one().around(|| places.take()).expect("there is one for the next"));
            held.extend((1..left).map(|_| places.take().expect("nobody in particular takes all")));
            assert_eq!(places.take().unwrap_err(), NoPlace::Full);
            drop(held);
            assert_eq!((places.taken(), places.taken.lock().by.len()), (0, 0));
        }
    }

    #[test]
    fn who_asked_asks_no_more_after_a_panic() {
        let (one, other) = (Asker::new_one(), Asker::new_one());
        one.around(|| {
            std::panic::catch_unwind(|| other.around(|| panic!("wanted"))).unwrap_err();
            assert_eq!(CURRENT.get(), Some(one));
        });
        std::panic::catch_unwind(|| other.around(|| panic!("wanted"))).unwrap_err();
        assert_eq!(CURRENT.get(), None);
    }

    #[test]
    fn the_smallest_numbers_do_what_they_say() {
        let (one, other) = (Asker::new_one(), Asker::new_one());
        assert_eq!(one.around(|| Places::new(0).take()).unwrap_err(), NoPlace::Full);
        let places = Places::new(2);
        let first = one.around(|| places.take()).unwrap();
        assert_eq!(one.around(|| places.take()).unwrap_err(), NoPlace::LeftToOthers);
        let second = one.around(|| other.around(|| places.take())).unwrap();
        assert_eq!(one.around(|| places.take()).unwrap_err(), NoPlace::Full);
        drop((first, second));
        assert!(one.around(|| places.take()).is_ok());
    }
}
