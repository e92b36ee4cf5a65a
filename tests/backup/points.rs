//! A restore to a point is the store as it was then, or nothing.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use profilestore::engine::commit_log::Until;
use profilestore::engine::sled::{KeptLog, RestoreError, Restored, restore, restore_with_log};
use profilestore::model::{CommitTime, Outcome};
use profilestore::store::{RequestId, RequestMark};

use super::*;

/// Options with a clock that goes on by a second with each look.
fn ticking(dir: &Path) -> SledOptions {
    let seconds = AtomicI64::new(1_000_000_000);
    let tick = move || UNIX_EPOCH + Duration::from_secs(seconds.fetch_add(1, Ordering::SeqCst) as u64);
    let rules = EngineRules { clock: Clock::from_fn(tick), ..EngineRules::default() };
    let keep_all = Retention { age: Duration::from_secs(1 << 30), bytes: u64::MAX };
    let options = options(dir);
    SledOptions { rules, snapshots: SnapshotPolicy { retention: keep_all, ..options.snapshots }, ..options }
}

async fn open_ticking(dir: &Path) -> SledStore {
    SledStore::open(ticking(dir), Arc::new(NoObserver)).await.unwrap()
}

/// What one change did: the profile's number and its version, `None` for a delete; and when, of a put.
type Done = (u64, Option<u64>, Option<CommitTime>);

/// Writes one change in each commit, puts of versions that nobody has written yet and deletes, until it has made so many and is told to stop.
async fn write(store: &SledStore, first_version: u64, at_least: usize, done: &AtomicBool) -> Vec<Done> {
    let mut history: Vec<Done> = Vec::new();
    for number in 0u64.. {
        if history.len() >= at_least && done.load(Ordering::Relaxed) {
            break;
        }
        let (profile, version) = (number * 7 % 50, first_version + number / 50);
        let there =
            history.iter().rev().find(|(written, ..)| *written == profile).is_some_and(|last| last.1.is_some());
        let write = if there && number % 5 == 0 {
            Write::delete(id(profile), Precondition::MustExist)
        } else {
            put(profile, version)
        };
        let outcome = store.commit(Commit::all(vec![write])).await.unwrap().remove(0).unwrap();
        match outcome {
            Outcome::Stored(record) => {
                let time = record.decode().unwrap().update_time.unwrap();
                let nanos = time.seconds * 1_000_000_000 + i64::from(time.nanos);
                history.push((profile, Some(version), Some(CommitTime::from_unix_nanos(nanos))));
            }
            Outcome::Deleted(_) => history.push((profile, None, None)),
            other => panic!("{other:?}"),
        }
    }
    history
}

/// The display names of all profiles after so many changes.
fn after(history: &[Done], changes: u64) -> BTreeMap<String, String> {
    let mut expected = BTreeMap::new();
    for (number, version, _) in &history[..changes as usize] {
        match version {
            Some(version) => expected.insert(format!("user-{number}"), format!("version {version}")),
            None => expected.remove(&format!("user-{number}")),
        };
    }
    expected
}

async fn display_names(dir: &Path) -> BTreeMap<String, String> {
    let store = open(dir).await.unwrap();
    let names = names(&contents(&store).await);
    store.close().await.unwrap();
    names.into_iter().map(|(id, (_, name))| (id, name)).collect()
}

fn restore_until(dir: &Path, log: &Path, until: Until, target: &str) -> Result<Restored, RestoreError> {
    let log = KeptLog { dir: log.to_owned(), until };
    restore_with_log(&dir.join("backup"), Some(&log), &options(&dir.join(target)))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_change_and_any_time_behind_a_backup_is_restored_while_others_go_on_writing() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = Arc::new(open_ticking(&live).await);
    let mut history = write(&store, 0, 120, &AtomicBool::new(true)).await;
    let backup = back_up(&store, &dir.path().join("backup")).await;
    assert_eq!(backup, 120);
    history.extend(write(&store, 100, 150, &AtomicBool::new(true)).await);
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move { write(&store, 200, 50, &done).await })
    };
    for (number, sequence) in [120, 121, 122, 137, 200, 269, 270].into_iter().enumerate() {
        let target = format!("change-{number}");
        let said = restore_until(dir.path(), &live, Until::Sequence(sequence), &target).unwrap();
        assert_eq!((said.store.sequence, said.replayed_changes), (sequence, sequence - 120));
        let found = display_names(&dir.path().join(&target)).await;
        assert_eq!(found, after(&history, sequence), "as of change {sequence}");
        assert_eq!(found.len() as u64, said.store.profiles);
        // The same by its time, and by any time before the next.
        let Some(time) = history[sequence as usize - 1].2 else { continue };
        for (later, nanos) in [("at", 0), ("behind", 999_999_999)] {
            let time = CommitTime::from_unix_nanos(time.unix_nanos() + nanos);
            let target = format!("{later}-{number}");
            let said = restore_until(dir.path(), &live.join("commit-log"), Until::Time(time), &target).unwrap();
            assert_eq!(said.store.sequence, sequence);
            assert_eq!(display_names(&dir.path().join(&target)).await, found, "{later} the time of {sequence}");
        }
    }
    // To the end, while it moves on.
    let said = restore_until(dir.path(), &live, Until::End, "end").unwrap();
    done.store(true, Ordering::Relaxed);
    let more = writer.await.unwrap();
    history.extend(more);
    assert!(said.store.sequence >= 270 && said.store.sequence <= history.len() as u64, "{said:?}");
    assert_eq!(display_names(&dir.path().join("end")).await, after(&history, said.store.sequence));
    // All that was acknowledged, when nobody writes any more.
    let said = restore_until(dir.path(), &live, Until::End, "all").unwrap();
    assert_eq!(said.store.sequence, history.len() as u64);
    assert_eq!(display_names(&dir.path().join("all")).await, after(&history, said.store.sequence));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_in_the_middle_of_a_request_is_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open_ticking(&live).await;
    commit(&store, put(1, 0)).await;
    back_up(&store, &dir.path().join("backup")).await;
    store.commit(Commit::all(vec![put(2, 0), put(3, 0), put(4, 0)])).await.unwrap();
    for (until, reached) in [(1, 1), (2, 1), (3, 1), (4, 4)] {
        let target = until.to_string();
        let said = restore_until(dir.path(), &live, Until::Sequence(until), &target).unwrap();
        assert_eq!((said.store.sequence, said.store.profiles), (reached, reached));
        assert_eq!(display_names(&dir.path().join(&target)).await.len() as u64, reached);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_to_a_point_heals_itself_and_remembers_requests_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open_ticking(&live).await;
    commit(&store, put(1, 0)).await;
    back_up(&store, &dir.path().join("backup")).await;
    let mark = RequestMark { id: RequestId([9; 16]), fingerprint: 5, made_ids: Box::default() };
    let request = || Commit::all(vec![Write::put(draft(2, 7), Precondition::None)]).for_request(Some(mark.clone()));
    store.commit(request()).await.unwrap();
    commit(&store, Write::delete(id(1), Precondition::MustExist)).await;
    drop(store);
    let target = dir.path().join("target");
    restore_until(dir.path(), &live, Until::End, "target").unwrap();
    fs::remove_dir_all(target.join("sled")).unwrap();
    let store = SledStore::open(ticking(&target), Arc::new(NoObserver)).await.unwrap();
    let before = contents(&store).await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["user-2"]);
    // A client that was not answered before the disaster asks again: it is not done twice.
    store.commit(request()).await.unwrap();
    assert_eq!(contents(&store).await, before);
    commit(&store, put(5, 0)).await;
    // It is backed up and restored to a point in its turn, by its own log.
    back_up(&store, &dir.path().join("backup")).await;
    commit(&store, put(6, 0)).await;
    store.close().await.unwrap();
    let said = restore_until(dir.path(), &target, Until::End, "again").unwrap();
    assert_eq!((said.store.profiles, said.replayed_changes, said.log_was_torn), (3, 1, false));
}

/// A store that was killed with half a group at the end of its log, and its backup: as of change 60, with 60 behind it.
async fn killed(dir: &Path) -> std::path::PathBuf {
    let store = open_ticking(&dir.join("live")).await;
    write(&store, 0, 60, &AtomicBool::new(true)).await;
    assert_eq!(back_up(&store, &dir.join("backup")).await, 60);
    write(&store, 100, 60, &AtomicBool::new(true)).await;
    copy_dir(&dir.join("live"), &dir.join("killed"));
    dir.join("killed")
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_group_at_the_end_is_left_out_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed(dir.path()).await;
    let last = with_ending(&killed.join("commit-log"), ".log").pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let said = restore_until(dir.path(), &killed, Until::End, "whole").unwrap();
    assert_eq!((said.store.sequence, said.log_was_torn), (120, false));
    fs::write(&last, &whole[..whole.len() - 3]).unwrap();
    let said = restore_until(dir.path(), &killed, Until::End, "torn").unwrap();
    assert_eq!((said.store.sequence, said.log_was_torn), (119, true));
    let error = restore_until(dir.path(), &killed, Until::Sequence(120), "beyond").unwrap_err();
    assert!(error.to_string().contains("it ends with change 119, before change 120"), "{error}");
    assert_eq!(fs::read(&last).unwrap().len(), whole.len() - 3, "the log is only read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_lead_there_is_refused_with_its_reason_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed(dir.path()).await;
    let refused = |log: &Path, until: Until, says: &str| {
        let error = restore_until(dir.path(), log, until, "target").unwrap_err();
        assert!(error.to_string().contains(says), "{error} does not say {says}");
        assert!(!dir.path().join("target").exists(), "{says}");
    };
    refused(&killed, Until::Sequence(59), "the backup is as of change 60");
    refused(&killed, Until::Time(CommitTime::from_unix_nanos(0)), "committed at 2001-09-09T01:");
    refused(&killed, Until::Sequence(121), "it ends with change 120, before change 121");
    refused(&dir.path().join("nowhere"), Until::End, "cannot be read");
    fs::create_dir(dir.path().join("nothing")).unwrap();
    refused(&dir.path().join("nothing"), Until::End, "holds no segment");
    // Another store's, and this one's after a restore.
    filled(&dir.path().join("foreign")).await.close().await.unwrap();
    refused(&dir.path().join("foreign"), Until::End, "belongs to another store");
    restore(&dir.path().join("backup"), &options(&dir.path().join("life-two"))).unwrap();
    refused(&dir.path().join("life-two"), Until::End, "belongs to another store");
    // Damage and gaps matter up to the point and not behind it.
    let segments = with_ending(&killed.join("commit-log"), ".log");
    let number_of = |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let (at, damaged) = segments.iter().enumerate().find(|(_, path)| number_of(path) > 62).unwrap();
    assert!(at + 1 < segments.len(), "segments behind it");
    let before = number_of(damaged) - 1;
    flip(damaged, 200);
    refused(&killed, Until::End, "damaged");
    assert_eq!(restore_until(dir.path(), &killed, Until::Sequence(before), "flip").unwrap().store.sequence, before);
    fs::remove_file(damaged).unwrap();
    refused(&killed, Until::End, "gap");
    assert_eq!(restore_until(dir.path(), &killed, Until::Sequence(before), "gap").unwrap().store.sequence, before);
    for segment in &segments[..at] {
        fs::remove_file(segment).unwrap();
    }
    refused(&killed, Until::End, "the changes from 61 on are missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_log_from_before_the_backup_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    copy_dir(&dir.path().join("live"), &dir.path().join("older"));
    commit(&store, put(1, 9)).await;
    back_up(&store, &dir.path().join("backup")).await;
    let error = restore_until(dir.path(), &dir.path().join("older"), Until::End, "target").unwrap_err();
    assert!(error.to_string().contains("it ends with change 120, before change 121"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_goes_on_over_other_settings_of_the_index_is_refused_there() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = filled(&live).await;
    let mixed = Profile { id: "mixed".into(), email: "Mixed@Example.com".into(), ..Profile::default() };
    let draft = Draft::from_profile(mixed, Canonicalization::default(), "profile").unwrap();
    commit(&store, Write::put(draft, Precondition::None)).await;
    let backup = back_up(&store, &dir.path().join("backup")).await;
    commit(&store, put(3, 8)).await;
    store.close().await.unwrap();
    let reindexing = SledOptions { reindex: true, ..options(&live) };
    let store = SledStore::open(reindexing, Arc::new(NoObserver)).await.unwrap();
    assert_eq!(store.reindex(Canonicalization { fold_local_part: false }).await.unwrap(), 1);
    store.close().await.unwrap();
    let error = restore_until(dir.path(), &live, Until::End, "target").unwrap_err();
    assert!(error.to_string().contains("email.fold_local_part"), "{error}");
    assert!(!error.to_string().to_lowercase().contains("mixed"), "{error}");
    let said = restore_until(dir.path(), &live, Until::Sequence(backup + 1), "before").unwrap();
    assert_eq!(said.store.sequence, backup + 1);
}
