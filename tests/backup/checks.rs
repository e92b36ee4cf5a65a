//! A check finds every kind of damage, and nothing where there is none.

use std::sync::atomic::{AtomicBool, Ordering};

use profilestore::engine::sled::verify_offline;

use super::*;

type Plant = (&'static str, fn(&Path), &'static str);

fn change(dir: &Path, from: &str, change: fn(&sled::Db, Vec<u8>, Vec<u8>)) {
    in_sled(dir, |db| {
        let (key, value) = row(db, from);
        change(db, key, value);
    });
}

fn flipped(db: &sled::Db, key: Vec<u8>, mut value: Vec<u8>) {
    let last = value.len() - 1;
    value[last] ^= 1;
    db.insert(key, value).unwrap();
}

fn removed(db: &sled::Db, key: Vec<u8>, _: Vec<u8>) {
    db.remove(key).unwrap();
}

/// Every kind of damage, and a word of what must be said.
const PLANTS: [Plant; 16] = [
    ("a record in the index", |dir| change(dir, "i", flipped), "fails its checksum"),
    ("a record under its id", |dir| change(dir, "ruser-7", flipped), "fails its checksum"),
    ("the way from an id to its record", |dir| change(dir, "ruser-1", flipped), "fails its checksum"),
    ("a lost index entry", |dir| change(dir, "i", removed), "leads to an index entry that is not there"),
    ("a lost id", |dir| change(dir, "ruser-1", removed), "does not lead to its index entry"),
    ("a lost profile without an e-mail", |dir| change(dir, "ruser-7", removed), "totals"),
    ("damaged counters", |dir| change(dir, "d", flipped), "counters of domain"),
    ("lost counters", |dir| change(dir, "d", removed), "counters of domain"),
    (
        "counters of another domain",
        |dir| {
            in_sled(dir, |db| {
                let (_, value) = row(db, "d");
                db.insert(b"dzzz\0", value).unwrap();
            })
        },
        "damaged counters",
    ),
    ("damaged totals", |dir| change(dir, "m", flipped), "applied sequence"),
    ("lost totals", |dir| change(dir, "m", removed), "totals"),
    (
        "a record under another key",
        |dir| {
            in_sled(dir, |db| {
                let (mut key, value) = row(db, "i");
                key.push(b'x');
                db.insert(key, value).unwrap();
            })
        },
        "fails its checksum",
    ),
    ("a bit of the log", |dir| flip(&with_ending(&dir.join("commit-log"), ".log")[0], 200), "commit log segment"),
    (
        "a lost segment of the log",
        |dir| {
            let segments = with_ending(&dir.join("commit-log"), ".log");
            fs::remove_file(&segments[segments.len() / 2]).unwrap();
        },
        "gap",
    ),
    (
        "a bit of the snapshot",
        |dir| flip(&with_ending(&dir.join("snapshots"), ".snapshot")[0], 500),
        "the snapshot of",
    ),
    ("an item that sled does not sync", |dir| fs::write(dir.join("sled/blobs/1"), "large").unwrap(), "1 items"),
];

/// A store that was closed in good order, with a snapshot and some log behind it.
async fn closed_store(dir: &Path) {
    let store = filled(dir).await;
    store.snapshot().await.unwrap();
    for number in 0..40 {
        commit(&store, put(number, 4)).await;
    }
    contents(&store).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_is_found_and_named_with_a_remedy_and_without_an_id() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    closed_store(&sound).await;
    let report = verify_offline(&options(&sound)).unwrap();
    assert_eq!((report.profiles, report.index_entries, report.unsettled, report.problems), (40, 34, 0, vec![]));
    for (number, (what, plant, says)) in PLANTS.into_iter().enumerate() {
        let copy = dir.path().join(number.to_string());
        copy_dir(&sound, &copy);
        plant(&copy);
        let problems = verify_offline(&options(&copy)).unwrap().problems;
        assert!(problems.iter().any(|problem| problem.description.contains(says)), "{what}: {problems:?}");
        for problem in problems {
            assert!(problem.remedy.len() > 20, "{problem:?}");
            assert!(!problem.description.contains("user-"), "{problem:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_repair_would_build_from_is_checked_also_when_the_state_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    closed_store(&sound).await;
    let states: [fn(&Path); 3] = [
        |dir| fs::write(dir.join("sled/db"), "not a database").unwrap(),
        |dir| {
            fs::remove_file(dir.join("sled/db")).unwrap();
            fs::create_dir(dir.join("sled/db")).unwrap();
        },
        |dir| change(dir, "m", flipped),
    ];
    let segment = |dir: &Path, number: usize| with_ending(&dir.join("commit-log"), ".log").remove(number);
    type Spoiled<'a> = (&'a dyn Fn(&Path), &'static str);
    let files: [Spoiled<'_>; 4] = [
        (&|dir| flip(&segment(dir, 1), 200), "commit log segment"),
        (&|dir| fs::remove_file(segment(dir, 1)).unwrap(), "gap"),
        (
            &|dir| {
                with_ending(&dir.join("commit-log"), ".log").iter().for_each(|path| fs::remove_file(path).unwrap())
            },
            "no segments",
        ),
        (&|dir| flip(&with_ending(&dir.join("snapshots"), ".snapshot")[0], 500), "the snapshot of"),
    ];
    for (number, spoil) in states.into_iter().enumerate() {
        let copy = dir.path().join(format!("state-{number}"));
        copy_dir(&sound, &copy);
        spoil(&copy);
        let problems = verify_offline(&options(&copy)).unwrap().problems;
        assert!(problems.iter().all(|problem| problem.remedy.contains("profilestore repair")), "{problems:?}");
        assert!(!problems.is_empty());
        for (number, (spoil, says)) in files.iter().enumerate() {
            let both = copy.with_extension(number.to_string());
            copy_dir(&copy, &both);
            spoil(&both);
            let problems = verify_offline(&options(&both)).unwrap().problems;
            assert!(problems.iter().any(|problem| problem.description.contains(says)), "{says}: {problems:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_fell_back_to_an_older_version_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.close().await.unwrap();
    let mut older = None;
    in_sled(dir.path(), |db| older = Some(row(db, "ruser-7")));
    let store = open(dir.path()).await.unwrap();
    commit(&store, put(7, 9)).await;
    store.close().await.unwrap();
    let (key, value) = older.unwrap();
    in_sled(dir.path(), |db| drop(db.insert(key, value).unwrap()));
    let problems = verify_offline(&options(dir.path())).unwrap().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].description.contains("older than they should be"), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_beside_a_check_are_never_taken_for_problems() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(filled(dir.path()).await);
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, done) = (store.clone(), done.clone());
            tokio::spawn(async move {
                let mut version = 10u64;
                while !done.load(Ordering::Relaxed) {
                    for number in (0u64..400).filter(|number| number % 4 == writer) {
                        if (number + version).is_multiple_of(5) {
                            commit(&store, Write::delete(id(number), Precondition::None)).await;
                        } else {
                            commit(&store, put(number, version)).await;
                        }
                    }
                    version += 1;
                }
                version
            })
        })
        .collect();
    let mut under_writes = 0;
    while under_writes < 30 {
        let before = store.snapshot().await.unwrap().sequence;
        let report = store.verify().await.unwrap();
        assert_eq!(report.problems, []);
        under_writes += u64::from(report.unsettled > 0);
        // However late the writers get their turns.
        while store.snapshot().await.unwrap().sequence == before {}
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 10, "a writer did not come round");
    }
    contents(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await.close().await.unwrap();
    in_sled(dir.path(), |db| {
        let (key, value) = row(db, "ruser-1");
        flipped(db, key, value);
    });
    // Else the open would heal it.
    let unchecked = SledOptions { check_at_open: CheckAtOpen::AfterCrash, ..options(dir.path()) };
    let store = Arc::new(SledStore::open(unchecked, Arc::new(NoObserver)).await.unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            let mut version = 10u64;
            while !done.load(Ordering::Relaxed) {
                commit(&store, put(2 + version % 5, version)).await;
                version += 1;
            }
        })
    };
    for _ in 0..5 {
        let problems = store.verify().await.unwrap().problems;
        assert!(problems.iter().any(|problem| problem.description.contains("fails its checksum")), "{problems:?}");
    }
    done.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_check_goes_on_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let mut refused = 0;
    // The first may have ended before the second begins, but hardly every time.
    for _ in 0..100 {
        let (first, second) = tokio::join!(store.verify(), store.verify());
        assert_eq!(first.unwrap().problems, []);
        match second {
            Err(error) => {
                assert_eq!(error, StoreError::Overloaded);
                refused += 1;
            }
            Ok(report) => assert_eq!(report.problems, []),
        }
    }
    assert!(refused > 0);
}
