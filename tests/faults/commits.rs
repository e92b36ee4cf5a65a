//! Faults between a commit's arrival and its answer, and in the close.

use profilestore::model::Outcome;
use profilestore::store::StoreState;

use super::*;

/// Where the points stand to the frame in the log: is the group there at the next open?
fn is_logged(point: Point) -> bool {
    match point {
        Point::Decided | Point::SegmentCreate | Point::SegmentCreated | Point::LogWrite => false,
        // After a failed sync the frame may be in the file; nothing but a power cut takes it out.
        Point::LogSync | Point::Appended | Point::Announced | Point::BatchBegun | Point::Applied => true,
        Point::Published => true,
        // Between groups.
        Point::SledFlush | Point::SledFlushed | Point::CloseMark => false,
        other => panic!("{other:?} is not passed by a commit"),
    }
}

/// How often each point is passed by all rounds and the close.
async fn passings() -> BTreeMap<Point, usize> {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(None));
    let store = open_held(dir.path(), &faults).await;
    for number in 0..ROUNDS {
        let answers = together(&store, &faults, round(number)).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    faults.give_turns(usize::MAX);
    store.close().await.unwrap();
    let passed = faults.passed.lock().clone();
    assert_eq!(passed[&Point::Decided], ROUNDS, "each round is one group");
    assert!(passed[&Point::SegmentCreated] > 2, "the log is of several segments: {passed:?}");
    passed
}

/// Every fault at every passing of these points.
async fn fail_each(points: &[Point], faults: &[Fault]) {
    let passings = passings().await;
    for &point in points {
        // When sled is flushed depends on the time too; the close comes to it in any case.
        let last = if point == Point::SledFlush || point == Point::SledFlushed { 1 } else { passings[&point] };
        for nth in 1..=last {
            for &fault in faults {
                fail_once(point, nth, fault).await;
            }
        }
    }
}

async fn fail_once(point: Point, nth: usize, fault: Fault) {
    let case = format!("{fault:?} at passing {nth} of {point:?}");
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(Some((point, nth, fault))));
    let live = dir.path().join("live");
    let store = open_held(&live, &faults).await;
    let mut acknowledged = 0;
    while acknowledged < ROUNDS {
        let answers = together(&store, &faults, round(acknowledged)).await;
        if answers.iter().any(Result::is_err) {
            for answer in answers {
                assert!(matches!(answer, Err(StoreError::Failed { .. })), "{case}: {answer:?}");
            }
            break;
        }
        acknowledged += 1;
    }
    faults.give_turns(usize::MAX);
    if acknowledged < ROUNDS {
        assert!(matches!(*store.watch_state().borrow(), StoreState::Failed { .. }), "{case}");
        let late = store.commit(round(acknowledged).remove(0)).await;
        assert!(matches!(late, Err(StoreError::Failed { .. })), "{case}: {late:?}");
    }
    let closed = store.close().await;
    assert!(matches!(closed, Err(StoreError::Failed { .. })), "{case}: {closed:?}");
    assert!(faults.has_struck(), "{case}");
    let made = acknowledged + usize::from(acknowledged < ROUNDS && is_logged(point));
    // The failed store holds its directory until the process ends.
    let copy = dir.path().join("copy");
    copy_dir(&live, &copy);
    go_on(&copy, acknowledged, made, &case).await;
}

/// Opens what a fault left, repeats the round whose outcome was unknown, and opens it again.
async fn go_on(dir: &Path, acknowledged: usize, made: usize, case: &str) {
    let faults = Faults::new(None);
    let store = open(dir, &faults).await.unwrap();
    assert_eq!(contents(&store).await, after(made), "{case}");
    for commit in round(acknowledged) {
        let outcomes = store.commit(commit).await.unwrap();
        let repeated = outcomes.iter().all(|outcome| matches!(outcome, Ok(Outcome::Repeated(_))));
        assert_eq!(repeated, made > acknowledged, "{case}: {outcomes:?}");
    }
    assert_eq!(contents(&store).await, after(acknowledged + 1), "{case}");
    store.close().await.unwrap();
    let store = open(dir, &faults).await.unwrap();
    assert_eq!(contents(&store).await, after(acknowledged + 1), "{case}");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_the_log_that_fails_loses_nothing_that_was_acknowledged() {
    fail_each(&[Point::LogWrite], &[Fault::Io, Fault::NoSpace, Fault::Panic]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_of_the_log_that_fails_is_not_repeated() {
    fail_each(&[Point::LogSync], &[Fault::Io, Fault::NoSpace, Fault::Panic]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_cannot_be_begun_fails_the_store() {
    fail_each(&[Point::SegmentCreate, Point::SegmentCreated], &[Fault::Io, Fault::NoSpace, Fault::Panic]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committer_that_panics_before_the_batch_fails_the_store() {
    fail_each(&[Point::Decided, Point::Appended, Point::Announced], &[Fault::Panic]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committer_that_panics_in_the_batch_or_behind_it_fails_the_store() {
    fail_each(&[Point::BatchBegun, Point::Applied, Point::Published], &[Fault::Panic]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_or_a_close_that_fails_loses_nothing() {
    let points = [Point::SledFlush, Point::SledFlushed, Point::CloseMark];
    fail_each(&points, &[Fault::Io, Fault::NoSpace, Fault::Panic]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_the_mark_of_a_failed_batch_too_loses_nothing() {
    let faults = Faults::new(Some((Point::BatchBegun, 3, Fault::Io)));
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open_held(&live, &faults).await;
    // No file can be made where a directory is.
    fs::create_dir(live.join("sled-suspect.tmp")).unwrap();
    for number in 0..2 {
        assert!(together(&store, &faults, round(number)).await.iter().all(Result::is_ok));
    }
    for answer in together(&store, &faults, round(2)).await {
        assert!(matches!(answer, Err(StoreError::Failed { .. })), "{answer:?}");
    }
    faults.give_turns(usize::MAX);
    assert!(store.close().await.is_err());
    assert!(!live.join("sled-suspect").exists(), "the mark was left after all");
    let copy = dir.path().join("copy");
    copy_dir(&live, &copy);
    go_on(&copy, 2, 3, "no mark").await;
}

/// A caller whose code panics when it is woken.
struct Panics;

impl std::task::Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("wanted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committer_that_panics_between_two_groups_fails_the_store() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), Faults::new(None));
    let live = dir.path().join("live");
    let store = open_held(&live, &faults).await;
    {
        // Of the callers of one thread the committer wakes the last first, and the others when it has nothing to do.
        let (panics, idle) = (std::task::Waker::from(Arc::new(Panics)), std::task::Waker::noop());
        let mut commits = round(0).into_iter().map(|commit| Box::pin(store.commit(commit)));
        let mut callers: Vec<_> = commits.by_ref().take(2).collect();
        for (caller, waker) in callers.iter_mut().zip([&panics, idle]) {
            assert!(caller.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        }
        faults.give_turns(usize::MAX);
        let mut state = store.watch_state();
        let failed = state.wait_for(|state| matches!(state, StoreState::Failed { .. }));
        tokio::time::timeout(std::time::Duration::from_secs(60), failed).await.expect("it has not failed").unwrap();
        callers.into_iter().for_each(std::mem::forget);
    }
    let late = store.commit(round(1).remove(0)).await;
    assert!(matches!(&late, Err(StoreError::Failed { cause }) if cause == "the committer panicked"), "{late:?}");
    assert!(matches!(store.close().await, Err(StoreError::Failed { .. })));
    let copy = dir.path().join("copy");
    copy_dir(&live, &copy);
    let store = open(&copy, &Faults::new(None)).await.unwrap();
    let made = contents(&store).await;
    assert_eq!(made.len(), 4, "what was logged is there: {made:?}");
    store.close().await.unwrap();
}
