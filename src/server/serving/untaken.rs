//! Answers that HTTP/2 has and that their clients do not take: how long they may wait.
//!
//! An answer waits in its stream until the client's windows let it go, when nothing of the call is there any more but its
//! stream. Here the stream's handle is kept until its answer has gone. Invariant: an answer of more than [`SMALL`] bytes of which
//! its client takes less than [`LEAST_TAKEN`] in the time of a probe is reset, at the latest after one and a half of
//! that time; the last of a stream in a multiple of it. Smaller ones are not looked after: they are what a call takes anyway.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::Reason;
use h2::server::SendResponse;
use tokio::time::{Instant, Sleep, sleep};

use super::stall::LEAST_TAKEN;

/// Answers up to this size are not looked after.
pub const SMALL: usize = 4096;
/// What a client that does not take its answers is told: gRPC makes `RESOURCE_EXHAUSTED` of it.
pub const NOT_TAKEN: Reason = Reason::ENHANCE_YOUR_CALM;
/// So many answers stay in the list before those that have gone are looked for.
const KEPT: usize = 16;
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// How much of an answer is held, and how much has gone.
#[derive(Debug, Default)]
pub struct Watch {
    held: Cell<usize>,
    gone: Cell<u64>,
}

impl Watch {
    /// The bytes that have not gone.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// The bytes that have gone.
    pub fn gone(&self) -> u64 {
        self.gone.get()
    }

    fn release(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
        self.gone.set(self.gone.get() + bytes as u64);
    }
}

/// Bytes of an answer, which may be watched until they have gone or are dropped.
#[derive(Debug)]
pub struct Tracked<D: Buf> {
    data: D,
    watch: Option<Rc<Watch>>,
}

impl<D: Buf> Tracked<D> {
    /// Bytes that nobody watches.
    pub fn unwatched(data: D) -> Self {
        Self { data, watch: None }
    }

    /// Bytes that count as held until they have gone.
    pub fn watched(data: D, watch: &Rc<Watch>) -> Self {
        watch.held.set(watch.held.get() + data.remaining());
        Self { data, watch: Some(watch.clone()) }
    }
}

impl<D: Buf> Drop for Tracked<D> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.release(self.data.remaining());
        }
    }
}

impl<D: Buf + From<Bytes>> From<Bytes> for Tracked<D> {
    fn from(bytes: Bytes) -> Self {
        Self::unwatched(bytes.into())
    }
}

impl<D: Buf> Buf for Tracked<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        if let Some(watch) = &self.watch {
            watch.release(count);
        }
    }
}

/// An answer that was given to its stream.
struct Answer<D: Buf> {
    stream: SendResponse<Tracked<D>>,
    watch: Rc<Watch>,
    /// How often it was looked at without progress, and what had gone by then.
    looks: u32,
    gone: u64,
    /// With more looks than that it is given up.
    most_looks: u32,
}

impl<D: Buf> Answer<D> {
    /// Whether it goes on waiting. Resets it when it has waited for too long.
    fn goes_on(&mut self) -> bool {
        let gone = self.watch.gone();
        if self.watch.held() == 0 {
            return false;
        }
        if self.looks == 0 || gone >= self.gone + LEAST_TAKEN {
            (self.looks, self.gone) = (1, gone);
            return true;
        }
        self.looks += 1;
        if self.looks <= self.most_looks {
            return true;
        }
        tracing::debug!(held = self.watch.held(), "an answer that its client does not take was reset");
        self.stream.send_reset(NOT_TAKEN);
        false
    }
}

/// The answers of one connection that may still wait.
pub struct Untaken<D: Buf> {
    answers: RefCell<Vec<Answer<D>>>,
    /// With so many the list is cleared of those that have gone.
    full: Cell<usize>,
    patience: Duration,
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
    /// The connection, while there is nothing to wait for.
    waker: RefCell<Option<Waker>>,
}

impl<D: Buf> Untaken<D> {
    /// None yet. Each may wait for so long.
    pub fn new(patience: Duration) -> Rc<Self> {
        Rc::new(Self {
            answers: RefCell::default(),
            full: Cell::new(KEPT),
            patience,
            timer: RefCell::default(),
            waker: RefCell::default(),
        })
    }

    /// How long an answer may wait.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Looks after an answer that was given to its stream, and may wait for so many times as long as others.
    pub fn push(&self, stream: SendResponse<Tracked<D>>, watch: Rc<Watch>, times: u32) {
        let mut answers = self.answers.borrow_mut();
        if answers.is_empty()
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
        if answers.len() >= self.full.get() {
            answers.retain(|answer| answer.watch.held() > 0);
            self.full.set(2 * answers.len() + KEPT);
        }
        answers.push(Answer { stream, watch, looks: 0, gone: 0, most_looks: 2 * times });
    }

    /// Resets what has waited for too long. To be polled in every turn of the connection, before it sends.
    pub fn poll(&self, cx: &mut Context<'_>) {
        let mut answers = self.answers.borrow_mut();
        if answers.is_empty() {
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            return;
        }
        let pause = (self.patience / 2).max(SHORTEST_PAUSE);
        let mut timer = self.timer.borrow_mut();
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(pause)));
        while timer.as_mut().poll(cx).is_ready() {
            answers.retain_mut(Answer::goes_on);
            timer.as_mut().reset(Instant::now() + pause);
        }
    }
}
