//! What a store finds after it was stopped in any way, and what it refuses to open.

#[path = "common/files.rs"]
mod files;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::copy_dir;
use profilestore::engine::EngineRules;
use profilestore::engine::sled::{DataDirError, OpenError, SledOptions, SledStore};
use profilestore::model::{Canonicalization, Draft, Email, Outcome, Precondition, Profile, ProfileId, Write};
use profilestore::store::{Clock, Commit, NoObserver, PageBounds, Scope, Store};

const ALL: PageBounds = PageBounds { max_records: 1000, max_bytes: usize::MAX };

async fn open(dir: &Path) -> Result<SledStore, OpenError> {
    SledStore::open(SledOptions::new(dir), Arc::new(NoObserver)).await
}

async fn refusal(dir: &Path) -> String {
    match open(dir).await {
        Ok(_) => panic!("the store opened"),
        Err(error) => error.to_string(),
    }
}

fn put(number: usize, display_name: &str) -> Write {
    let profile = Profile {
        id: format!("user-{number}"),
        email: format!("user-{number}@d{}.example", number % 3),
        display_name: display_name.into(),
        ..Profile::default()
    };
    let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
    Write::put(draft, Precondition::None)
}

async fn commit(store: &SledStore, write: Write) {
    store.commit(Commit::all(vec![write])).await.unwrap()[0].clone().unwrap();
}

/// The display names of all profiles, after checking that the store agrees with itself.
async fn names(store: &SledStore) -> Vec<String> {
    let report = store.verify().await.unwrap();
    assert_eq!(report.problems, []);
    let page = store.list(&Scope::All, None, ALL).await.unwrap();
    assert_eq!(store.count(&Scope::All).await.unwrap(), page.records.len() as u64);
    page.records.iter().map(|record| record.decode().unwrap().display_name).collect()
}

/// A store with three profiles, one commit each, copied while it is open and before sled was flushed.
async fn killed_store(dir: &Path) -> PathBuf {
    let store = open(&dir.join("live")).await.unwrap();
    for number in 0..3 {
        commit(&store, put(number, &format!("name {number}"))).await;
    }
    copy_dir(&dir.join("live"), &dir.join("killed"));
    store.close().await.unwrap();
    dir.join("killed")
}

fn last_segment(dir: &Path) -> PathBuf {
    let log = dir.join("commit-log");
    let segments = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    segments.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed_store(dir.path()).await;
    let store = open(&killed).await.unwrap();
    assert_eq!(names(&store).await, ["name 0", "name 1", "name 2"]);
    commit(&store, put(3, "after")).await;
    store.close().await.unwrap();
    assert_eq!(names(&open(&killed).await.unwrap()).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_alone_brings_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open(&live).await.unwrap();
    commit(&store, put(0, "first")).await;
    commit(&store, put(0, "second")).await;
    commit(&store, put(1, "gone")).await;
    commit(&store, Write::delete(ProfileId::parse("user-1", "id").unwrap(), Precondition::None)).await;
    let before = store.get(&ProfileId::parse("user-0", "id").unwrap()).await.unwrap();
    store.close().await.unwrap();
    fs::remove_dir_all(live.join("sled")).unwrap();
    let store = open(&live).await.unwrap();
    assert_eq!(names(&store).await, ["second"]);
    let after = store.get(&ProfileId::parse("user-0", "id").unwrap()).await.unwrap();
    assert_eq!(after, before, "etag, times and revision are the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_write_is_cut_off_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed_store(dir.path()).await;
    // The state must not know more than the cut log.
    fs::remove_dir_all(killed.join("sled")).unwrap();
    let whole = fs::read(last_segment(&killed)).unwrap();
    let last_frame = whole.windows(4).rposition(|window| window == b"PSGF").unwrap();
    let cuts = [last_frame, last_frame + 1, last_frame + 4, last_frame + 11, last_frame + 12, whole.len() - 1];
    for (round, cut) in cuts.into_iter().enumerate() {
        let copy = dir.path().join(format!("torn-{round}"));
        copy_dir(&killed, &copy);
        let mut torn = whole[..cut].to_vec();
        if round % 2 == 1 {
            // The file had grown, but its last bytes never came to the disk.
            torn.resize(whole.len(), 0);
        }
        fs::write(last_segment(&copy), torn).unwrap();
        let store = open(&copy).await.unwrap();
        assert_eq!(names(&store).await, ["name 0", "name 1"], "cut at {cut}");
        commit(&store, put(7, "after")).await;
        drop(store);
        assert_eq!(names(&open(&copy).await.unwrap()).await, ["name 0", "name 1", "after"], "cut at {cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_frame_with_good_ones_behind_it_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let killed = killed_store(dir.path()).await;
    fs::remove_dir_all(killed.join("sled")).unwrap();
    let mut bytes = fs::read(last_segment(&killed)).unwrap();
    bytes[60] ^= 1;
    fs::write(last_segment(&killed), bytes).unwrap();
    let error = refusal(&killed).await;
    assert!(error.contains("damaged and good ones follow"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_acknowledged_writes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open(&live).await.unwrap();
    commit(&store, put(0, "first")).await;
    commit(&store, put(1, "second")).await;
    store.close().await.unwrap();
    let whole = fs::read(last_segment(&live)).unwrap();
    fs::write(last_segment(&live), &whole[..whole.len() - 1]).unwrap();
    // The state has applied more than the log holds.
    let error = refusal(&live).await;
    assert!(error.contains("has applied 2"), "{error}");
    // Without the state only the mark of the clean close knows.
    fs::remove_dir_all(live.join("sled")).unwrap();
    let error = refusal(&live).await;
    assert!(error.contains("closed cleanly at 2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_creation_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    open(&live).await.unwrap().close().await.unwrap();
    fs::remove_file(live.join("FORMAT")).unwrap();
    let store = open(&live).await.unwrap();
    commit(&store, put(0, "first")).await;
    store.close().await.unwrap();
    // With commits in it, a directory without its FORMAT has lost something.
    fs::remove_file(live.join("FORMAT")).unwrap();
    let error = refusal(&live).await;
    assert!(error.contains("lost its FORMAT"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_other_things_in_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let error = refusal(dir.path()).await;
    assert!(error.contains("thesis.tex"), "{error}");
    assert!(dir.path().join("thesis.tex").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_and_unharmed() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await.unwrap();
    commit(&first, put(0, "first")).await;
    assert!(matches!(open(dir.path()).await, Err(OpenError::DataDir(DataDirError::InUse { .. }))));
    commit(&first, put(1, "second")).await;
    first.close().await.unwrap();
    assert_eq!(names(&open(dir.path()).await.unwrap()).await, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.unwrap().close().await.unwrap();
    let format = fs::read_to_string(dir.path().join("FORMAT")).unwrap();
    let later = format.replace("\"format\": 2", "\"format\": 3, \"new\": {}");
    fs::write(dir.path().join("FORMAT"), &later).unwrap();
    let error = refusal(dir.path()).await;
    assert!(error.contains("fails its checksum"), "{error}");
    fs::write(dir.path().join("FORMAT"), later.replace("\"checksum\"", "\"sum\"")).unwrap();
    let error = refusal(dir.path()).await;
    assert!(error.contains("format 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_leaves_of_a_file_that_was_to_be_replaced_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    commit(&store, put(0, "first")).await;
    store.close().await.unwrap();
    let log = dir.path().join("commit-log");
    let unfinished = ["00000000000000000001.tmp", "clean-close.tmp"].map(|name| log.join(name));
    unfinished.iter().for_each(|path| fs::write(path, "half").unwrap());
    let store = open(dir.path()).await.unwrap();
    assert!(unfinished.iter().all(|path| !path.exists()));
    assert_eq!(names(&store).await, ["first"]);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open(&live).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [live.clone(), live.join("commit-log"), live.join("sled")] {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
    }
    for file in [live.join("FORMAT"), live.join("LOCK"), last_segment(&live)] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_canonicalization_is_refused_until_the_index_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let keep_case = Canonicalization { fold_local_part: false };
    let store = open(dir.path()).await.unwrap();
    let profile = Profile { id: "a".into(), email: "Ada@example.com".into(), ..Profile::default() };
    let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
    commit(&store, Write::put(draft, Precondition::None)).await;
    commit(&store, put(0, "unmoved")).await;
    store.close().await.unwrap();

    let with = |reindex| SledOptions { canonicalization: keep_case, reindex, ..SledOptions::new(dir.path()) };
    let refused = SledStore::open(with(false), Arc::new(NoObserver)).await;
    assert!(matches!(refused, Err(OpenError::DataDir(DataDirError::OtherCanonicalization { .. }))));

    let store = SledStore::open(with(true), Arc::new(NoObserver)).await.unwrap();
    assert_eq!(store.reindex(keep_case).await.unwrap(), 1);
    store.close().await.unwrap();
    let store = SledStore::open(with(false), Arc::new(NoObserver)).await.unwrap();
    let found = async |address| {
        let email = Email::parse(address, keep_case, "email").unwrap();
        store.list(&Scope::email(&email), None, ALL).await.unwrap().records.len()
    };
    assert_eq!((found("Ada@example.com").await, found("ada@example.com").await), (1, 0));
    assert_eq!(store.verify().await.unwrap().problems, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn update_time_never_goes_back_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let at = |seconds| {
        let clock = Clock::from_fn(move || std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        SledOptions { rules: EngineRules { clock, ..EngineRules::default() }, ..SledOptions::new(dir.path()) }
    };
    for (seconds, name) in [(1000, "first"), (900, "second")] {
        let store = SledStore::open(at(seconds), Arc::new(NoObserver)).await.unwrap();
        let outcomes = store.commit(Commit::all(vec![put(0, name)])).await.unwrap();
        let Ok(Outcome::Stored(record)) = &outcomes[0] else { panic!("not stored") };
        assert_eq!(record.decode().unwrap().update_time.unwrap().seconds, 1000);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_may_hold_half_a_group_is_set_aside_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = open(&live).await.unwrap();
    commit(&store, put(0, "first")).await;
    store.close().await.unwrap();
    // What the committer leaves when a batch fails; the state itself is made worthless here.
    fs::write(live.join("sled-suspect"), "").unwrap();
    fs::write(live.join("sled").join("db"), "not a database").unwrap();
    let store = open(&live).await.unwrap();
    assert_eq!(names(&store).await, ["first"]);
    store.close().await.unwrap();
    assert!(live.join("sled-set-aside-1").join("db").exists() && !live.join("sled-suspect").exists());
    assert_eq!(names(&open(&live).await.unwrap()).await, ["first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_updates_of_large_profiles_are_all_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()).await.unwrap());
    let large = |number: usize| Profile {
        id: format!("large-{number}"),
        attributes: [("a".to_owned(), "x".repeat(16_000))].into(),
        ..Profile::default()
    };
    let settings = Canonicalization::default();
    for number in 0..64 {
        let draft = Draft::from_profile(large(number), settings, "profile").unwrap();
        commit(&store, Write::put(draft, Precondition::None)).await;
    }
    let mut commits = tokio::task::JoinSet::new();
    for number in 0..64 {
        let store = store.clone();
        let rename: profilestore::model::UpdateFn = Box::new(move |current| {
            let renamed = Profile { display_name: "renamed".into(), ..current.unwrap() };
            Draft::from_profile(renamed, settings, "profile")
        });
        let id = ProfileId::parse(&format!("large-{number}"), "id").unwrap();
        commits.spawn(async move { commit(&store, Write::update(id, rename, Precondition::MustExist, 64)).await });
    }
    commits.join_all().await;
    assert_eq!(names(&store).await, vec!["renamed"; 64]);
}

#[tokio::test]
async fn any_number_may_ask_at_once_where_the_log_begins() {
    let dir = tempfile::tempdir().unwrap();
    // Watchers begin with this question, and all of them come back at once when a server is started again.
    let options = SledOptions { waiting_scans: 1, ..SledOptions::new(dir.path()) };
    let store = SledStore::open(options, Arc::new(NoObserver)).await.unwrap();
    commit(&store, put(1, "one")).await;
    let asked = futures_util::future::join_all((0..500).map(|_| store.oldest_position())).await;
    assert!(asked.iter().all(Result::is_ok), "{:?}", asked.iter().find(|answer| answer.is_err()));
    store.close().await.unwrap();
}
