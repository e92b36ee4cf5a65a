//! Draws operations, makes them on the store, and compares.

use profilestore::engine::EngineRules;
use profilestore::model::{Outcome, Record};
use profilestore::store::{
    Commit, CommitMode, Cursor, DomainOrder, PageBounds, RequestId, RequestMark, Scope, Store, StoreError,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::oracle::{Asked, Oracle, Place};
use super::plan::{Action, DOMAINS, IDS, Planned, any_address, any_key};
use super::{OPERATIONS, SEED_VARIABLE};
use crate::common::profiles::*;
use crate::common::stacks::Stack;

const COMPARE_EVERY: usize = 500;
/// How many cursors are kept to be used later.
const HELD_CURSORS: usize = 20;
/// How many requests are kept to be repeated later.
const HELD_REQUESTS: usize = 50;

/// A page's end, to go on from when much has changed.
struct Held {
    asked: Asked,
    place: Place,
    cursor: Cursor,
}

/// A request that was made, to be sent again when much has changed.
pub struct Made {
    pub mark: RequestMark,
    pub planned: Vec<Planned>,
    pub mode: CommitMode,
}

pub struct Run<K> {
    pub stack: K,
    pub oracle: Oracle,
    pub rng: StdRng,
    held: Vec<Held>,
    pub made: Vec<Made>,
    requests: u128,
}

pub async fn random_operations<K: Stack>(unique_email: bool) {
    let mut run = Run::<K>::begin(unique_email).await;
    for operation in 1..=OPERATIONS {
        run.any_operation().await;
        if operation % COMPARE_EVERY == 0 {
            run.compare_everything().await;
        }
        if run.rng.random_ratio(1, 400) {
            run.stack = run.stack.reopen().await;
            run.compare_everything().await;
        }
    }
    run.compare_everything().await;
}

impl<K: Stack> Run<K> {
    /// An empty store, and a seed that the output names.
    pub async fn begin(unique_email: bool) -> Self {
        let seed = std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("{SEED_VARIABLE}={seed}");
        let stack = K::open(EngineRules { unique_email, ..EngineRules::default() }).await;
        let oracle = Oracle { unique_email, ..Oracle::default() };
        Run { stack, oracle, rng: StdRng::seed_from_u64(seed), held: Vec::new(), made: Vec::new(), requests: 0 }
    }

    pub async fn any_operation(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => self.commit(1, CommitMode::Each).await,
            30..35 => self.repeat().await,
            35..40 => self.commit(1, CommitMode::All).await,
            40..46 => self.commit(6, CommitMode::All).await,
            46..52 => self.commit(12, CommitMode::Each).await,
            52..70 => self.get().await,
            70..75 => self.get_many().await,
            75..83 => {
                let asked = self.any_scope();
                self.list(&asked).await;
            }
            83..88 => self.go_on().await,
            88..94 => {
                let asked = self.any_scope();
                self.count(&asked).await;
            }
            _ => self.list_domains().await,
        }
    }

    async fn commit(&mut self, at_most: usize, mode: CommitMode) {
        let count = self.rng.random_range(1..=at_most);
        let planned: Vec<_> = (0..count).map(|_| Planned::any(&mut self.rng, |key| self.oracle.etag(key))).collect();
        let writes = planned.iter().map(Planned::write).collect();
        let request = self.rng.random_bool(0.5).then(|| self.new_mark());
        let result = self.stack.store().commit(Commit { writes, mode, request: request.clone(), trace: None }).await;
        let is_made = matches!(&result, Ok(outcomes) if outcomes.iter().all(Result::is_ok));
        self.oracle.follow(&planned, mode, result);
        if let Some(mark) = request.filter(|_| is_made) {
            self.remember(Made { mark, planned, mode });
        }
    }

    pub fn new_mark(&mut self) -> RequestMark {
        self.requests += 1;
        let (id, fingerprint) = (RequestId(self.requests.to_be_bytes()), self.requests as u64);
        RequestMark { id, fingerprint, made_ids: Box::default() }
    }

    /// Keeps a request that was made, to be sent again.
    pub fn remember(&mut self, made: Made) {
        if self.made.len() == HELD_REQUESTS {
            let dropped = self.rng.random_range(0..self.made.len());
            self.made.swap_remove(dropped);
        }
        self.made.push(made);
    }

    /// Sends a request of long ago again, or another one by its id: nothing changes.
    async fn repeat(&mut self) {
        let Some(Made { mark, planned, mode }) = self.made.choose(&mut self.rng) else { return };
        let is_other = self.rng.random_ratio(1, 5);
        let mark = RequestMark { fingerprint: mark.fingerprint + u64::from(is_other), ..mark.clone() };
        let writes = planned.iter().map(Planned::write).collect();
        let result =
            self.stack.store().commit(Commit { writes, mode: *mode, request: Some(mark), trace: None }).await;
        let expected = planned.iter().map(|write| {
            let now = self.oracle.record(&write.key).filter(|_| !matches!(write.action, Action::Delete));
            Ok(Outcome::Repeated(now.cloned()))
        });
        let expected = if is_other { Err(StoreError::RequestIdReused) } else { Ok(expected.collect()) };
        assert_eq!(result, expected, "{planned:?}");
    }

    async fn get(&mut self) {
        let key = any_key(&mut self.rng);
        let record = self.stack.store().get(&id(&key)).await.unwrap();
        assert_eq!(record.as_ref(), self.oracle.record(&key), "{key}");
    }

    async fn get_many(&mut self) {
        let keys: Vec<_> = (0..self.rng.random_range(0..10)).map(|_| any_key(&mut self.rng)).collect();
        let ids: Vec<_> = keys.iter().map(id).collect();
        let records = self.stack.store().get_many(&ids).await.unwrap();
        let expected: Vec<_> = keys.iter().map(|key| self.oracle.record(key).cloned()).collect();
        assert_eq!(records, expected);
    }

    fn any_domain(&mut self) -> String {
        // `example` and `xample.com` are no domains of anybody, `down.org` only an ancestor.
        let others = ["example", "xample.com", "down.org"];
        let known = DOMAINS.choose(&mut self.rng).unwrap();
        let other = others.choose(&mut self.rng).unwrap();
        if self.rng.random_ratio(1, 6) { (*other).into() } else { (*known).into() }
    }

    fn any_scope(&mut self) -> Asked {
        match self.rng.random_range(0..8) {
            0 => Asked::All,
            1..4 => Asked::Domain(self.any_domain()),
            4..7 => Asked::Subtree(self.any_domain()),
            _ => Asked::Email(any_address(&mut self.rng)),
        }
    }

    fn any_bounds(&mut self) -> PageBounds {
        match self.rng.random_range(0..3) {
            0 => UNBOUNDED,
            1 => PageBounds { max_records: self.rng.random_range(1..8), max_bytes: usize::MAX },
            _ => PageBounds { max_records: 100, max_bytes: self.rng.random_range(0..1500) },
        }
    }

    fn expected(&self, places: &[Place]) -> Vec<Record> {
        places.iter().map(|(_, _, key)| self.oracle.record(key).unwrap().clone()).collect()
    }

    /// Reads all pages of a scope, and keeps one of its cursors for later.
    async fn list(&mut self, asked: &Asked) {
        let (scope, bounds, places) = (scope_of(asked), self.any_bounds(), self.oracle.scope(asked));
        let records = all_pages(self.stack.store(), &scope, bounds).await.unwrap();
        assert_eq!(ids_of(&records), ids_of(&self.expected(&places)), "{asked:?} by {bounds:?}");
        assert_eq!(records, self.expected(&places), "{asked:?} by {bounds:?}");
        let max_records = self.rng.random_range(1..5);
        let page =
            self.stack.store().list(&scope, None, PageBounds { max_records, max_bytes: usize::MAX }).await.unwrap();
        assert_eq!(page.next.is_some(), max_records < places.len());
        if let Some(cursor) = page.next {
            let place = places[max_records - 1].clone();
            self.held.push(Held { asked: asked.clone(), place, cursor });
            if self.held.len() > HELD_CURSORS {
                let dropped = self.rng.random_range(0..self.held.len());
                self.held.swap_remove(dropped);
            }
        }
    }

    /// Goes on from a cursor of long ago.
    async fn go_on(&mut self) {
        let Some(Held { asked, place, cursor }) = self.held.choose(&mut self.rng) else { return };
        let page = self.stack.store().list(&scope_of(asked), Some(cursor), UNBOUNDED).await.unwrap();
        let rest: Vec<_> = self.oracle.scope(asked).into_iter().filter(|later| later > place).collect();
        assert_eq!(page.records, self.expected(&rest), "{asked:?} after {place:?}");
        assert_eq!(page.next, None);
    }

    async fn count(&mut self, asked: &Asked) {
        let count = self.stack.store().count(&scope_of(asked)).await.unwrap();
        assert_eq!(count, self.oracle.scope(asked).len() as u64, "{asked:?}");
    }

    async fn list_domains(&mut self) {
        let parent = if self.rng.random_ratio(1, 3) { None } else { Some(self.any_domain()) };
        let size = self.rng.random_range(1..6);
        let asked = parent.as_deref().map(domain);
        let store = self.stack.store();
        let largest = store.list_domains(asked.as_ref(), DomainOrder::LargestFirst, None, size).await.unwrap();
        let mut expected = self.oracle.domains_below(parent.as_deref(), true);
        expected.truncate(size);
        assert_eq!(named(largest.domains), expected, "the largest of {parent:?}");
        assert_eq!(largest.next, None);
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.list_domains(asked.as_ref(), DomainOrder::Index, after.as_ref(), size).await.unwrap();
            assert!(page.domains.len() <= size);
            found.extend(named(page.domains));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, self.oracle.domains_below(parent.as_deref(), false), "below {parent:?}");
    }

    pub async fn compare_everything(&mut self) {
        let report = self.stack.store().verify().await.unwrap();
        assert_eq!(report.problems, []);
        assert_eq!(report.profiles, self.oracle.profiles.len() as u64);
        assert_eq!(report.index_entries, self.oracle.places().len() as u64);
        assert_eq!(self.stack.store().status().totals.profiles, report.profiles);
        // Twice, so that a cache answers as well.
        for _ in 0..2 {
            for number in 0..IDS {
                let key = format!("user-{number}");
                let record = self.stack.store().get(&id(&key)).await.unwrap();
                assert_eq!(record.as_ref(), self.oracle.record(&key), "{key}");
            }
        }
        let domains = DOMAINS.map(str::to_owned);
        let scopes =
            domains.iter().flat_map(|domain| [Asked::Domain(domain.clone()), Asked::Subtree(domain.clone())]);
        for asked in scopes.chain([Asked::All]) {
            self.list(&asked).await;
            self.count(&asked).await;
        }
        self.list_domains().await;
    }
}

fn scope_of(asked: &Asked) -> Scope {
    match asked {
        Asked::All => Scope::All,
        Asked::Domain(domain) => scope(domain),
        Asked::Subtree(domain) => subtree(domain),
        Asked::Email(address) => email(address),
    }
}

fn named(domains: Vec<profilestore::store::DomainCount>) -> Vec<(String, u64)> {
    domains.into_iter().map(|count| (count.domain.to_string(), count.profiles)).collect()
}
