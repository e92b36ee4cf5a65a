//! sled's files are damaged in many ways after a kill: the store is whole, or clearly refused.

use std::io::Write as _;

use profilestore::engine::sled::{Repaired, repair};
use profilestore::store::StoreError;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const SEED: u64 = 11;

/// A store as a kill leaves it, with a snapshot, and what is in it. `trimmed`: the log begins behind its first commits.
async fn killed_store(dir: &Path, time: &Time, trimmed: bool) -> (PathBuf, BTreeMap<String, Record>) {
    let store = open(options(&dir.join("live"), time)).await.unwrap();
    // Profiles that nobody touches again: no replay reads their pages.
    for hundred in 1..8 {
        let writes = (hundred * 100..hundred * 100 + 100).map(|number| put(number, 0)).collect();
        store.commit(Commit::each(writes)).await.unwrap();
    }
    write_some(&store, 0..3).await;
    if trimmed {
        time.advance(HOUR);
    }
    store.snapshot().await.unwrap();
    store.close().await.unwrap();
    // sled opens what it has written before in another way than what is new.
    let store = open(options(&dir.join("live"), time)).await.unwrap();
    write_some(&store, 3..4).await;
    let expected = contents(&store).await;
    copy_dir(&dir.join("live"), &dir.join("killed"));
    store.close().await.unwrap();
    let begins = segments(&dir.join("killed")).remove(0);
    assert_eq!(begins.ends_with("00000000000000000001.log"), !trimmed);
    (dir.join("killed"), expected)
}

/// One way to damage sled's directory.
#[derive(Debug, Clone)]
enum Damage {
    Flip { file: PathBuf, at: usize, bit: u8 },
    Zero { file: PathBuf, at: usize, bytes: usize },
    Noise { file: PathBuf, at: usize, bytes: usize },
    Cut { file: PathBuf, at: usize },
    Remove { file: PathBuf },
    Empty,
}

impl Damage {
    /// Many ways, most of them where there is something.
    fn ways(sled: &Path, random: &mut SmallRng, count: usize) -> Vec<Self> {
        let files: Vec<PathBuf> = fs::read_dir(sled).unwrap().map(|entry| entry.unwrap().path()).collect();
        let files: Vec<_> = files.into_iter().filter(|path| path.is_file()).collect();
        let mut ways = vec![Self::Empty];
        ways.extend(files.iter().map(|file| Self::Remove { file: file.clone() }));
        let db = sled.join("db");
        let used: Vec<usize> =
            fs::read(&db).unwrap().iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        for _ in 0..count {
            let other = files[random.random_range(0..files.len())].clone();
            let length = fs::read(&other).unwrap().len().max(1);
            let (file, at) = if random.random_bool(0.8) {
                (db.clone(), used[random.random_range(0..used.len())])
            } else {
                (other, random.random_range(0..length))
            };
            let bytes = random.random_range(1..8192);
            ways.push(match random.random_range(0..5) {
                0 | 1 => Self::Flip { file, at, bit: random.random_range(0..8) },
                2 => Self::Zero { file, at, bytes },
                3 => Self::Noise { file, at, bytes },
                _ => Self::Cut { file, at },
            });
        }
        ways
    }

    /// Does it in another copy of the directory.
    fn apply(&self, sled: &Path, random: &mut SmallRng) {
        let change = |file: &Path, change: &mut dyn FnMut(&mut Vec<u8>)| {
            let file = sled.join(file.file_name().unwrap());
            let mut bytes = fs::read(&file).unwrap();
            change(&mut bytes);
            fs::write(&file, bytes).unwrap();
        };
        match self {
            Self::Flip { file, at, bit } => change(file, &mut |bytes| bytes[*at] ^= 1 << bit),
            Self::Zero { file, at, bytes: count } => change(file, &mut |bytes| {
                let end = (at + count).min(bytes.len());
                bytes[*at..end].fill(0);
            }),
            Self::Noise { file, at, bytes: count } => change(file, &mut |bytes| {
                let end = (at + count).min(bytes.len());
                bytes[*at..end].fill_with(|| random.random());
            }),
            Self::Cut { file, at } => change(file, &mut |bytes| bytes.truncate(*at)),
            Self::Remove { file } => fs::remove_file(sled.join(file.file_name().unwrap())).unwrap(),
            Self::Empty => {
                fs::remove_dir_all(sled).unwrap();
                fs::create_dir(sled).unwrap();
            }
        }
    }
}

/// Damages copies of a killed store and opens them. Returns how many were built anew and how many were as before.
async fn damage_and_open(trimmed: bool, count: usize, check: CheckAtOpen) -> Result<(usize, usize), String> {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let (killed, expected) = killed_store(dir.path(), &time, trimmed).await;
    let mut random = SmallRng::seed_from_u64(SEED);
    let (mut rebuilt, mut unharmed) = (0, 0);
    for way in Damage::ways(&killed.join("sled"), &mut random, count) {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&killed, copy.path());
        way.apply(&copy.path().join("sled"), &mut random);
        let opened = open(SledOptions { check_at_open: check, ..options(copy.path(), &time) }).await;
        // There is a good snapshot and a good log: whatever became of sled's files, the store must be whole.
        let store = opened.map_err(|error| format!("{way:?}: {error}"))?;
        let page = store.list(&Scope::All, None, PAGE).await.map_err(|error| format!("{way:?}: {error}"))?;
        let found: BTreeMap<String, Record> =
            page.records.into_iter().map(|record| (record.decode().unwrap().id, record)).collect();
        if found != expected {
            std::mem::forget(store);
            return Err(format!("{way:?}: other content"));
        }
        assert_eq!(contents(&store).await, expected, "{way:?}");
        commit(&store, put(1000, 0)).await;
        store.close().await.unwrap();
        let set_aside = copy.path().join("sled-set-aside-1").exists();
        rebuilt += usize::from(set_aside);
        unharmed += usize::from(!set_aside);
    }
    Ok((rebuilt, unharmed))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_sleds_files_the_store_is_whole() {
    let (rebuilt, unharmed) = damage_and_open(false, 60, CheckAtOpen::AfterCrash).await.unwrap();
    let _ = writeln!(std::io::stderr(), "whole log: {rebuilt} states were built anew, {unharmed} were good enough");
    assert!(rebuilt > 10, "{rebuilt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_sleds_files_the_store_is_whole_with_a_trimmed_log() {
    let (rebuilt, unharmed) = damage_and_open(true, 60, CheckAtOpen::AfterCrash).await.unwrap();
    let _ = writeln!(std::io::stderr(), "trimmed log: {rebuilt} states were built anew, {unharmed} were good enough");
    assert!(rebuilt > 10, "{rebuilt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_check_at_open_some_damage_is_served() {
    // The control: sled opens on damaged pages, and only the check notices before somebody reads them.
    let error = damage_and_open(true, 60, CheckAtOpen::Never).await.unwrap_err();
    let _ = writeln!(std::io::stderr(), "without the check: {error}");
    assert!(error.contains("other content") || error.contains("stored data is damaged"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_gives_a_whole_state_the_store_is_refused_with_the_reasons() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let (killed, _) = killed_store(dir.path(), &time, true).await;
    let snapshot = snapshots_of(&killed).remove(0);
    let whole = fs::read(&snapshot).unwrap();
    for cut in [0, 20, whole.len() / 2, whole.len() - 1] {
        let copy = dir.path().join(format!("cut-{cut}"));
        copy_dir(&killed, &copy);
        fs::write(copy.join("snapshots").join(snapshot.file_name().unwrap()), &whole[..cut]).unwrap();
        fs::write(copy.join("sled").join("db"), "not a database").unwrap();
        let Err(error) = open(options(&copy, &time)).await else { panic!("the store opened") };
        let error = error.to_string();
        for part in ["is damaged", "the snapshot of", "it ends early", "the log alone: the commit log begins at"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(!copy.join("sled-set-aside-1").exists() && !copy.join("sled-rebuilt").exists());
        // With the snapshot back, nothing is lost.
        fs::write(copy.join("snapshots").join(snapshot.file_name().unwrap()), &whole).unwrap();
        open(options(&copy, &time)).await.unwrap().close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fell_back_to_an_older_version_is_noticed() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let sled = || open_sled(&dir.path().join("sled"));
    let always = || SledOptions { check_at_open: CheckAtOpen::Always, ..options(dir.path(), &time) };
    let store = open(always()).await.unwrap();
    write_some(&store, 0..1).await;
    store.close().await.unwrap();
    let mut entries = sled().scan_prefix(b"i").map(Result::unwrap);
    let (entry, old) = entries.find(|(entry, _)| entry.ends_with(b"\0user-2")).unwrap();
    drop(entries);
    let store = open(always()).await.unwrap();
    write_some(&store, 1..2).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    // Its checksum is right, its index entry is there, and the counters agree with it.
    let new = sled().insert(&entry, &old).unwrap().expect("the record did not move");
    assert!(new != old && new.len() == old.len());
    let store = open(always()).await.unwrap();
    assert_eq!(contents(&store).await, expected);
    assert!(dir.path().join("sled-set-aside-1").exists());
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_states_that_were_set_aside_the_newest_two_stay() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    for version in 0..4 {
        let store = open(options(dir.path(), &time)).await.unwrap();
        commit(&store, put(1, version)).await;
        store.close().await.unwrap();
        fs::write(dir.path().join("sled").join("db"), "not a database").unwrap();
    }
    let store = open(options(dir.path(), &time)).await.unwrap();
    assert_eq!(contents(&store).await["user-1"].decode().unwrap().display_name, "version 3");
    store.close().await.unwrap();
    let aside = |number| dir.path().join(format!("sled-set-aside-{number}")).exists();
    assert_eq!([1, 2, 3, 4, 5].map(aside), [false, false, true, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_interrupted_is_finished_or_begun_anew() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let (killed, expected) = killed_store(dir.path(), &time, true).await;
    // Between the two renames.
    let between = dir.path().join("between");
    copy_dir(&killed, &between);
    fs::rename(between.join("sled"), between.join("sled-rebuilt")).unwrap();
    let store = open(options(&between, &time)).await.unwrap();
    assert_eq!(contents(&store).await, expected);
    store.close().await.unwrap();
    assert!(!between.join("sled-set-aside-1").exists());
    // In the middle of the building.
    let middle = dir.path().join("middle");
    copy_dir(&killed, &middle);
    fs::write(middle.join("sled").join("db"), "not a database").unwrap();
    fs::create_dir(middle.join("sled-rebuilt")).unwrap();
    fs::write(middle.join("sled-rebuilt").join("db"), "half a database").unwrap();
    let store = open(options(&middle, &time)).await.unwrap();
    assert_eq!(contents(&store).await, expected);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_read_meets_is_healed_at_the_next_start_also_after_an_orderly_close() {
    for (what, meet) in [("a get", true), ("a list", false)] {
        let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
        let store = open(options(dir.path(), &time)).await.unwrap();
        write_some(&store, 0..2).await;
        store.snapshot().await.unwrap();
        let expected = contents(&store).await;
        store.close().await.unwrap();
        // A record without an e-mail, which stands under its id.
        let db = open_sled(&dir.path().join("sled"));
        let mut value = db.get("ruser-7").unwrap().unwrap().to_vec();
        *value.last_mut().unwrap() ^= 1;
        db.insert("ruser-7", value).unwrap();
        drop(db);
        let store = open(unchecked(dir.path(), &time)).await.unwrap();
        assert!(!dir.path().join("sled-doubtful").exists(), "nothing was looked at yet");
        let met = if meet {
            store.get(&ProfileId::parse("user-7", "id").unwrap()).await.map(|_| ())
        } else {
            store.list(&Scope::All, None, PAGE).await.map(|_| ())
        };
        assert!(matches!(met, Err(StoreError::Corrupt(_))), "{what}: {met:?}");
        // The others go on.
        commit(&store, put(1, 1)).await;
        store.close().await.unwrap();
        let store = open(unchecked(dir.path(), &time)).await.unwrap();
        assert!(dir.path().join("sled-set-aside-1").is_dir(), "{what}: the state was not built anew");
        assert_eq!(contents(&store).await, expected, "{what}");
        assert!(!dir.path().join("sled-doubtful").exists(), "{what}");
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_the_machine_does_not_let_be_read_is_left_alone_and_repair_gets_round_it() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let store = open(options(dir.path(), &time)).await.unwrap();
    write_some(&store, 0..2).await;
    let expected = contents(&store).await;
    store.close().await.unwrap();
    // Reading a directory as a file is refused by the machine, as reading a bad sector is.
    fs::rename(dir.path().join("sled/db"), dir.path().join("sled/elsewhere")).unwrap();
    fs::create_dir(dir.path().join("sled/db")).unwrap();
    let refused = open(options(dir.path(), &time)).await.err().unwrap().to_string();
    assert!(refused.contains("profilestore repair"), "{refused}");
    assert!(dir.path().join("sled/elsewhere").exists() && !dir.path().join("sled-set-aside-1").exists());
    repair(&options(dir.path(), &time)).unwrap();
    assert_eq!(contents(&open(options(dir.path(), &time)).await.unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_machine_does_not_let_be_read_is_not_given_up() {
    let (dir, time) = (tempfile::tempdir().unwrap(), Time::new());
    let (killed, expected) = killed_store(dir.path(), &time, true).await;
    // A record is missing, which a salvage would not notice.
    let db = open_sled(&killed.join("sled"));
    db.remove("ruser-7").unwrap().unwrap();
    drop(db);
    for damage in ["suspect", "not a database"] {
        let copy = dir.path().join(damage);
        copy_dir(&killed, &copy);
        if damage == "suspect" {
            fs::write(copy.join("sled-suspect"), "").unwrap();
        } else {
            fs::write(copy.join("sled").join("db"), damage).unwrap();
        }
        let snapshot = snapshots_of(&copy).remove(0);
        let elsewhere = copy.join("elsewhere");
        fs::rename(&snapshot, &elsewhere).unwrap();
        fs::create_dir(&snapshot).unwrap();
        let refused = [
            open(options(&copy, &time)).await.err().expect("it opened").to_string(),
            repair(&options(&copy, &time)).expect_err("it was repaired").to_string(),
        ];
        for refused in refused {
            assert!(refused.contains("make room or see to the disk") && !refused.contains("backup"), "{refused}");
            assert!(refused.contains("or move the unreadable snapshot out of the directory"), "{refused}");
        }
        assert!(!copy.join("sled-set-aside-1").exists() && !copy.join("sled-rebuilt").exists());
        fs::remove_dir(&snapshot).unwrap();
        if damage == "suspect" {
            // The way out when the disk never gives it again: what else there is.
            let without = dir.path().join("without");
            copy_dir(&copy, &without);
            assert!(matches!(repair(&options(&without, &time)).unwrap(), Repaired::Salvaged { .. }));
        }
        fs::rename(&elsewhere, &snapshot).unwrap();
        assert!(matches!(repair(&options(&copy, &time)).unwrap(), Repaired::Whole { .. }), "{damage}");
        let store = open(options(&copy, &time)).await.unwrap();
        assert_eq!(contents(&store).await, expected, "{damage}");
        store.close().await.unwrap();
    }
}
