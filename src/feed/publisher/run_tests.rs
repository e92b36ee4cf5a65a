use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::super::message::Message;
use super::*;
use crate::engine::EngineRules;
use crate::engine::memory::MemoryStore;
use crate::model::{Canonicalization, Draft, Precondition, Profile, ProfileId, Write};
use crate::store::{Commit, NoObserver};

/// A broker in memory that does to each attempt what a test has planned.
#[derive(Default)]
struct Fake {
    taken: Mutex<Vec<Message>>,
    known: Mutex<HashSet<String>>,
    /// What becomes of the next connections; then they are made.
    connects: Mutex<VecDeque<Delay>>,
    /// What becomes of the next messages: taken, or an error, and whether it was taken all the same. Then they are taken.
    answers: Mutex<VecDeque<Option<(Delay, bool)>>>,
    /// Answers wait for this, if a test wants it.
    gate: Option<Notify>,
    /// So many of the next messages make it panic.
    panics: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

#[derive(Clone)]
struct FakeBroker(Arc<Fake>);

impl Broker for FakeBroker {
    type Session = FakeBroker;

    fn address(&self) -> &str {
        "fake"
    }

    async fn connect(&self) -> Result<FakeBroker, Delay> {
        let delay = self.0.connects.lock().pop_front();
        delay.map_or_else(|| Ok(self.clone()), Err)
    }
}

impl Session for FakeBroker {
    type Answer = futures_util::future::BoxFuture<'static, Result<Acknowledged, Delay>>;

    async fn publish(&self, message: Message) -> Result<Self::Answer, Delay> {
        let fake = self.0.clone();
        let panics = fake.panics.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(panics.is_err(), "as planned");
        let in_flight = fake.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        fake.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        let planned = fake.answers.lock().pop_front().flatten();
        let answer = match planned {
            Some((delay, false)) => Err(delay),
            planned => {
                let duplicate = !fake.known.lock().insert(message.id.clone());
                if !duplicate {
                    fake.taken.lock().push(message);
                }
                planned.map_or(Ok(Acknowledged { duplicate }), |(delay, _)| Err(delay))
            }
        };
        Ok(async move {
            if let Some(gate) = &fake.gate {
                gate.notified().await;
            }
            fake.in_flight.fetch_sub(1, Ordering::SeqCst);
            answer
        }
        .boxed())
    }

    async fn lost(&self) -> Delay {
        std::future::pending().await
    }
}

struct Running {
    figures: Arc<SharedFigures>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn until(&self, holds: impl Fn(&super::super::figures::Figures) -> bool) {
        // By a clock that does not stand still when the runtime's does.
        let patience = std::time::Instant::now() + Duration::from_secs(30);
        while !holds(&self.figures.read()) {
            assert!(std::time::Instant::now() < patience, "what must come has not come");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(Duration::from_secs(10), self.task).await.expect("the publisher does not stop").unwrap();
    }
}

fn options(start: Start) -> PublisherOptions {
    let message = MessageOptions { subject: "p".into(), source: "s".into(), include_profile: true };
    PublisherOptions { message, start, max_in_flight: 8 }
}

async fn start(store: &Arc<MemoryStore>, fake: &Arc<Fake>, begin: Start) -> Running {
    let publisher = Publisher::prepare(store.clone(), options(begin)).await.unwrap();
    let (figures, stop) = (publisher.figures(), CancellationToken::new());
    let task = tokio::spawn(publisher.run(FakeBroker(fake.clone()), stop.clone()));
    Running { figures, stop, task }
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)))
}

async fn put(store: &MemoryStore, id: &str, email: &str, name: usize) {
    let profile =
        Profile { id: id.into(), email: email.into(), display_name: name.to_string(), ..Profile::default() };
    let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
    store.commit(Commit::all(vec![Write::put(draft, Precondition::None)])).await.unwrap();
}

async fn delete(store: &MemoryStore, id: &str) {
    let id = ProfileId::parse(id, "id").unwrap();
    store.commit(Commit::all(vec![Write::delete(id, Precondition::None)])).await.unwrap();
}

/// What a message says in short.
fn short(message: &Message) -> String {
    let event: Value = serde_json::from_slice(&message.payload).unwrap();
    let name = event["data"]["profile"]["displayName"].as_str().unwrap_or_default();
    format!("{} {}{name}", message.subject, event["subject"].as_str().unwrap())
}

fn taken(fake: &Fake) -> Vec<String> {
    fake.taken.lock().iter().map(short).collect()
}

/// The names of a profile's puts, in the order in which they were taken.
fn versions(fake: &Fake, id: &str) -> Vec<usize> {
    let taken = taken(fake);
    let of_id = taken.iter().filter_map(|text| text.split_once(&format!(" {id}"))).map(|(_, name)| name);
    of_id.filter_map(|name| name.parse().ok()).collect()
}

#[tokio::test]
async fn changes_are_published_in_order_and_a_move_is_two_messages() {
    let (store, fake) = (store(), Arc::default());
    put(&store, "a", "a@x.example", 1).await;
    let running = start(&store, &fake, Start::Oldest).await;
    running.until(|figures| figures.acknowledged == 1 && figures.publishing).await;
    put(&store, "a", "a@y.example", 2).await;
    put(&store, "b", "", 3).await;
    delete(&store, "a").await;
    running.until(|figures| figures.acknowledged == 5).await;
    let expected =
        ["p.put.example.x a1", "p.left.example.x a", "p.put.example.y a2", "p.put._ b3", "p.delete.example.y a"];
    assert_eq!(taken(&fake), expected);
    running.until(|figures| figures.lag_changes == 0 && figures.oldest_unpublished.is_none()).await;
    running.stop().await;
    assert_eq!(store.holds().await.unwrap()[0].lag, 0, "the place is stored at the end");
}

#[tokio::test]
async fn the_next_publisher_goes_on_where_the_last_one_stopped() {
    let (store, fake) = (store(), Arc::default());
    put(&store, "before", "", 0).await;
    let running = start(&store, &fake, Start::Now).await;
    put(&store, "a", "", 1).await;
    running.until(|figures| figures.acknowledged == 1).await;
    running.stop().await;
    put(&store, "a", "", 2).await;
    fake.known.lock().clear();
    let running = start(&store, &fake, Start::Now).await;
    running.until(|figures| figures.acknowledged == 1).await;
    running.stop().await;
    assert_eq!(taken(&fake), ["p.put._ a1", "p.put._ a2"], "nothing twice although the broker forgot all ids");
    assert!(Publisher::forget(&*store).await.unwrap() && !Publisher::forget(&*store).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_each_profiles_messages_come_once_and_in_order() {
    let delays = [Delay::Full, Delay::NoStream, Delay::Slow, Delay::Away];
    for seed in 0..12 {
        let mut random: rand::rngs::SmallRng = rand::SeedableRng::seed_from_u64(seed);
        let (store, fake) = (store(), Arc::<Fake>::default());
        let one = |random: &mut rand::rngs::SmallRng| delays[rand::RngExt::random_range(random, 0..4)];
        for _ in 0..6 {
            fake.connects.lock().push_back(one(&mut random));
        }
        for _ in 0..150 {
            // Of those that fail many were taken all the same.
            let fails = rand::RngExt::random_bool(&mut random, 0.3);
            let planned = fails.then(|| (one(&mut random), rand::RngExt::random_bool(&mut random, 0.7)));
            fake.answers.lock().push_back(planned);
        }
        let running = start(&store, &fake, Start::Oldest).await;
        for number in 0..100 {
            let id = format!("u{}", rand::RngExt::random_range(&mut random, 0..5));
            put(&store, &id, ["", "a@x.example", "a@y.example"][number % 3], number).await;
        }
        let head = store.head().await.unwrap();
        running.until(|_| fake.answers.lock().is_empty() && fake.connects.lock().is_empty()).await;
        running.until(|figures| figures.publishing && figures.lag_changes == 0).await;
        running.stop().await;
        assert_eq!(store.holds().await.unwrap()[0].position, head);
        let mut puts = 0;
        for id in ["u0", "u1", "u2", "u3", "u4"] {
            let versions = versions(&fake, id);
            assert!(versions.is_sorted_by(|a, b| a < b), "seed {seed}: {id} has {versions:?}");
            puts += versions.len();
        }
        assert_eq!(puts, 100, "seed {seed}");
    }
}

#[tokio::test]
async fn several_messages_are_in_flight_but_no_more_than_allowed() {
    let (store, fake) = (store(), Arc::new(Fake { gate: Some(Notify::new()), ..Fake::default() }));
    for number in 0..40 {
        put(&store, &format!("u{number}"), "", number).await;
    }
    let running = start(&store, &fake, Start::Oldest).await;
    let gate = fake.gate.as_ref().unwrap();
    // The first one alone, to see whether the broker takes messages; then as many as are allowed.
    running.until(|_| fake.in_flight.load(Ordering::SeqCst) == 1).await;
    assert_eq!(fake.most_in_flight.load(Ordering::SeqCst), 1);
    gate.notify_one();
    running.until(|_| fake.in_flight.load(Ordering::SeqCst) == 8).await;
    while running.figures.read().acknowledged < 40 {
        gate.notify_one();
        tokio::task::yield_now().await;
    }
    assert_eq!(fake.most_in_flight.load(Ordering::SeqCst), 8);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_asked_again_and_the_lag_is_known() {
    let (store, fake) = (store(), Arc::<Fake>::default());
    fake.connects.lock().extend([Delay::Away; 12]);
    put(&store, "a", "", 1).await;
    put(&store, "b", "", 2).await;
    let running = start(&store, &fake, Start::Oldest).await;
    running.until(|figures| figures.failures > 3).await;
    let figures = running.figures.read();
    assert!(!figures.publishing && figures.lag_changes == 2 && figures.oldest_unpublished.is_some(), "{figures:?}");
    running.until(|figures| figures.acknowledged == 2).await;
    assert_eq!(running.figures.read().failures, 12);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_trimmed_is_counted_and_the_rest_is_published() {
    let store = MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)).keeping_changes(10);
    let (store, fake) = (Arc::new(store.keeping_held_bytes(20 * 160)), Arc::<Fake>::default());
    put(&store, "first", "", 0).await;
    fake.connects.lock().extend([Delay::Away; 12]);
    let running = start(&store, &fake, Start::Oldest).await;
    running.until(|figures| figures.failures > 2).await;
    for number in 1..200 {
        put(&store, &format!("u{number}"), "", number).await;
    }
    let lost = store.holds().await.unwrap()[0].lost;
    assert!(lost > 100, "{lost} were lost");
    running.until(|figures| figures.acknowledged + figures.lost == 200).await;
    assert_eq!(running.figures.read().lost, lost);
    assert_eq!(taken(&fake).len() as u64, 200 - lost);
    running.stop().await;
}

#[tokio::test]
async fn a_stop_takes_the_answers_in_flight_and_does_not_wait_for_those_that_do_not_come() {
    let (store, fake) = (store(), Arc::new(Fake { gate: Some(Notify::new()), ..Fake::default() }));
    put(&store, "a", "", 1).await;
    let running = start(&store, &fake, Start::Oldest).await;
    running.until(|_| fake.in_flight.load(Ordering::SeqCst) == 1).await;
    running.stop.cancel();
    fake.gate.as_ref().unwrap().notify_one();
    running.stop().await;
    assert_eq!(store.holds().await.unwrap()[0].lag, 0);
    put(&store, "a", "", 2).await;
    let running = start(&store, &fake, Start::Oldest).await;
    running.until(|_| fake.in_flight.load(Ordering::SeqCst) == 1).await;
    running.stop().await;
    assert_eq!(store.holds().await.unwrap()[0].lag, 1, "it is sent again by the next publisher");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_panics_says_so_in_its_figures_and_begins_anew_from_its_place() {
    let (store, fake) = (store(), Arc::<Fake>::default());
    put(&store, "a", "", 1).await;
    let running = start(&store, &fake, Start::Now).await;
    put(&store, "b", "", 2).await;
    running.until(|figures| figures.acknowledged == 1 && figures.publishing && figures.lag_changes == 0).await;
    fake.panics.store(3, Ordering::SeqCst);
    for number in 3..6 {
        put(&store, "b", "", number).await;
    }
    running.until(|figures| figures.failures == 1 && !figures.publishing).await;
    running.until(|figures| figures.acknowledged == 4 && figures.publishing && figures.lag_changes == 0).await;
    assert_eq!(running.figures.read().failures, 3);
    assert_eq!(versions(&fake, "b"), [2, 3, 4, 5]);
    // Also one that is about to begin anew stops when it is told to.
    fake.panics.store(usize::MAX, Ordering::SeqCst);
    put(&store, "b", "", 6).await;
    running.until(|figures| figures.failures > 3).await;
    running.stop().await;
}

/// A subscriber that keeps the messages of this crate's log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn that_changes_are_published_is_said_when_one_was_acknowledged_and_not_before() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (store, fake) = (store(), Arc::<Fake>::default());
    let said = |what: &str| String::from_utf8_lossy(&lines.0.lock()).matches(what).count();
    let running = start(&store, &fake, Start::Oldest).await;
    running.until(|figures| figures.publishing).await;
    assert_eq!((said("the broker is there"), said("changes are published")), (1, 0));
    put(&store, "a", "", 1).await;
    running.until(|figures| figures.acknowledged == 1).await;
    running.until(|_| said("changes are published") == 1).await;
    running.stop().await;
    assert_eq!((said("the broker is there"), said("changes are published")), (1, 1));
}

#[tokio::test]
async fn that_the_changes_cannot_be_read_is_said_once_also_while_the_broker_is_away() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let publisher = Publisher::prepare(store(), options(Start::Oldest)).await.unwrap();
    let mut task = Task::begin(publisher, Window::<<FakeBroker as Session>::Answer>::default());
    task.enter(State::Delayed(Delay::Away), "fake");
    let said = || String::from_utf8_lossy(&lines.0.lock()).matches("cannot read the changes").count();
    let error = StoreError::Failed { cause: "a disk".into() };
    for times in 1..3 {
        for _ in 0..5 {
            assert_eq!(task.unreadable(&error), Delay::Unreadable);
        }
        assert_eq!(said(), times);
        task.fill().await.unwrap();
    }
}
