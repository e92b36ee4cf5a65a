//! What happens in one schedule, and what every read in it must show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use shuttle::rand::Rng;

use super::store::SteppedStore;
use crate::cache::{CacheOptions, CachedStore, HotCache, Lookup};
use crate::model::{
    Canonicalization, Change, CommitTime, Draft, Etag, Incarnation, Profile, ProfileId, Record, Revision,
};
use crate::store::Store;

const IDS: [&str; 3] = ["a", "b", "c"];
const COMMITTERS: usize = 2;
const COMMITS: usize = 2;
const READERS: usize = 3;
const READS: usize = 3;

/// Whether commits wait for each other, as those of an engine with one thread that commits do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    OneByOne,
    Overlapping,
}

/// What a control does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    FillWithoutGeneration,
    VisibleBeforeAnnounced,
    AnsweredBeforeVisible,
}

/// What is known of an id without looking at the store.
#[derive(Default)]
struct History {
    /// The revisions that were begun, and whether each leaves a record.
    begun: BTreeMap<u64, bool>,
    /// The newest revision that a returned commit made or a returned read has shown.
    floor: u64,
}

pub struct World {
    store: CachedStore<SteppedStore>,
    ids: [ProfileId; 3],
    /// Not shuttle's: keeping the books is no step of the schedule.
    histories: parking_lot::Mutex<[History; 3]>,
    /// Held until the changes that have the revisions are announced.
    next_revision: shuttle::sync::Mutex<u64>,
    committing: shuttle::sync::Mutex<()>,
    order: Order,
    breach: Option<Breach>,
}

impl World {
    /// `a` and `c` exist; the cache has room for two records and one absence.
    pub fn new(order: Order, breach: Option<Breach>) -> Arc<Self> {
        let shards = shuttle::rand::thread_rng().gen_range(1..=2);
        let options = CacheOptions {
            max_entries: 2 * shards,
            negative_entries: shards,
            ttl: Duration::from_secs(3600),
            negative_ttl: Duration::from_secs(3600),
            ..CacheOptions::default()
        };
        let cache = Arc::new(HotCache::with_shards(options, shards));
        let ids = IDS.map(|id| ProfileId::parse(id, "id").unwrap());
        let mut histories = <[History; 3]>::default();
        let mut first = Vec::new();
        for (number, history) in histories.iter_mut().enumerate() {
            let exists = number != 1;
            history.begun.insert(0, exists);
            if exists {
                first.push(change(&ids[number], 0, true));
            }
        }
        Arc::new(Self {
            store: CachedStore::new(SteppedStore::new(cache.clone(), first), cache),
            ids,
            histories: parking_lot::Mutex::new(histories),
            next_revision: shuttle::sync::Mutex::new(1),
            committing: shuttle::sync::Mutex::new(()),
            order,
            breach,
        })
    }

    /// Lets everything happen, and looks at what is left.
    pub fn live(self: Arc<Self>) {
        let mut threads = Vec::new();
        for _ in 0..COMMITTERS {
            let world = self.clone();
            threads.push(shuttle::thread::spawn(move || (0..COMMITS).for_each(|_| world.commit())));
        }
        for _ in 0..READERS {
            let world = self.clone();
            threads.push(shuttle::thread::spawn(move || (0..READS).for_each(|_| world.read())));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for (number, id) in self.ids.iter().enumerate() {
            let floor = self.floor(number);
            for _ in 0..2 {
                self.check(number, floor, shuttle::future::block_on(self.store.get(id)).unwrap());
                assert_eq!(shuttle::future::block_on(self.store.get(id)).unwrap(), self.store.inner().look(id));
            }
        }
    }

    /// Commits one or two changes.
    fn commit(&self) {
        let one_by_one = (self.order == Order::OneByOne).then(|| self.committing.lock().unwrap());
        let mut rng = shuttle::rand::thread_rng();
        let first = rng.gen_range(0..IDS.len());
        let numbers = if rng.gen_ratio(1, 3) { vec![first, (first + 1) % IDS.len()] } else { vec![first] };
        let exists: Vec<_> = numbers.iter().map(|_| rng.gen_ratio(2, 3)).collect();
        let answer = |made: &[Change]| {
            for (&number, change) in numbers.iter().zip(made) {
                let floor = &mut self.histories.lock()[number].floor;
                *floor = (*floor).max(change.revision.0);
            }
        };
        let mut next = self.next_revision.lock().unwrap();
        let mut made = Vec::new();
        for (&number, exists) in numbers.iter().zip(exists) {
            self.histories.lock()[number].begun.insert(*next, exists);
            made.push(change(&self.ids[number], *next, exists));
            *next += 1;
        }
        if self.breach == Some(Breach::AnsweredBeforeVisible) {
            answer(&made);
        }
        self.store.inner().announce(&made, self.breach);
        drop(next);
        self.store.inner().make(&made);
        answer(&made);
        drop(one_by_one);
    }

    /// Reads by any of the ways, and checks what it shows.
    fn read(&self) {
        let mut rng = shuttle::rand::thread_rng();
        let number = rng.gen_range(0..IDS.len());
        let other = (number + 1) % IDS.len();
        let (id, cache) = (&self.ids[number], self.store.cache());
        let (floor, other_floor) = (self.floor(number), self.floor(other));
        match rng.gen_range(0..8) {
            0..3 => {
                let found = shuttle::future::block_on(self.get(id));
                self.check(number, floor, found);
            }
            3 => {
                let ids = [id.clone(), self.ids[other].clone()];
                let mut found = shuttle::future::block_on(self.store.get_many(&ids)).unwrap();
                self.check(other, other_floor, found.pop().unwrap());
                self.check(number, floor, found.pop().unwrap());
            }
            4 => match cache.lookup(id.as_str()) {
                Lookup::Hit(record) => self.check(number, floor, Some(record)),
                Lookup::Absent => self.check(number, floor, None),
                Lookup::Miss => {}
            },
            5 => {
                if let Some(found) = cache.lookup_all(&[id.as_str(), self.ids[other].as_str()]) {
                    for ((number, floor), record) in [(number, floor), (other, other_floor)].into_iter().zip(found) {
                        self.check(number, floor, Some(record));
                    }
                }
            }
            6 => {
                // A caller goes away in the middle of its load.
                if let Some(found) = self.store.get(id).now_or_never() {
                    self.check(number, floor, found.unwrap());
                }
            }
            _ => {
                let found = self.store.inner().look(id);
                self.check(number, floor, found);
            }
        }
    }

    async fn get(&self, id: &ProfileId) -> Option<Record> {
        if self.breach != Some(Breach::FillWithoutGeneration) {
            return self.store.get(id).await.unwrap();
        }
        // The right to fill is asked for when the load is over instead of before it.
        let cache = self.store.cache();
        if let Ok(known) = cache.begin_one_of_many(id) {
            return known;
        }
        let loaded = self.store.inner().get(id).await.unwrap();
        if let Err(Some(token)) = cache.begin_one_of_many(id) {
            cache.fill(id, loaded.as_ref(), token);
        }
        loaded
    }

    fn floor(&self, number: usize) -> u64 {
        self.histories.lock()[number].floor
    }

    /// Checks what a read showed that began when the floor was this.
    fn check(&self, number: usize, floor: u64, found: Option<Record>) {
        let history = &mut self.histories.lock()[number];
        let shown = match &found {
            Some(record) => {
                let revision = record.revision().0;
                assert_eq!(history.begun.get(&revision), Some(&true), "a record that nobody wrote");
                revision
            }
            // Which delete it was cannot be seen: the oldest that is not too old is the least that was shown.
            None => match history.begun.range(floor..).find(|(_, exists)| !**exists) {
                Some((&revision, _)) => revision,
                None => panic!("{} is absent, and revision {floor} was seen", IDS[number]),
            },
        };
        assert!(shown >= floor, "{} shows revision {shown} after {floor} was seen", IDS[number]);
        history.floor = history.floor.max(shown);
    }
}

fn change(id: &ProfileId, revision: u64, exists: bool) -> Change {
    let revision = Revision(revision);
    let record = exists.then(|| {
        let profile = Profile { id: id.to_string(), ..Profile::default() };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
        let time = CommitTime::default();
        Record::from_draft(&draft, &Etag::new(Incarnation(0), revision), time.to_timestamp(), time, revision)
    });
    Change {
        revision,
        id: id.clone(),
        record,
        previous_bytes: None,
        previous_revision: None,
        previous_index_key: None,
        trace: None,
    }
}
