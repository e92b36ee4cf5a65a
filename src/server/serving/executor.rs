//! Runs a connection's calls on its own thread.
//!
//! Most calls are answered from memory the first time they are looked at, so a call is looked at once where it is
//! accepted, in the turn of its connection: its answer leaves with that turn, and there is no task to make, to queue
//! and to wake. What is not ready then becomes a task.
//!
//! Invariants: in one turn of a connection a bounded number of calls are looked at in place, so that its neighbours
//! on the thread get theirs; a call that panics takes nothing with it but itself.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Context, Waker};

/// The most calls of one turn that are looked at in place.
const IN_PLACE: usize = 64;

/// Runs a connection's calls, and counts them.
#[derive(Debug, Clone, Default)]
pub struct LocalExecutor {
    calls: Rc<Cell<usize>>,
    /// How many more calls of this turn may be looked at in place.
    in_place: Rc<Cell<usize>>,
}

impl LocalExecutor {
    /// A turn of the connection begins.
    pub fn begin_turn(&self) {
        self.in_place.set(IN_PLACE);
    }

    /// The number of calls that run.
    pub fn calls(&self) -> Rc<Cell<usize>> {
        self.calls.clone()
    }
}

/// A call that runs.
struct Running(Rc<Cell<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        let mut call = Box::pin(future);
        if let Some(left) = self.in_place.get().checked_sub(1) {
            self.in_place.set(left);
            // Nobody is woken by this look: a call that is not ready is looked at again by its task.
            let mut cx = Context::from_waker(Waker::noop());
            match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut cx))) {
                Ok(looked) if looked.is_pending() => {}
                // Answered; or the panic hook has said what there is to say, as it would of a task.
                _ => return,
            }
        }
        self.calls.set(self.calls.get() + 1);
        let running = Running(self.calls.clone());
        tokio::task::spawn_local(async move {
            let _running = running;
            call.await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::task::Poll;

    use hyper::rt::Executor;
    use tokio::task::LocalSet;

    use super::*;

    #[test]
    fn a_call_that_is_ready_is_answered_in_the_turn_that_accepts_it() {
        let executor = LocalExecutor::default();
        executor.begin_turn();
        let answered = Rc::new(Cell::new(0));
        for number in 1..=IN_PLACE {
            let answered_here = answered.clone();
            executor.execute(async move { answered_here.set(number) });
            assert_eq!(answered.get(), number);
        }
        assert_eq!(executor.calls.get(), 0);
    }

    #[tokio::test]
    async fn more_calls_of_one_turn_and_those_that_wait_become_tasks() {
        let executor = LocalExecutor::default();
        executor.begin_turn();
        LocalSet::new()
            .run_until(async {
                let answered = Rc::new(Cell::new(0));
                // Ready at the second look only.
                let slow = answered.clone();
                let mut looks = 0;
                executor.execute(poll_fn(move |_| {
                    looks += 1;
                    if looks < 2 {
                        return Poll::Pending;
                    }
                    slow.set(slow.get() + 1);
                    Poll::Ready(())
                }));
                executor.execute(pending());
                assert_eq!((answered.get(), executor.calls.get()), (0, 2));
                for _ in 0..IN_PLACE {
                    let answered = answered.clone();
                    executor.execute(async move { answered.set(answered.get() + 1) });
                }
                assert_eq!(answered.get(), IN_PLACE - 2, "the first two were looked at in place too");
                while answered.get() < IN_PLACE + 1 {
                    tokio::task::yield_now().await;
                }
                assert_eq!(executor.calls.get(), 1, "the one that waits for ever");
            })
            .await;
    }

    #[test]
    fn a_call_that_panics_takes_nothing_with_it() {
        let executor = LocalExecutor::default();
        executor.begin_turn();
        executor.execute(async { panic!("a call's own fault") });
        assert_eq!(executor.calls.get(), 0);
    }
}
