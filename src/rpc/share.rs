//! What one connection holds of what all connections share: bytes of requests, and bytes of answers. Places that are
//! counted, such as watchers', are shared by [`places`](crate::store::places), which knows a connection by its asker.
//!
//! With a bound on all together only, one client could deny everybody else. So a connection may hold no more than a part
//! of what is left: one that holds nothing finds room, a lone one gets a fifth of everything, and however many are
//! greedy, something is left for who comes next.
//!
//! A call's connection is handed to whatever is polled for the call on this thread ([`around`]), so that nothing between
//! needs to know of it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::answer_room::HeldAnswers;
use crate::store::places::Asker;

/// A connection may hold what is left divided by this.
const PART: usize = 4;

thread_local! {
    /// The connection of the call that is polled now.
    static CURRENT: Cell<Option<Arc<Connection>>> = const { Cell::new(None) };
}

/// What one connection holds. Its calls count it up and down on one thread, and the connections share nothing but what is
/// counted for all.
#[derive(Debug)]
pub struct Connection {
    /// What all hold of answers.
    pub all_answers: Arc<HeldAnswers>,
    /// The bytes of its answers that are held.
    pub answers: AtomicUsize,
    /// The bytes of its requests that are charged.
    pub requests: AtomicUsize,
    /// Who asks for what its calls need.
    pub asker: Asker,
}

impl Connection {
    /// A connection that holds nothing.
    pub fn new(all_answers: Arc<HeldAnswers>) -> Arc<Self> {
        let none = || AtomicUsize::new(0);
        Arc::new(Self { all_answers, answers: none(), requests: none(), asker: Asker::new_one() })
    }
}

/// Whether a connection that holds `own` bytes may hold `more`, where all hold `all` of at most `limit`.
pub fn is_fair(own: usize, more: usize, all: usize, limit: usize) -> bool {
    own == 0 || own.saturating_add(more) <= limit.saturating_sub(all) / PART
}

/// Runs `poll` for a call of this connection, and for no other on this thread, however `poll` ends.
pub fn around<T>(connection: &mut Option<Arc<Connection>>, poll: impl FnOnce() -> T) -> T {
    let asker = connection.as_ref().map(|connection| connection.asker);
    CURRENT.set(connection.take());
    let _given_back = GivenBack(connection);
    match asker {
        Some(asker) => asker.around(poll),
        None => poll(),
    }
}

/// Gives the call its connection back when this is dropped.
struct GivenBack<'a>(&'a mut Option<Arc<Connection>>);

impl Drop for GivenBack<'_> {
    fn drop(&mut self) {
        *self.0 = CURRENT.take();
    }
}

/// The connection of the call that is polled on this thread.
pub fn current() -> Option<Arc<Connection>> {
    let current = CURRENT.take();
    CURRENT.set(current.clone());
    current
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_connection_is_the_calls_again_and_not_the_threads_after_a_panic() {
        let mut connection = Some(Connection::new(HeldAnswers::new(1)));
        let own = connection.clone().unwrap();
        let polled = AssertUnwindSafe(|| {
            around(&mut connection, || {
                assert!(current().is_some_and(|current| Arc::ptr_eq(&current, &own)));
                panic!("wanted")
            })
        });
        catch_unwind(polled).unwrap_err();
        assert!(current().is_none(), "the next call on this thread is charged to it");
        assert!(connection.is_some_and(|connection| Arc::ptr_eq(&connection, &own)));
    }

    #[test]
    fn however_many_take_what_they_may_there_is_room_for_the_next() {
        const LIMIT: usize = 1 << 28;
        const STEP: usize = 1 << 12;
        for connections in [1, 2, 10, 40] {
            let mut own = vec![0; connections];
            let mut all = 0;
            loop {
                let before = all;
                for own in &mut own {
                    if is_fair(*own, STEP, all, LIMIT) {
                        *own += STEP;
                        all += STEP;
                    }
                }
                if all == before {
                    break;
                }
            }
            let left = LIMIT - all;
            // What each has is a quarter of what is left.
            assert!(left >= LIMIT / (connections / PART + 2), "{connections} leave {left}");
            assert!(own.iter().all(|own| own.abs_diff(left / PART) <= connections * STEP), "{connections}: {own:?}");
        }
        assert!(is_fair(0, LIMIT, LIMIT, LIMIT), "who holds nothing is bounded by the bound on all alone");
    }
}
