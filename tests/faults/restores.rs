//! Faults while a backup and a kept log are restored: whatever stops it, there is a whole store or none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use profilestore::engine::commit_log::Until;
use profilestore::engine::sled::{KeptLog, RestoreError, Restored, restore_with_log};

use super::*;

/// A backup as of three rounds, and the store with the log of all rounds.
async fn backed_up(dir: &Path) -> (PathBuf, KeptLog) {
    let faults = Faults::new(None);
    let store = open_held(&dir.join("live"), &faults).await;
    for number in 0..ROUNDS {
        assert!(together(&store, &faults, round(number)).await.iter().all(Result::is_ok));
        if number == 2 {
            let mut backup = store.backup().await.unwrap();
            io::copy(&mut backup, &mut fs::File::create(dir.join("backup")).unwrap()).unwrap();
        }
    }
    faults.give_turns(usize::MAX);
    store.close().await.unwrap();
    (dir.join("backup"), KeptLog { dir: dir.join("live"), until: Until::End })
}

fn restore(file: &Path, log: &KeptLog, dir: &Path, faults: &Arc<Faults>) -> Result<Restored, RestoreError> {
    restore_with_log(file, Some(log), &options(dir, faults))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_to_a_point_that_is_interrupted_anywhere_leaves_nothing_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = backed_up(dir.path()).await;
    let counting = Faults::new(None);
    counting.arm(true);
    restore(&file, &log, &dir.path().join("counted"), &counting).unwrap();
    let passings = counting.passed.lock().clone();
    for point in [
        Point::SegmentCreate,
        Point::LogWrite,
        Point::LogSync,
        Point::RebuildBegun,
        Point::SnapshotLoaded,
        Point::ReplayGroup,
        Point::RebuildFlushed,
        Point::RebuildSynced,
    ] {
        assert!(passings.contains_key(&point), "{point:?} is not passed: {passings:?}");
    }
    for (point, last) in passings {
        for nth in 1..=last {
            for fault in [Fault::Io, Fault::NoSpace, Fault::Panic] {
                let case = format!("{fault:?} at passing {nth} of {point:?}");
                let target = dir.path().join("target");
                let faults = Faults::new(Some((point, nth, fault)));
                faults.arm(true);
                let ended = catch_unwind(AssertUnwindSafe(|| restore(&file, &log, &target, &faults)));
                assert!(faults.has_struck(), "{case}");
                assert!(!matches!(ended, Ok(Ok(_))), "{case}: it was not noticed");
                if ended.is_ok() {
                    assert!(!target.exists(), "{case}: something was left");
                } else {
                    let opened = open(&target, &Faults::new(None)).await;
                    assert!(opened.is_err(), "{case}: half a store opens");
                    fs::remove_dir_all(&target).unwrap();
                }
                restore(&file, &log, &target, &Faults::new(None)).unwrap_or_else(|error| panic!("{case}: {error}"));
                let store = open(&target, &Faults::new(None)).await.unwrap();
                assert_eq!(contents(&store).await, after(ROUNDS), "{case}");
                store.close().await.unwrap();
                fs::remove_dir_all(&target).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_restores_into_one_directory_one_is_refused_and_leaves_the_other_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = backed_up(dir.path()).await;
    for was_there in [false, true] {
        let target = dir.path().join(format!("target-{was_there}"));
        if was_there {
            fs::create_dir(&target).unwrap();
        }
        // While the first stands in the middle of its work the second comes.
        let (second, tried) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let disk = Disk::system().with_faults({
            let (file, target, second) = (file.clone(), target.clone(), second.clone());
            let log = dir.path().join("live");
            move |point| {
                if point == Point::RebuildBegun && !tried.swap(true, Ordering::SeqCst) {
                    let log = KeptLog { dir: log.clone(), until: Until::End };
                    let outcome = restore(&file, &log, &target, &Faults::new(None));
                    *second.lock() = Some(outcome.map_err(|error| error.to_string()));
                }
                Ok(())
            }
        });
        let first = SledOptions { disk, ..options(&target, &Faults::new(None)) };
        restore_with_log(&file, Some(&log), &first).unwrap();
        let refused = second.lock().take().unwrap().unwrap_err();
        assert!(refused.contains("is not empty: it holds restoring"), "{refused}");
        let store = open(&target, &Faults::new(None)).await.unwrap();
        assert_eq!(contents(&store).await, after(ROUNDS));
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_restores_into_one_directory_at_once_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = backed_up(dir.path()).await;
    for round in 0..10 {
        let target = dir.path().join(format!("target-{round}"));
        let begin = std::sync::Barrier::new(4);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let one = || {
                begin.wait();
                restore(&file, &log, &target, &Faults::new(None)).map_err(|error| error.to_string())
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        assert!(refused.into_iter().all(|error| error.contains("is not empty")), "{outcomes:?}");
        let store = open(&target, &Faults::new(None)).await.unwrap();
        assert_eq!(contents(&store).await, after(ROUNDS));
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_a_row_while_it_was_built_is_not_called_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = backed_up(dir.path()).await;
    for lost in ["i", "r", "d"] {
        let target = dir.path().join(format!("without-{lost}"));
        let (staging, removed) = (target.clone(), Arc::new(AtomicBool::new(false)));
        let has_removed = removed.clone();
        // Behind all checks of the building: only the check of what was built can see it.
        let disk = Disk::system().with_faults(move |point| {
            if point == Point::RebuildSynced {
                let db = open_sled(&find(&staging, "sled-rebuilt"));
                let (key, _) = db.scan_prefix(lost).next().expect("there is such a row").unwrap();
                db.remove(key).unwrap();
                has_removed.store(true, Ordering::SeqCst);
            }
            Ok(())
        });
        let options = SledOptions { disk, ..options(&target, &Faults::new(None)) };
        let refused = restore_with_log(&file, Some(&log), &options).expect_err("it was called restored");
        assert!(removed.load(Ordering::SeqCst) && matches!(refused, RestoreError::Built(_)), "{lost}: {refused}");
        assert!(!target.exists(), "{lost}: something stays");
    }
}

/// The directory of this name somewhere below another one.
fn find(below: &Path, name: &str) -> PathBuf {
    let found = below.join(name);
    if found.exists() {
        return found;
    }
    let folders = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders.map(|folder| folder.join(name)).find(|path| path.exists()).expect("it is there")
}
