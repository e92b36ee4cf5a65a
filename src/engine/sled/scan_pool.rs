//! Where scans run: off the serving threads, bounded in number, stopped when nobody waits any more. Nobody takes more of the
//! line than he leaves to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::read_watch::{LongRead, LongReads};
use crate::store::places::Places;
use crate::store::{Corruption, StoreError};

/// Whether the caller of a scan has gone away, asked at every row.
#[derive(Debug, Default)]
pub struct Cancelled {
    has_gone: Arc<AtomicBool>,
    /// For the watchdog.
    watched: Option<LongRead>,
}

impl Cancelled {
    /// The scan has come to its next row. Fails when the caller has gone away; nobody sees the error.
    pub fn check(&self) -> Result<(), StoreError> {
        self.comes_on();
        if self.has_gone.load(Ordering::Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// The same for who reads to the end of the page in any case.
    pub fn comes_on(&self) {
        if let Some(watched) = &self.watched {
            watched.comes_on();
        }
    }
}

/// Cancels its scan when it is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bounds the scans that run and those that wait.
#[derive(Debug)]
pub struct ScanPool {
    running: Arc<Semaphore>,
    running_max: u32,
    waiting: Arc<Places>,
    refused: AtomicU64,
    watch: Option<LongReads>,
}

/// What a pool does, its bounds, and whom it has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFigures {
    /// Reads that run.
    pub running: usize,
    /// The most that run at a time.
    pub running_max: usize,
    /// Callers in line.
    pub waiting: usize,
    /// The longest line.
    pub waiting_max: usize,
    /// Callers that found no place in line.
    pub refused: u64,
}

impl ScanPool {
    /// At most `running_max` scans at a time, with at most `waiting_max` callers in line.
    pub fn new(running_max: u32, waiting_max: usize) -> Self {
        let running = Arc::new(Semaphore::new(running_max as usize));
        let (waiting, refused) = (Places::new(waiting_max), AtomicU64::new(0));
        Self { running, running_max, waiting, refused, watch: None }
    }

    /// The same under watch: a scan that does not come to its next row fails the store.
    pub fn watched(self, watch: &LongReads) -> Self {
        Self { watch: Some(watch.clone()), ..self }
    }

    /// What it does now.
    pub fn figures(&self) -> PoolFigures {
        let running_max = self.running_max as usize;
        PoolFigures {
            running: running_max.saturating_sub(self.running.available_permits()),
            running_max,
            waiting: self.waiting.taken(),
            waiting_max: self.waiting.limit(),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn refuse(&self) -> StoreError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        StoreError::Overloaded
    }

    /// Runs a scan on a blocking thread.
    pub async fn run<T: Send + 'static>(
        &self,
        scan: impl FnOnce(&Cancelled) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let waiting = self.waiting.take().map_err(|_| self.refuse())?;
        let running = self.running.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        drop(waiting);
        self.run_holding(running, scan).await
    }

    /// The same, but fails when it would have to wait.
    pub async fn try_run<T: Send + 'static>(
        &self,
        scan: impl FnOnce(&Cancelled) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let running = self.running.clone().try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => StoreError::Closed,
            TryAcquireError::NoPermits => self.refuse(),
        })?;
        self.run_holding(running, scan).await
    }

    async fn run_holding<T: Send + 'static>(
        &self,
        running: OwnedSemaphorePermit,
        scan: impl FnOnce(&Cancelled) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let cancel = CancelOnDrop(Arc::default());
        let (has_gone, watch) = (cancel.0.clone(), self.watch.clone());
        let task = tokio::task::spawn_blocking(move || {
            // Held until the scan has really stopped, also when its caller went away before.
            let _running = running;
            scan(&Cancelled { has_gone, watched: watch.map(|watch| watch.begin()) })
        });
        // sled panics on some damaged pages. The runtime ends before a scan does only when the process ends.
        task.await.unwrap_or_else(|_| Err(StoreError::Corrupt(Corruption("sled panicked while it read".into()))))
    }

    /// Refuses new scans and waits for the running ones.
    pub async fn close(&self) {
        // The permits are never given back: whoever waits behind this finds the pool closed.
        if let Ok(all) = self.running.acquire_many(self.running_max).await {
            all.forget();
        }
        self.running.close();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::places::Asker;

    async fn soon<F: Future>(awaited: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(60), awaited).await.expect("what must come has not come")
    }

    /// Ends only when its caller has gone away.
    fn endless(begun: std::sync::mpsc::Sender<()>) -> impl FnOnce(&Cancelled) -> Result<(), StoreError> + Send {
        move |cancelled| {
            let _ = begun.send(());
            loop {
                cancelled.check()?;
                std::thread::yield_now();
            }
        }
    }

    #[tokio::test]
    async fn a_scan_whose_caller_goes_away_or_runs_out_of_time_stops_and_gives_its_place_back() {
        let pool = ScanPool::new(1, 1);
        for _ in 0..3 {
            let (begun, has_begun) = std::sync::mpsc::channel();
            let scan = pool.run(endless(begun));
            assert!(tokio::time::timeout(Duration::from_millis(1), scan).await.is_err());
            // It has begun, or was dropped before.
            let _ = has_begun.recv();
            assert_eq!(soon(pool.run(|_| Ok(7))).await, Ok(7));
        }
    }

    #[tokio::test]
    async fn a_scan_under_watch_is_seen_until_it_ends_and_a_row_is_a_sign_of_it() {
        let watch = LongReads::default();
        let pool = ScanPool::new(1, 1).watched(&watch);
        let ((go_on, goes_on), (begun, has_begun)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let scan = pool.run(move |cancelled| {
            for () in goes_on {
                cancelled.check()?;
                begun.send(()).unwrap();
            }
            Ok(())
        });
        let mut scan = Box::pin(scan);
        assert!(futures_util::poll!(scan.as_mut()).is_pending());
        go_on.send(()).unwrap();
        has_begun.recv().unwrap();
        assert_eq!([watch.next_turn(), watch.next_turn(), watch.next_turn()], [0, 1, 2]);
        go_on.send(()).unwrap();
        has_begun.recv().unwrap();
        assert_eq!(watch.next_turn(), 0);
        drop(go_on);
        assert_eq!(soon(scan).await, Ok(()));
        assert_eq!([watch.next_turn(), watch.next_turn()], [0, 0]);
    }

    #[tokio::test]
    async fn who_waits_and_goes_away_gives_the_place_in_line_back() {
        let pool = ScanPool::new(1, 1);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let mut running = Box::pin(pool.run(endless(begun)));
        assert!(futures_util::poll!(running.as_mut()).is_pending());
        has_begun.recv().unwrap();
        for _ in 0..3 {
            let mut waiting = Box::pin(pool.run(|_| Ok(())));
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
            assert_eq!(pool.run(|_| Ok(())).await, Err(StoreError::Overloaded), "the line has one place");
        }
        assert_eq!(pool.try_run(|_| Ok(())).await, Err(StoreError::Overloaded), "it does not wait");
        let full = PoolFigures { running: 1, running_max: 1, waiting: 0, waiting_max: 1, refused: 4 };
        assert_eq!(pool.figures(), full);
        drop(running);
        assert_eq!(soon(pool.run(|_| Ok(7))).await, Ok(7));
        soon(pool.close()).await;
        assert_eq!(pool.run(|_| Ok(7)).await, Err(StoreError::Closed));
    }

    #[tokio::test]
    async fn one_who_asks_does_not_take_the_whole_line() {
        const LINE: usize = 8;
        let pool = ScanPool::new(1, LINE);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let mut running = Box::pin(pool.run(endless(begun)));
        assert!(futures_util::poll!(running.as_mut()).is_pending());
        has_begun.recv().unwrap();
        let (greedy, modest) = (Asker::new_one(), Asker::new_one());
        let wait = async |asker: Asker| {
            let mut waiting = Box::pin(pool.run(|_| Ok(())));
            let polled =
                std::future::poll_fn(|cx| std::task::Poll::Ready(asker.around(|| waiting.as_mut().poll(cx))));
            polled.await.is_pending().then_some(waiting)
        };
        let mut in_line = Vec::new();
        while let Some(waiting) = wait(greedy).await {
            in_line.push(waiting);
        }
        assert_eq!((in_line.len(), pool.figures().waiting), (LINE / 2, LINE / 2));
        assert!(wait(modest).await.is_some(), "there is a place for others");
        drop(running);
        for waiting in in_line {
            soon(waiting).await.unwrap();
        }
        assert!(greedy.around(|| pool.waiting.take()).is_ok(), "the places were given back");
    }
}
