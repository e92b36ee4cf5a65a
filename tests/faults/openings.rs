//! Faults while a store opens: whatever stops it, the next open finds everything.

use super::*;

/// A store as a kill leaves it after all rounds, with a log of several segments.
async fn killed(dir: &Path, snapshot_after: Option<usize>) -> std::path::PathBuf {
    let faults = Faults::new(None);
    let store = open_held(&dir.join("live"), &faults).await;
    for number in 0..ROUNDS {
        assert!(together(&store, &faults, round(number)).await.iter().all(Result::is_ok));
        if snapshot_after == Some(number) {
            store.snapshot().await.unwrap();
        }
    }
    copy_dir(&dir.join("live"), &dir.join("killed"));
    faults.give_turns(usize::MAX);
    store.close().await.unwrap();
    dir.join("killed")
}

/// Opens copies of a directory with a fault at every passing of every point, and then without.
///
/// `another_way`: an error can be got round, by building the state from something else.
async fn fail_each(dir: &Path, must_pass: &[Point], another_way: bool) {
    let work = tempfile::tempdir().unwrap();
    let counting = Faults::new(None);
    counting.arm(true);
    copy_dir(dir, &work.path().join("counted"));
    let store = open(&work.path().join("counted"), &counting).await.unwrap();
    counting.arm(false);
    store.close().await.unwrap();
    let passings = counting.passed.lock().clone();
    for point in must_pass {
        assert!(passings.contains_key(point), "{point:?} is not passed: {passings:?}");
    }
    for (point, last) in passings {
        for nth in 1..=last {
            for fault in [Fault::Io, Fault::Panic] {
                let copy = work.path().join(format!("{point:?}-{nth}-{fault:?}"));
                copy_dir(dir, &copy);
                fail_once(&copy, point, nth, fault, another_way).await;
                fs::remove_dir_all(copy).unwrap();
            }
        }
    }
}

async fn fail_once(dir: &Path, point: Point, nth: usize, fault: Fault, another_way: bool) {
    let case = format!("{fault:?} at passing {nth} of {point:?}");
    let faults = Faults::new(Some((point, nth, fault)));
    faults.arm(true);
    let opened = open(dir, &faults).await;
    faults.arm(false);
    assert!(faults.has_struck(), "{case}");
    match opened {
        // A panic in sled is taken for damage, and the state is built anew.
        Ok(store) => {
            assert!(fault == Fault::Panic || another_way, "{case}: the error was not noticed");
            assert_eq!(contents(&store).await, after(ROUNDS), "{case}");
            store.close().await.unwrap();
        }
        Err(error) => assert!(!error.to_string().is_empty(), "{case}"),
    }
    let store = open(dir, &Faults::new(None)).await.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(contents(&store).await, after(ROUNDS), "{case}");
    for commit in round(ROUNDS) {
        store.commit(commit).await.unwrap();
    }
    store.close().await.unwrap();
    let store = open(dir, &Faults::new(None)).await.unwrap();
    assert_eq!(contents(&store).await, after(ROUNDS + 1), "{case}");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_interrupted_anywhere_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed(dir.path(), None).await;
    fs::remove_dir_all(killed.join("sled")).unwrap();
    let points = [
        Point::DirLocked,
        Point::SledOpened,
        Point::LogRewrite,
        Point::ReplayGroup,
        Point::ReplayFlushed,
        Point::StateChecked,
        Point::RequestsRead,
    ];
    fail_each(&killed, &points, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_interrupted_anywhere_is_begun_anew_or_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed(dir.path(), Some(3)).await;
    fs::write(killed.join("sled-suspect"), "a test says so").unwrap();
    let points = [
        Point::RebuildBegun,
        Point::SnapshotLoaded,
        Point::ReplayGroup,
        Point::RebuildFlushed,
        Point::RebuildSynced,
        Point::StateReplaced,
    ];
    fail_each(&killed, &points, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_after_a_clean_close_can_be_interrupted_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), None).await;
    fail_each(&dir.path().join("live"), &[Point::DirLocked, Point::SledOpened, Point::StateOpened], false).await;
}
