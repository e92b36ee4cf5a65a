//! A backup is the store as of one change, and a restore is that store or nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use profilestore::engine::sled::{RestoreError, inspect, restore};
use profilestore::model::{Etag, Outcome, Rejection};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_writes_is_the_store_as_of_one_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir.path().join("live")).await.unwrap());
    let done = Arc::new(AtomicBool::new(false));
    // One writer, one change in each commit: the history is the order of the changes.
    let writer = {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            let mut history: Vec<(u64, Option<u64>)> = Vec::new();
            for version in 0u64.. {
                for number in 0u64..300 {
                    if (number + version).is_multiple_of(11)
                        && version > 0
                        && !(number + version - 1).is_multiple_of(11)
                    {
                        commit(&store, Write::delete(id(number), Precondition::MustExist)).await;
                        history.push((number, None));
                    } else {
                        commit(&store, put(number, version)).await;
                        history.push((number, Some(version)));
                    }
                    if done.load(Ordering::Relaxed) {
                        return history;
                    }
                }
            }
            history
        })
    };
    let mut sequences = Vec::new();
    for number in 0..6 {
        sequences.push(back_up(&store, &dir.path().join(format!("{number}.backup"))).await);
        // However late the writer gets its turn.
        let head = store.head().await.unwrap();
        store.watch_head().wait_for(|now| *now != head).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let history = writer.await.unwrap();
    assert!(sequences.is_sorted() && sequences[0] < sequences[5] && sequences[5] <= history.len() as u64);
    for (number, sequence) in sequences.into_iter().enumerate() {
        let mut expected = BTreeMap::new();
        for (number, version) in &history[..sequence as usize] {
            match version {
                Some(version) => expected.insert(format!("user-{number}"), format!("version {version}")),
                None => expected.remove(&format!("user-{number}")),
            };
        }
        let restored = dir.path().join(number.to_string());
        restore(&dir.path().join(format!("{number}.backup")), &options(&restored)).unwrap();
        let found = names(&contents(&open(&restored).await.unwrap()).await);
        let found: BTreeMap<_, _> = found.into_iter().map(|(id, (_, name))| (id, name)).collect();
        assert_eq!(found, expected, "as of {sequence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_cut_or_has_a_flipped_bit_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let (good, bad, target) = (dir.path().join("good"), dir.path().join("bad"), dir.path().join("target"));
    back_up(&store, &good).await;
    let bytes = fs::read(&good).unwrap();
    let refused = |bytes: &[u8], how: String| {
        fs::write(&bad, bytes).unwrap();
        let error = restore(&bad, &options(&target)).err();
        assert!(matches!(error, Some(RestoreError::File { .. })), "{how}: {error:?}");
        assert!(!target.exists(), "{how}");
    };
    // Every byte of the header and the end mark, and many between.
    let places = (0..bytes.len()).filter(|at| *at < 60 || *at + 80 > bytes.len() || at % 37 == 0);
    for at in places {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        refused(&damaged, format!("bit of byte {at}"));
        refused(&bytes[..at], format!("cut at {at}"));
    }
    refused(&[&bytes[..], b"x"].concat(), "more behind it".into());
    refused(b"id,email\nada,ada@example.com\nand some more of a foreign file\n", "foreign".into());
    restore(&good, &options(&target)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_all_reads_agree_and_etags_of_before_match_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let before = contents(&store).await;
    let domains = store.list_domains(None, profilestore::store::DomainOrder::Index, None, 100).await.unwrap();
    let sequence = back_up(&store, &dir.path().join("backup")).await;
    let restored_dir = dir.path().join("restored");
    let said = restore(&dir.path().join("backup"), &options(&restored_dir)).unwrap();
    assert_eq!((said.sequence, said.profiles), (sequence, 40));
    assert_eq!(inspect(&dir.path().join("backup")).unwrap(), said);
    let restored = open(&restored_dir).await.unwrap();
    let after = contents(&restored).await;
    assert_eq!(names(&after), names(&before));
    let (old, new) = (store.head().await.unwrap(), restored.head().await.unwrap());
    assert!(new.as_bytes() > old.as_bytes(), "what the restored store does sorts behind what was done before");
    assert_eq!(
        restored.list_domains(None, profilestore::store::DomainOrder::Index, None, 100).await.unwrap(),
        domains
    );
    assert_eq!(restored.status().totals, store.status().totals);
    for (id, record) in &before {
        let (old, new) = (record.decode().unwrap(), after[id].decode().unwrap());
        assert_ne!(old.etag, new.etag);
        assert_eq!((old.create_time, old.update_time), (new.create_time, new.update_time));
    }
    let with_etag = |etag: &str| {
        let etag = Etag::from_caller(etag.to_owned());
        Commit::each(vec![Write::put(draft(3, 50), Precondition::MustMatch(etag))])
    };
    let old = restored.commit(with_etag(&before["user-3"].decode().unwrap().etag)).await.unwrap();
    assert!(matches!(old[0], Err(Rejection::EtagMismatch { .. })), "{old:?}");
    let new = restored.commit(with_etag(&after["user-3"].decode().unwrap().etag)).await.unwrap();
    let Ok(Outcome::Stored(record)) = &new[0] else { panic!("{new:?}") };
    assert_eq!(record.revision().0, sequence + 1, "changes go on after the backup's");
    // What was restored heals itself, and is backed up and restored once more.
    let expected = contents(&restored).await;
    back_up(&restored, &dir.path().join("second")).await;
    restored.close().await.unwrap();
    fs::remove_dir_all(restored_dir.join("sled")).unwrap();
    assert_eq!(contents(&open(&restored_dir).await.unwrap()).await, expected);
    restore(&dir.path().join("second"), &options(&dir.path().join("again"))).unwrap();
    let again = contents(&open(&dir.path().join("again")).await.unwrap()).await;
    assert_eq!(names(&again), names(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restore_leaves_nothing_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    back_up(&store, &dir.path().join("backup")).await;
    let whole = dir.path().join("whole");
    restore(&dir.path().join("backup"), &options(&whole)).unwrap();
    let mut names: Vec<_> = fs::read_dir(&whole).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_by_key(|name| name == "FORMAT");
    // As it is when the restore is stopped after so many of its last steps, or before them.
    for moved in 0..=names.len() {
        let stopped = dir.path().join(format!("stopped-{moved}"));
        copy_dir(&whole, &stopped);
        fs::create_dir(stopped.join("restoring")).unwrap();
        for name in &names[moved..] {
            fs::rename(stopped.join(name), stopped.join("restoring").join(name)).unwrap();
        }
        let opened = open(&stopped).await;
        assert_eq!(opened.is_ok(), moved == names.len(), "{moved} of {}", names.len());
        if let Ok(store) = opened {
            assert_eq!(contents(&store).await.len(), 40);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_changes_nothing_in_a_directory_that_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let expected = contents(&store).await;
    back_up(&store, &dir.path().join("backup")).await;
    let refused = restore(&dir.path().join("backup"), &options(&dir.path().join("live"))).unwrap_err();
    assert!(refused.to_string().contains("is not empty"), "{refused}");
    assert_eq!(contents(&store).await, expected);
    fs::create_dir(dir.path().join("empty")).unwrap();
    restore(&dir.path().join("backup"), &options(&dir.path().join("empty"))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_backup_goes_on_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let first = store.backup().await.unwrap();
    assert_eq!(store.backup().await.unwrap_err(), StoreError::Overloaded);
    drop(first);
    store.backup().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_is_backed_up_and_restored_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("live")).await.unwrap();
    assert_eq!(back_up(&store, &dir.path().join("backup")).await, 0);
    restore(&dir.path().join("backup"), &options(&dir.path().join("restored"))).unwrap();
    let restored = open(&dir.path().join("restored")).await.unwrap();
    commit(&restored, put(1, 0)).await;
    assert_eq!(contents(&restored).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_that_lost_its_format_before_its_first_write_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("live")).await;
    let file = dir.path().join("a.backup");
    back_up(&store, &file).await;
    let restored = dir.path().join("restored");
    restore(&file, &options(&restored)).unwrap();
    let format = fs::read(restored.join("FORMAT")).unwrap();
    fs::remove_file(restored.join("FORMAT")).unwrap();
    let refused = open(&restored).await.err().expect("it opened").to_string();
    assert!(refused.contains("lost its FORMAT"), "{refused}");
    fs::write(restored.join("FORMAT"), format).unwrap();
    assert_eq!(names(&contents(&open(&restored).await.unwrap()).await), names(&contents(&store).await));
}
