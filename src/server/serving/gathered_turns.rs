//! When a connection has its turn while its calls have answers.
//!
//! A change wakes many watches at once, and a group of writes many calls, and each gives its message in a task of its own. A
//! connection that had its turn after each of them would make a system call for each message, which costs more than the message.
//! So its turn is put off until the thread's runtime has been round (`LocalSet`: some sixty tasks, or all that are ready), and a
//! few times more while more is given, and all that they gave leaves together. A call that is alone on its connection has nobody to
//! wait for.
//!
//! Invariant: a turn that was put off comes after one round, or [`ROUNDS`] at most, without anything else happening.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// The most rounds that a turn is put off for while more and more is given.
const ROUNDS: u32 = 3;

/// The turns of one connection.
pub struct GatheredTurns {
    state: Cell<State>,
    round: Arc<Round>,
    /// What the runtime wakes when it has been round.
    waker: Waker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next turn is had as soon as it is asked for.
    AtOnce,
    /// A message is there, and the next turn will be put off.
    PutOff,
    /// The next turn comes when the runtime has been round so many times, or once if there was no more.
    Waiting { rounds: u32, more: bool },
}

/// Whether the runtime has been round, and whom to tell.
#[derive(Default)]
struct Round {
    is_over: AtomicBool,
    connection: AtomicWaker,
}

impl Wake for Round {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.connection.wake();
    }
}

impl GatheredTurns {
    /// The first turn is had at once.
    pub fn new() -> Rc<Self> {
        let round = Arc::<Round>::default();
        Rc::new(Self { state: Cell::new(State::AtOnce), waker: round.clone().into(), round })
    }

    /// Notes that a call, which holds one of the references, is about to give its stream something, which may wait for others.
    pub fn put_off(self: &Rc<Self>) {
        // The connection's reference, and this call's.
        let is_alone = Rc::strong_count(self) <= 2;
        match self.state.get() {
            State::AtOnce if !is_alone => self.state.set(State::PutOff),
            State::Waiting { rounds, .. } => self.state.set(State::Waiting { rounds, more: true }),
            State::AtOnce | State::PutOff => {}
        }
    }

    /// Ready when the connection has its turn.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.state.get() {
            State::AtOnce => return Poll::Ready(()),
            State::PutOff => self.begin_round(ROUNDS),
            State::Waiting { .. } => {}
        }
        self.round.connection.register(cx.waker());
        while self.round.is_over.load(Ordering::Acquire) {
            match self.state.get() {
                State::Waiting { rounds, more: true } if rounds > 1 => self.begin_round(rounds - 1),
                _ => {
                    self.state.set(State::AtOnce);
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    fn begin_round(&self, rounds: u32) {
        self.state.set(State::Waiting { rounds, more: false });
        self.round.is_over.store(false, Ordering::Relaxed);
        // What this asks for it has when it is dropped: the runtime wakes the waker when it has been round, and
        // nobody else does. Polled with the connection's waker it would be ready with the next wake-up, whoever's. That
        // the runtime keeps the waker is not promised; the test below would wait for ever.
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&self.waker));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::ready;

    use tokio::sync::oneshot;
    use tokio::task::{JoinHandle, LocalSet};

    use super::*;

    /// What a connection and its calls share here: the turns, the connection's waker, and how many messages were given.
    #[derive(Clone)]
    struct Shared(Rc<GatheredTurns>, Rc<AtomicWaker>, Rc<Cell<usize>>);

    impl Shared {
        fn new() -> Self {
            Self(GatheredTurns::new(), Rc::default(), Rc::default())
        }

        fn give(&self) {
            self.2.set(self.2.get() + 1);
            self.0.put_off();
            self.1.wake();
        }

        /// A connection that ends after so many messages. Gives how many it sent in each turn.
        fn connection(&self, messages: usize) -> JoinHandle<Vec<usize>> {
            let (Shared(turns, waker, given), mut sends, mut sent) = (self.clone(), Vec::new(), 0);
            tokio::task::spawn_local(poll_fn(move |cx| {
                waker.register(cx.waker());
                ready!(turns.poll(cx));
                if given.get() > sent {
                    sends.push(given.get() - sent);
                    sent = given.get();
                }
                if sent < messages { Poll::Pending } else { Poll::Ready(std::mem::take(&mut sends)) }
            }))
        }
    }

    fn block_on(future: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, future);
    }

    #[test]
    fn what_streams_give_in_one_round_leaves_in_one_turn_and_nothing_waits_for_more() {
        const STREAMS: usize = 20;
        const CHANGES: usize = 3;
        block_on(async {
            let shared = Shared::new();
            let sends = shared.connection(CHANGES * STREAMS);
            for _ in 0..CHANGES {
                let (mut changes, mut streams) = (Vec::new(), Vec::new());
                for _ in 0..STREAMS {
                    let (change, changed) = oneshot::channel();
                    changes.push(change);
                    let shared = shared.clone();
                    streams.push(tokio::task::spawn_local(async move {
                        changed.await.unwrap();
                        shared.give();
                    }));
                }
                tokio::task::yield_now().await;
                // All of them from another thread, as the feed's task does. A task that is woken on this one comes before them.
                let changing = std::thread::spawn(|| changes.into_iter().for_each(|change| change.send(()).unwrap()));
                changing.join().unwrap();
                for stream in streams {
                    stream.await.unwrap();
                }
            }
            assert_eq!(sends.await.unwrap(), [STREAMS; CHANGES]);
        });
    }

    #[test]
    fn calls_that_give_without_an_end_do_not_hold_up_their_connection() {
        const MESSAGES: usize = 10_000;
        // A round has so many tasks at most, each of them a message here.
        const ROUND: usize = 61;
        block_on(async {
            let shared = Shared::new();
            let sends = shared.connection(MESSAGES);
            for giver in [shared.clone(), shared] {
                tokio::task::spawn_local(poll_fn(move |cx| {
                    giver.give();
                    cx.waker().wake_by_ref();
                    if giver.2.get() < MESSAGES { Poll::Pending } else { Poll::Ready(()) }
                }));
            }
            let sends = sends.await.unwrap();
            assert!(sends.iter().all(|sent| *sent <= (ROUNDS as usize + 1) * ROUND), "{sends:?}");
        });
    }
}
