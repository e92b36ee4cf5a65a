//! Coherence under chosen schedules: shuttle decides at every lock of the cache, and at every step of the store inside,
//! which thread goes on.
//!
//! In each schedule a few threads read by every way there is, give up loads halfway, and commit, over three ids and
//! a cache that is too small for them. Whatever the schedule: a read that begins after a commit was answered shows it
//! or a later one, and nobody sees an older state than anybody has seen before.

mod lock;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

pub(super) use lock::Mutex;
use lock::Scheduling;
use world::{Breach, Order, World};

/// How many schedules each test tries, of either kind; the environment may ask for more.
const SCHEDULES_VARIABLE: &str = "PROFILESTORE_SCHEDULES";
const SCHEDULES: usize = 800;
/// The most schedules until a control must have found what is wrong.
const SCHEDULES_OF_A_CONTROL: usize = 20_000;

fn schedules() -> usize {
    std::env::var(SCHEDULES_VARIABLE).map_or(SCHEDULES, |count| count.parse().unwrap())
}

/// Runs worlds under a scheduler. Returns how many.
fn run(scheduler: impl Scheduler + 'static, order: Order, breach: Option<Breach>) -> usize {
    // The cache asks the clock, and bounds its waits by a timer that never strikes here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // It does not end: it would wake whoever a failed schedule has left waiting, and shuttle's wakers live no longer than
    // their schedule.
    let runtime = std::mem::ManuallyDrop::new(runtime);
    let _context = runtime.enter();
    let _scheduling = Scheduling::begin();
    let mut config = Config::new();
    config.failure_persistence = if breach.is_some() { FailurePersistence::None } else { FailurePersistence::Print };
    Runner::new(scheduler, config).run(move || World::new(order, breach).live())
}

fn run_all(order: Order) {
    let mut made = run(RandomScheduler::new(schedules()), order, None);
    for depth in [2, 4] {
        made += run(PctScheduler::new(depth, schedules() / 2), order, None);
    }
    println!("{made} schedules");
    assert!(made >= 2 * (schedules() / 2) + schedules());
}

/// Whether some schedule shows that coherence is breached.
fn is_found(scheduler: impl Scheduler + 'static, order: Order, breach: Breach) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(scheduler, order, Some(breach)))).is_err()
}

#[test]
fn no_schedule_shows_an_old_state_when_commits_come_one_by_one() {
    run_all(Order::OneByOne);
}

#[test]
fn no_schedule_shows_an_old_state_when_commits_overlap() {
    run_all(Order::Overlapping);
}

#[test]
fn a_fill_whose_generation_nobody_checks_is_found() {
    for order in [Order::OneByOne, Order::Overlapping] {
        assert!(is_found(RandomScheduler::new(SCHEDULES_OF_A_CONTROL), order, Breach::FillWithoutGeneration));
        assert!(is_found(PctScheduler::new(4, SCHEDULES_OF_A_CONTROL), order, Breach::FillWithoutGeneration));
    }
}

#[test]
fn a_commit_that_is_visible_before_it_is_announced_is_found() {
    assert!(is_found(RandomScheduler::new(SCHEDULES_OF_A_CONTROL), Order::OneByOne, Breach::VisibleBeforeAnnounced));
}

#[test]
fn a_commit_that_is_answered_before_the_cache_knows_it_is_found() {
    assert!(is_found(RandomScheduler::new(SCHEDULES_OF_A_CONTROL), Order::OneByOne, Breach::AnsweredBeforeVisible));
}
