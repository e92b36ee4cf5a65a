//! Short concurrent histories with kills: for each profile there is an order of all operations, each at a moment
//! between its call and its answer, that explains every answer. (Herlihy and Wing call it linearizability.)
//!
//! A few callers get, batch-get, page, and commit one and several writes, on the store behind its cache and on a server.
//! The committer is stopped at a step that chance chooses; then the directory is copied as the kill or the power cut
//! would leave it, and the callers go on with what opens from the copy. A write whose answer the kill took may have
//! been made before the kill or never.

mod common;

#[path = "linearizability/callers.rs"]
mod callers;
#[path = "linearizability/checker.rs"]
mod checker;
#[path = "linearizability/history.rs"]
mod history;
#[path = "linearizability/kills.rs"]
mod kills;
#[path = "linearizability/lives.rs"]
mod lives;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use checker::{is_linearizable, stateright_agrees};
use history::{Operation, Outcome, of_each_profile};
use kills::Power;
use lives::{Life, Lying, Stale, Stored, Wired};

/// How many histories each test makes; the environment may ask for more.
const HISTORIES_VARIABLE: &str = "PROFILESTORE_HISTORIES";
const HISTORIES: usize = 60;
/// So many go on at a time.
const AT_A_TIME: usize = 4;
/// The most histories until a control must have been caught.
const HISTORIES_OF_A_CONTROL: usize = 200;

/// Makes histories. Returns how many operations they had, how many of those in doubt, or the first that no order explains.
async fn histories<L: Life>(count: usize) -> Result<(usize, usize), Vec<Operation>> {
    let mut running = JoinSet::new();
    let (mut begun, mut operations, mut in_doubt, mut unexplained) = (0, 0, 0, None);
    loop {
        while begun < count && running.len() < AT_A_TIME && unexplained.is_none() {
            running.spawn(kills::live_through::<L>(rand::random()));
            begun += 1;
        }
        let Some(history) = running.join_next().await else { break };
        for of_one in of_each_profile(history.unwrap()) {
            operations += of_one.len();
            in_doubt += of_one.iter().filter(|operation| operation.outcome == Outcome::InDoubt).count();
            if !is_linearizable(&of_one) {
                unexplained = Some(of_one);
            }
        }
    }
    unexplained.map_or(Ok((operations, in_doubt)), Err)
}

async fn all_are_linearizable<L: Life>() {
    let count = std::env::var(HISTORIES_VARIABLE).map_or(HISTORIES, |count| count.parse().unwrap());
    match histories::<L>(count).await {
        Ok((operations, in_doubt)) => {
            println!("{count} histories, {operations} operations on single profiles, {in_doubt} of them in doubt");
            assert!(operations > 20 * count && in_doubt > 0, "{operations} operations, {in_doubt} in doubt");
        }
        Err(history) => panic!("no order explains\n{}", history::print(&history)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_linearizable_over_kills_and_power_cuts() {
    all_are_linearizable::<Stored>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_linearizable_over_kills_and_power_cuts() {
    all_are_linearizable::<Wired>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_not_told_of_commits_is_caught() {
    assert!(histories::<Stale>(HISTORIES_OF_A_CONTROL).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_synced_before_the_answer_is_caught() {
    assert_eq!(Lying::POWER, Power::Fails);
    assert!(histories::<Lying>(HISTORIES_OF_A_CONTROL).await.is_err());
}

#[test]
fn the_checker_says_what_stateright_says() {
    let mut rng = StdRng::seed_from_u64(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3000 {
        let history = history::any(&mut rng, 3, 3);
        let verdict = is_linearizable(&history);
        assert_eq!(verdict, stateright_agrees(&history), "{}", history::print(&history));
        *(if verdict { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 300 && bad > 300, "{good} good, {bad} bad: the histories say little");
}

#[test]
fn a_write_in_doubt_was_made_before_the_kill_or_never() {
    use history::Action::{Put, Read};
    let at = |begin, end, action, outcome| Operation { profile: 0, begin, end, action, outcome };
    let kill = at(1, 2, Put(1), Outcome::InDoubt);
    let read = |begin, value| at(begin, begin + 1, Read, Outcome::Saw(value));
    assert!(is_linearizable(&[kill.clone(), read(3, None), read(5, None)]));
    assert!(is_linearizable(&[kill.clone(), read(3, Some(1)), read(5, Some(1))]));
    assert!(!is_linearizable(&[kill.clone(), read(3, None), read(5, Some(1))]), "it came back from the dead");
    assert!(!is_linearizable(&[kill.clone(), read(3, Some(1)), read(5, None)]), "it was taken back");
    let acknowledged = Operation { outcome: Outcome::Done, ..kill };
    assert!(!is_linearizable(&[acknowledged, read(3, None)]));
}
