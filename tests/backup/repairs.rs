//! A repair builds the state anew, or keeps what can be read and says what is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};

use profilestore::engine::sled::{Repaired, repair, verify_offline};
use profilestore::engine::{Disk, Point};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_repaired_without_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.snapshot().await.unwrap();
    commit(&store, put(3, 9)).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    in_sled(dir.path(), |db| drop(db.remove(row(db, "i").0).unwrap()));
    assert!(!verify_offline(&options(dir.path())).unwrap().problems.is_empty());
    assert_eq!(repair(&options(dir.path())).unwrap(), Repaired::Whole { profiles: 40, end_was_compared: true });
    assert!(dir.path().join("sled-set-aside-1").is_dir(), "the old state is kept");
    assert_eq!(verify_offline(&options(dir.path())).unwrap().problems, []);
    assert_eq!(contents(&open(dir.path()).await.unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_snapshot_and_the_whole_log_what_can_be_read_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.snapshot().await.unwrap();
    for version in 9..12 {
        commit(&store, put(3, version)).await;
    }
    let mut expected = contents(&store).await;
    store.close().await.unwrap();
    // What a trimmed log and a snapshot that went bad leave.
    let segments = with_ending(&dir.path().join("commit-log"), ".log");
    segments[..segments.len() - 1].iter().for_each(|segment| fs::remove_file(segment).unwrap());
    flip(&with_ending(&dir.path().join("snapshots"), ".snapshot")[0], 500);
    in_sled(dir.path(), |db| {
        let (key, mut value) = row(db, "ruser-7");
        value[20] ^= 1;
        db.insert(key, value).unwrap();
        db.remove(row(db, "d").0).unwrap();
    });
    let repaired = repair(&options(dir.path())).unwrap();
    assert!(matches!(repaired, Repaired::Salvaged { profiles: 39, unreadable: 1, .. }), "{repaired:?}");
    assert!(dir.path().join("sled-set-aside-1").is_dir(), "the old state is kept");
    assert!(expected.remove("user-7").is_some());
    let store = open(dir.path()).await.unwrap();
    let page = store.list(&Scope::All, None, PAGE).await.unwrap();
    let found: BTreeMap<_, _> =
        page.records.into_iter().map(|record| (record.decode().unwrap().id, record)).collect();
    assert_eq!(found, expected);
    // Only the snapshot that cannot be used is left to complain of.
    let problems = store.verify().await.unwrap().problems;
    let about_state = problems.iter().filter(|problem| problem.remedy.contains("profilestore repair"));
    assert_eq!(about_state.count(), 0, "{problems:?}");
    commit(&store, put(7, 0)).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_served_is_neither_repaired_nor_checked_offline() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    for refused in [repair(&options(dir.path())).err(), verify_offline(&options(dir.path())).err()] {
        assert!(refused.unwrap().to_string().contains("in use by another process"));
    }
    assert_eq!(contents(&store).await.len(), 40);
    let nothing = dir.path().join("nothing");
    assert!(repair(&options(&nothing)).is_err() && !nothing.exists(), "no store is made where there was none");
}

/// Cuts the newest segment with commits in it in half, as a disk that forgets does.
fn shorten_log(dir: &Path) {
    let segments = with_ending(&dir.join("commit-log"), ".log");
    let last = segments.iter().rev().find(|path| fs::metadata(path).unwrap().len() > 100).unwrap();
    let bytes = fs::read(last).unwrap();
    let later = segments.iter().filter(|path| *path > last);
    later.for_each(|path| fs::remove_file(path).unwrap());
    let frame = bytes.windows(4).rposition(|window| window == b"PSGF").unwrap();
    fs::write(last, &bytes[..frame]).unwrap();
}

/// Everything in a directory but what sled, the locks and the ballast have, by name.
fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let folders = ["commit-log", "snapshots"].map(|folder| dir.join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())).collect()
}

/// A store that was killed with all in sled and a snapshot of all, copied.
async fn killed(dir: &Path) -> std::path::PathBuf {
    let store = filled(&dir.join("live")).await;
    store.snapshot().await.unwrap();
    store.close().await.unwrap();
    let store = open(&dir.join("live")).await.unwrap();
    commit(&store, put(3, 9)).await;
    // A clean close flushes sled; without its mark it is a kill after a flush.
    store.close().await.unwrap();
    fs::remove_file(dir.join("live/commit-log/clean-close")).unwrap();
    dir.join("live")
}

/// Neither an open nor a repair takes what is left for the store, and both leave it as it is.
async fn is_refused(dir: &Path, because: &str) {
    let before = files_of(dir);
    for _ in 0..2 {
        let opened = open(dir).await.err().expect("it opened").to_string();
        assert!(opened.contains(because), "{because} in {opened}");
        let repaired = repair(&options(dir)).expect_err("it was repaired").to_string();
        assert!(repaired.contains(because), "{because} in {repaired}");
    }
    assert!(!dir.join("sled-set-aside-1").exists(), "the good state was set aside");
    assert_eq!(files_of(dir), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_is_not_repaired_over_a_state_that_knows_better() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed(dir.path()).await;
    shorten_log(&killed);
    is_refused(&killed, "ends at 120 but the state behind it").await;
    // Nor is that state replaced because it may hold half a batch.
    fs::write(killed.join("sled-suspect"), "").unwrap();
    is_refused(&killed, "ends at 120 but the state behind it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_segment_is_never_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed(dir.path()).await;
    with_ending(&killed.join("commit-log"), ".log").iter().for_each(|segment| fs::remove_file(segment).unwrap());
    is_refused(&killed, "has no segments").await;
    // Nor with a state that cannot be opened, or none, with a snapshot or without.
    for (number, damage) in ["not a database", ""].into_iter().enumerate() {
        for snapshots in [true, false] {
            let copy = dir.path().join(format!("copy-{number}-{snapshots}"));
            copy_dir(&killed, &copy);
            if damage.is_empty() {
                fs::remove_dir_all(copy.join("sled")).unwrap();
            } else {
                fs::write(copy.join("sled/db"), damage).unwrap();
            }
            if !snapshots {
                with_ending(&copy.join("snapshots"), ".snapshot")
                    .iter()
                    .for_each(|path| fs::remove_file(path).unwrap());
            }
            is_refused(&copy, "has no segments").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_the_newest_snapshot_is_refused_by_all_who_build_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    // The log is kept from its beginning, so that it alone gives a state.
    copy_dir(&dir.path().join("live"), &dir.path().join("early"));
    store.snapshot().await.unwrap();
    store.close().await.unwrap();
    let early = dir.path().join("early");
    shorten_log(&early);
    fs::remove_dir_all(early.join("snapshots")).unwrap();
    copy_dir(&dir.path().join("live/snapshots"), &early.join("snapshots"));
    for damage in ["not a database", ""] {
        let copy = dir.path().join(format!("copy-{}", damage.len()));
        copy_dir(&early, &copy);
        fs::remove_dir_all(copy.join("sled")).unwrap();
        fs::create_dir(copy.join("sled")).unwrap();
        if !damage.is_empty() {
            fs::write(copy.join("sled/db"), damage).unwrap();
        }
        is_refused(&copy, "the newest snapshot is at 120").await;
    }
    // With what the log has lost back again it is the store.
    fs::remove_dir_all(early.join("commit-log")).unwrap();
    copy_dir(&dir.path().join("live/commit-log"), &early.join("commit-log"));
    fs::remove_dir_all(early.join("sled")).unwrap();
    assert_eq!(contents(&open(&early).await.unwrap()).await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_mark_of_a_clean_close_is_refused_by_its_name_and_repaired_without_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let store = filled(&whole).await;
    store.snapshot().await.unwrap();
    commit(&store, put(3, 9)).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    // Every bit is refused; the repair, which takes longer, is tried with one bit of each part.
    for bit in 0..8 * 20 {
        let case = dir.path().join("case");
        copy_dir(&whole, &case);
        let mark = case.join("commit-log/clean-close");
        let mut bytes = fs::read(&mark).unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&mark, bytes).unwrap();
        let refused = open(&case).await.err().expect("it opened").to_string();
        assert!(
            refused.contains("the mark of the last clean close") && refused.contains("profilestore repair"),
            "{refused}"
        );
        if [0, 8 * 8 + 1, 8 * 12, 8 * 19 + 7].contains(&bit) {
            let problems = verify_offline(&options(&case)).unwrap().problems;
            assert!(matches!(&*problems, [one] if one.remedy.contains("profilestore repair")), "{problems:?}");
            assert_eq!(repair(&options(&case)).unwrap(), Repaired::Whole { profiles: 40, end_was_compared: true });
            assert!(case.join("commit-log/clean-close.damaged").exists(), "the mark is kept");
            assert_eq!(verify_offline(&options(&case)).unwrap().problems, []);
            let store = open(&case).await.unwrap();
            assert_eq!(contents(&store).await, expected);
            store.close().await.unwrap();
        }
        fs::remove_dir_all(&case).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_mark_does_not_hide_that_the_log_has_lost_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.snapshot().await.unwrap();
    commit(&store, put(3, 9)).await;
    store.close().await.unwrap();
    flip(&dir.path().join("commit-log/clean-close"), 9);
    shorten_log(dir.path());
    let before = files_of(dir.path());
    let refused = repair(&options(dir.path())).expect_err("it was repaired").to_string();
    assert!(refused.contains("but the state behind it was at 121"), "{refused}");
    assert_eq!(files_of(dir.path()), before, "the mark is where it was");
}

/// A closed store whose mark of that is damaged, and whose log ends in the middle of a group with `torn`.
async fn with_damaged_mark(dir: &Path, torn: bool) -> BTreeMap<String, Record> {
    let store = filled(dir).await;
    store.snapshot().await.unwrap();
    commit(&store, put(3, 9)).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    flip(&dir.join("commit-log/clean-close"), 9);
    if torn {
        let segments = with_ending(&dir.join("commit-log"), ".log");
        let last = segments.iter().rev().find(|path| fs::metadata(path).unwrap().len() > 100).unwrap();
        segments.iter().filter(|path| *path > last).for_each(|path| fs::remove_file(path).unwrap());
        let bytes = fs::read(last).unwrap();
        fs::write(last, &bytes[..bytes.len() - 1]).unwrap();
        // And nobody who knew how far the log had come.
        fs::write(dir.join("sled/db"), "not a database").unwrap();
    }
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_log_with_a_torn_end_has_lost_something_although_the_mark_of_the_close_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    with_damaged_mark(dir.path(), true).await;
    let before = files_of(dir.path());
    for _ in 0..2 {
        let refused = repair(&options(dir.path())).expect_err("it was repaired").to_string();
        assert!(refused.contains("was closed cleanly but does not end with a whole group"), "{refused}");
        assert_eq!(files_of(dir.path()), before, "everything is where it was");
        assert!(!dir.path().join("sled-set-aside-1").exists());
        let problems = verify_offline(&options(dir.path())).unwrap().problems;
        let about_end =
            problems.iter().find(|problem| problem.description.contains("does not end with a whole group"));
        assert!(about_end.is_some_and(|problem| problem.remedy.contains("restore a backup")), "{problems:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_with_a_damaged_mark_that_is_interrupted_anywhere_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let expected = with_damaged_mark(&whole, false).await;
    for stop in [Point::RebuildBegun, Point::RebuildSynced, Point::StateReplaced] {
        for kill in [true, false] {
            let case = dir.path().join(format!("{stop:?}-{kill}"));
            copy_dir(&whole, &case);
            let disk = Disk::system().with_faults(move |point| {
                assert!(point != stop || !kill, "wanted");
                if point == stop { Err(std::io::Error::other("the disk's own words")) } else { Ok(()) }
            });
            let interrupted = SledOptions { disk, ..options(&case) };
            match catch_unwind(AssertUnwindSafe(|| repair(&interrupted))) {
                Ok(repaired) => {
                    let error = repaired.expect_err("it was repaired").to_string();
                    assert!(!kill && error.contains("the disk's own words"), "{stop:?}: {error}");
                }
                Err(_) => assert!(kill, "{stop:?}"),
            }
            let refused = open(&case).await.err().expect("a log that was closed counts as one that was not");
            assert!(refused.to_string().contains("the mark of the last clean close"), "{stop:?}: {refused}");
            assert!(matches!(repair(&options(&case)).unwrap(), Repaired::Whole { .. }), "{stop:?}");
            let store = open(&case).await.unwrap();
            assert_eq!(contents(&store).await, expected, "{stop:?}");
            store.close().await.unwrap();
        }
    }
}
