//! A disk that is nearly full, and a disk that does not come back.

use profilestore::engine::sled::SpaceBounds;
use profilestore::engine::{Disk, Point};
use profilestore::store::{StoreError, StoreState};

use super::*;

const MIB: u64 = 1024 * 1024;

/// Longer than a sync takes on a busy machine.
const SYNC_TIMEOUT: Duration = Duration::from_secs(3);

/// A disk with as much room as the test says.
fn disk_with(free_bytes: &Arc<AtomicU64>) -> Disk {
    let free_bytes = free_bytes.clone();
    Disk::system().with_free_bytes(move |_| Ok(free_bytes.load(Ordering::Relaxed)))
}

fn on_disk(dir: &Path, free_bytes: &Arc<AtomicU64>) -> SledOptions {
    let space = SpaceBounds { min_free_bytes: 100 * MIB, ballast_bytes: MIB };
    SledOptions { disk: disk_with(free_bytes), space, ..options(dir, &Time::new()) }
}

async fn try_put(store: &SledStore, version: u64) -> Result<(), StoreError> {
    store.commit(Commit::all(vec![put(1, version)])).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_before_the_disk_is_full_and_taken_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let free_bytes = Arc::new(AtomicU64::new(1000 * MIB));
    let store = open(on_disk(dir.path(), &free_bytes)).await.unwrap();
    commit(&store, put(1, 0)).await;
    free_bytes.store(99 * MIB, Ordering::Relaxed);
    let mut version = 0;
    eventually("a refusal", async || {
        version += 1;
        try_put(&store, version).await == Err(StoreError::DiskLow)
    })
    .await;
    assert_eq!(*store.watch_state().borrow(), StoreState::Open);
    assert_eq!(contents(&store).await.len(), 1, "reads go on");
    let before = contents(&store).await;
    // Just enough is not enough: between refusing and taking there is a margin.
    free_bytes.store(101 * MIB, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(try_put(&store, 900).await, Err(StoreError::DiskLow));
    assert_eq!(contents(&store).await, before, "a refused write changes nothing");
    free_bytes.store(1000 * MIB, Ordering::Relaxed);
    eventually("writes", async || try_put(&store, 1000).await.is_ok()).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_fill_and_empty_is_noticed_without_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let free_bytes = Arc::new(AtomicU64::new(1000 * MIB));
    let store = open(on_disk(dir.path(), &free_bytes)).await.unwrap();
    free_bytes.store(99 * MIB, Ordering::Relaxed);
    eventually("the notice", async || store.figures().is_disk_low()).await;
    assert_eq!(store.figures().free_bytes(), Some(99 * MIB));
    assert_eq!(try_put(&store, 0).await, Err(StoreError::DiskLow), "the first write is refused, and not the disk's");
    free_bytes.store(1000 * MIB, Ordering::Relaxed);
    eventually("the room", async || !store.figures().is_disk_low()).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_told_where_writes_are_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    let free_bytes = Arc::new(AtomicU64::new(7));
    let options = SledOptions { disk: disk_with(&free_bytes), ..options(dir.path(), &Time::new()) };
    let store = open(options).await.unwrap();
    assert_eq!((store.figures().free_bytes(), store.figures().is_disk_low()), (Some(7), false));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_on_a_full_disk_and_the_ballast_comes_back_with_the_room() {
    let dir = tempfile::tempdir().unwrap();
    let ballast = dir.path().join("ballast");
    let free_bytes = Arc::new(AtomicU64::new(1000 * MIB));
    let store = open(on_disk(dir.path(), &free_bytes)).await.unwrap();
    commit(&store, put(1, 0)).await;
    assert_eq!(fs::metadata(&ballast).unwrap().len(), MIB);
    store.close().await.unwrap();
    free_bytes.store(0, Ordering::Relaxed);
    let store = open(on_disk(dir.path(), &free_bytes)).await.unwrap();
    assert!(!ballast.exists(), "the ballast was not given up");
    assert_eq!(contents(&store).await.len(), 1);
    assert_eq!(try_put(&store, 1).await, Err(StoreError::DiskLow));
    let error = store.snapshot().await.unwrap_err().to_string();
    assert!(error.contains("not enough room"), "{error}");
    free_bytes.store(1000 * MIB, Ordering::Relaxed);
    eventually("writes", async || try_put(&store, 2).await.is_ok()).await;
    eventually("the ballast", async || ballast.exists()).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_does_not_return_fails_the_store_and_lets_the_callers_go() {
    let dir = tempfile::tempdir().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    let hang = Arc::new(AtomicU64::new(0));
    let hangs = hang.clone();
    let disk = Disk::system().with_sync(move |file| {
        if hangs.load(Ordering::Relaxed) == 1 {
            // Ends with an error when the test lets go.
            let _ = held.lock().recv();
        }
        file.sync_data()
    });
    let slow = SledOptions { disk, sync_timeout: SYNC_TIMEOUT, ..options(dir.path(), &Time::new()) };
    let store = Arc::new(open(slow).await.unwrap());
    commit(&store, put(1, 0)).await;
    hang.store(1, Ordering::Relaxed);
    let callers: Vec<_> = (0..3)
        .map(|caller| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(Commit::all(vec![put(caller, 1)])).await })
        })
        .collect();
    let mut state = store.watch_state();
    state.wait_for(|state| matches!(state, StoreState::Failed { .. })).await.unwrap();
    let StoreState::Failed { cause } = state.borrow().clone() else { unreachable!() };
    assert!(cause.contains("a sync of the commit log has not returned within 3s"), "{cause}");
    for caller in callers {
        assert!(matches!(caller.await.unwrap(), Err(StoreError::Failed { .. })));
    }
    assert_eq!(store.get(&ProfileId::parse("user-1", "id").unwrap()).await.unwrap().unwrap().revision().0, 1);
    assert!(matches!(store.close().await, Err(StoreError::Failed { .. })), "closing does not wait for the disk");
    drop(release);
}

/// A disk that does not come back at one point until what is returned is dropped.
fn hanging_at(hanging: Point) -> (Disk, std::sync::mpsc::Sender<()>) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    let disk = Disk::system().with_faults(move |point| {
        if point == hanging {
            // Ends with an error when the test lets go.
            let _ = held.lock().recv();
        }
        if point == Point::BatchBegun && hanging == Point::SuspectMark {
            return Err(std::io::Error::other("a batch that fails"));
        }
        Ok(())
    });
    (disk, release)
}

async fn soon<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), awaited).await.expect("it waits for a disk that does not answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_does_not_wait_for_a_mark_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, release) = hanging_at(Point::CloseMark);
    let slow = SledOptions { disk, sync_timeout: SYNC_TIMEOUT, ..options(dir.path(), &Time::new()) };
    let store = open(slow).await.unwrap();
    commit(&store, put(1, 0)).await;
    let closed = soon(store.close()).await.unwrap_err().to_string();
    assert!(closed.contains("a sync of the commit log has not returned within 3s"), "{closed}");
    drop(release);
    assert_eq!(open_copy(dir.path()).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_wait_for_the_mark_of_a_failed_batch_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, release) = hanging_at(Point::SuspectMark);
    let slow = SledOptions { disk, sync_timeout: SYNC_TIMEOUT, ..options(dir.path(), &Time::new()) };
    let store = open(slow).await.unwrap();
    assert!(matches!(soon(try_put(&store, 0)).await, Err(StoreError::Failed { .. })));
    assert!(matches!(soon(store.close()).await, Err(StoreError::Failed { .. })));
    drop(release);
    assert_eq!(open_copy(dir.path()).await.len(), 1, "what was in the log is there");
}

/// What a copy holds, since the failed store keeps its files until the process ends.
async fn open_copy(dir: &Path) -> BTreeMap<String, Record> {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    let store = open(options(copy.path(), &Time::new())).await.unwrap();
    let found = contents(&store).await;
    store.close().await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_callers_were_let_go_before_it_was_in_the_log_does_not_get_there() {
    let dir = tempfile::tempdir().unwrap();
    let on_committer = || std::thread::current().name() == Some("committer");
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = parking_lot::Mutex::new(held);
    let (armed, appends, waits) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    let (hangs, appended, waited) = (armed.clone(), appends.clone(), waits.clone());
    // The disk takes its time to say that there is room for the next group; meanwhile, to all others, it is full.
    let disk = Disk::system().with_free_bytes(move |_| {
        if hangs.load(Ordering::SeqCst) == 1 && on_committer() {
            let _ = held.lock().recv();
            return Ok(1000 * MIB);
        }
        Ok(MIB)
    });
    let disk = disk.with_faults(move |point| {
        match point {
            Point::LogWrite => appended.fetch_add(1, Ordering::SeqCst),
            Point::Waiting => waited.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        Ok(())
    });
    let space = SpaceBounds { min_free_bytes: 100 * MIB, ballast_bytes: 0 };
    let slow = SledOptions { disk, space, sync_timeout: SYNC_TIMEOUT, ..options(dir.path(), &Time::new()) };
    let store = open(slow).await.unwrap();
    assert_eq!(try_put(&store, 0).await, Err(StoreError::DiskLow));
    armed.store(1, Ordering::SeqCst);
    // Until the last answer is old and the disk is asked again.
    eventually("a group that hangs", async || {
        matches!(soon(try_put(&store, 1)).await, Err(StoreError::Failed { cause }) if cause.contains("room"))
    })
    .await;
    let before = waits.load(Ordering::SeqCst);
    drop(release);
    eventually("the end of the group", async || waits.load(Ordering::SeqCst) > before).await;
    assert_eq!(appends.load(Ordering::SeqCst), 0, "it was written for callers who had been told that it failed");
    assert!(store.close().await.is_err());
}
