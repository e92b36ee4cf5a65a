//! The way of an answer from the committer back to its caller.
//!
//! A group answers up to 128 callers at once. To wake each of them from here would wake their threads again and again,
//! between which each thread would answer a call or two: a system call for almost every put. So callers that began
//! on one thread share a *desk*: the committer lays down all answers, wakes one caller of each desk, and that
//! one, on its own thread, wakes the others, which costs no more than putting them into a queue of that thread.
//!
//! Invariants: an answer is there before anybody is woken for it; nobody waits for a caller that is never polled
//! or was dropped: a caller that is dropped wakes the others too, and the committer wakes whoever is left
//! ([`Round::finish`]) before it waits for a request without a bound of milliseconds, writes to the disk or syncs it. Between two
//! groups it waits for those who come back, and looks up what it does not remember, without doing so: nearly always one caller of each desk has woken the others by then, and to wake
//! them from here would cost what desks are there to save.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::committer::Answer;

thread_local! {
    static DESK: Arc<Desk> = Arc::default();
}

/// The answered callers of one thread that nobody has woken yet.
#[derive(Default)]
struct Desk {
    has_answered: AtomicBool,
    answered: Mutex<Vec<Waker>>,
}

/// Where one answer goes through.
struct Slot {
    desk: Arc<Desk>,
    state: Mutex<State>,
}

enum State {
    /// There is no answer; the caller's waker, once it waits.
    Waiting(Option<Waker>),
    Answered(Answer),
    /// The answer was taken, or there is nobody to give or to take it.
    Over,
}

/// The committer's end. Dropped without an answer it tells the caller so.
pub struct Answering(Option<Arc<Slot>>);

/// The caller's end: gives the answer, or `None` when there will be none.
pub struct Awaited(Arc<Slot>);

/// Both ends for a caller on this thread.
pub fn slot() -> (Answering, Awaited) {
    let slot = Arc::new(Slot { desk: DESK.with(Arc::clone), state: Mutex::new(State::Waiting(None)) });
    (Answering(Some(slot.clone())), Awaited(slot))
}

impl Desk {
    fn lay_down(&self, waker: Waker) {
        let mut answered = self.answered.lock();
        answered.push(waker);
        self.has_answered.store(true, Ordering::Release);
    }

    fn wake_one(&self) {
        let first = self.answered.lock().pop();
        if let Some(waker) = first {
            waker.wake();
        }
    }

    fn wake_all(&self) {
        if !self.has_answered.load(Ordering::Acquire) {
            return;
        }
        let wakers = {
            let mut answered = self.answered.lock();
            self.has_answered.store(false, Ordering::Release);
            std::mem::take(&mut *answered)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Answering {
    /// Lays the answer down. The waker is that of a caller who waits for it.
    fn lay_down(mut self, answer: Answer) -> Option<(Arc<Desk>, Waker)> {
        let slot = self.0.take()?;
        let before = {
            let mut state = slot.state.lock();
            match &*state {
                State::Waiting(_) => std::mem::replace(&mut *state, State::Answered(answer)),
                // Nobody waits any more; the commit is made all the same.
                _ => return None,
            }
        };
        let State::Waiting(Some(waker)) = before else { return None };
        Some((slot.desk.clone(), waker))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let Some(slot) = self.0.take() else { return };
        let before = std::mem::replace(&mut *slot.state.lock(), State::Over);
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl Future for Awaited {
    type Output = Option<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        self.0.desk.wake_all();
        let mut state = self.0.state.lock();
        if let State::Waiting(waker) = &mut *state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Over) {
            State::Answered(answer) => Poll::Ready(Some(answer)),
            _ => Poll::Ready(None),
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        // What it holds is dropped without the lock.
        let _over = std::mem::replace(&mut *self.0.state.lock(), State::Over);
        // It may be the one that was woken for the others.
        self.0.desk.wake_all();
    }
}

/// The desks that have answers nobody may have been woken for.
#[derive(Default)]
pub struct Round {
    desks: Vec<Arc<Desk>>,
}

impl Round {
    /// Answers callers: first lays all answers down, then wakes one caller of each desk.
    pub fn hand_out(&mut self, answers: impl IntoIterator<Item = (Answering, Answer)>) {
        for (to, answer) in answers {
            let Some((desk, waker)) = to.lay_down(answer) else { continue };
            desk.lay_down(waker);
            if !self.desks.iter().any(|known| Arc::ptr_eq(known, &desk)) {
                self.desks.push(desk);
            }
        }
        self.desks.iter().for_each(|desk| desk.wake_one());
    }

    /// Wakes whoever has not been woken.
    pub fn finish(&mut self) {
        self.desks.drain(..).for_each(|desk| desk.wake_all());
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::store::StoreError;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Caller {
        woken: Arc<Counted>,
        awaited: Awaited,
    }

    impl Caller {
        fn poll(&mut self) -> Poll<Option<Answer>> {
            let waker = Waker::from(self.woken.clone());
            Pin::new(&mut self.awaited).poll(&mut Context::from_waker(&waker))
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::SeqCst)
        }
    }

    fn waiting_callers(count: usize) -> (Vec<Answering>, Vec<Caller>) {
        let (to, mut callers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| slot()).map(|(to, awaited)| (to, Caller { woken: Arc::default(), awaited })).unzip();
        callers.iter_mut().for_each(|caller| assert!(caller.poll().is_pending()));
        (to, callers)
    }

    fn answers(to: Vec<Answering>) -> impl Iterator<Item = (Answering, Answer)> {
        to.into_iter().map(|to| (to, Err(StoreError::DiskLow)))
    }

    fn all_woken(callers: &[Caller]) -> bool {
        callers.iter().all(|caller| caller.woken() == 1)
    }

    #[test]
    fn one_of_a_thread_is_woken_and_wakes_the_others() {
        let (to, mut callers) = waiting_callers(5);
        let mut round = Round::default();
        round.hand_out(answers(to));
        let first = callers.iter().position(|caller| caller.woken() > 0).unwrap();
        assert_eq!(callers.iter().map(Caller::woken).sum::<usize>(), 1);
        assert_eq!(callers[first].poll(), Poll::Ready(Some(Err(StoreError::DiskLow))));
        assert!(all_woken(&callers));
        round.finish();
        assert!(all_woken(&callers), "nobody is woken twice");
    }

    #[test]
    fn callers_of_one_thread_do_not_wait_for_those_of_another() {
        let (mut to, callers) = waiting_callers(2);
        let (other_to, others) = std::thread::spawn(|| waiting_callers(2)).join().unwrap();
        to.extend(other_to);
        let mut round = Round::default();
        round.hand_out(answers(to));
        for callers in [callers, others] {
            assert_eq!(callers.iter().map(Caller::woken).sum::<usize>(), 1);
        }
    }

    #[test]
    fn the_others_are_woken_when_the_first_is_dropped() {
        let (to, mut callers) = waiting_callers(5);
        let mut round = Round::default();
        round.hand_out(answers(to));
        let first = callers.iter().position(|caller| caller.woken() > 0).unwrap();
        callers.remove(first);
        assert!(all_woken(&callers));
    }

    #[test]
    fn the_others_are_woken_when_the_first_is_never_polled() {
        let (to, callers) = waiting_callers(5);
        let mut round = Round::default();
        round.hand_out(answers(to));
        round.finish();
        assert!(all_woken(&callers));
    }

    #[test]
    fn a_caller_who_is_not_answered_is_told_so() {
        let (to, mut callers) = waiting_callers(1);
        drop(to);
        assert!(all_woken(&callers));
        assert_eq!(callers[0].poll(), Poll::Ready(None));
    }

    #[test]
    fn an_answer_that_comes_before_the_caller_waits_is_there() {
        let (to, awaited) = slot();
        Round::default().hand_out(answers(vec![to]));
        let mut caller = Caller { woken: Arc::default(), awaited };
        assert_eq!(caller.poll(), Poll::Ready(Some(Err(StoreError::DiskLow))));
    }

    #[test]
    fn an_answer_for_nobody_is_dropped() {
        let (to, callers) = waiting_callers(1);
        drop(callers);
        let mut round = Round::default();
        round.hand_out(answers(to));
        assert!(round.desks.is_empty());
    }
}
