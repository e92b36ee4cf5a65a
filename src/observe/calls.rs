//! Counts and latencies of all calls.
//!
//! Each thread that handles calls has cells of its own, which only it writes: a count is a load and a store without a
//! lock or a shared cache line. A scrape adds up the cells of all threads. Counts never go back; those of a thread that
//! has ended stay.
//!
//! Invariant: a cell has one writer, because [`Calls`] finds the cells of the thread that it is called on.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::code::Code;
use super::method::Method;
use super::observer::{EndedCall, Traffic};
use crate::figures::{Distribution, LATENCY_BOUNDS, bucket_of, nanos};

/// A count that one thread writes and others read.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One thread's counts for one method.
#[derive(Debug, Default)]
struct MethodCells {
    begun: Cell,
    received_bytes: Cell,
    received_messages: Cell,
    sent_bytes: Cell,
    sent_messages: Cell,
    nanos: Cell,
    buckets: [Cell; LATENCY_BOUNDS.len() + 1],
    codes: [Cell; Code::COUNT],
}

impl MethodCells {
    fn moved(&self, received: Traffic, sent: Traffic) {
        self.received_bytes.add(received.bytes);
        self.received_messages.add(received.messages);
        self.sent_bytes.add(sent.bytes);
        self.sent_messages.add(sent.messages);
    }
}

/// One thread's counts. Apart from those of other threads by more than a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ThreadCells {
    methods: [MethodCells; Method::COUNT],
}

/// Counts and latencies of all calls of a server.
#[derive(Debug)]
pub struct Calls {
    /// Tells this from others in the same process, such as those of other tests.
    number: u64,
    threads: Mutex<Vec<Arc<ThreadCells>>>,
}

thread_local! {
    /// This thread's cells, by the number of the [`Calls`] that they belong to. In a server there is one.
    static OURS: RefCell<Vec<(u64, Arc<ThreadCells>)>> = const { RefCell::new(Vec::new()) };
}

impl Calls {
    /// No calls yet.
    pub fn new() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), threads: Mutex::default() })
    }

    /// A call has begun.
    pub(super) fn begun(&self, method: Method) {
        self.with_ours(|cells| cells.methods[method.number()].begun.add(1));
    }

    /// Something was received and sent for a call that goes on.
    pub(super) fn moved(&self, method: Method, received: Traffic, sent: Traffic) {
        self.with_ours(|cells| cells.methods[method.number()].moved(received, sent));
    }

    /// A call has ended; `received` and `sent` are what [`moved`](Calls::moved) was not told of it.
    pub(super) fn ended(&self, call: &EndedCall, received: Traffic, sent: Traffic) {
        let elapsed = nanos(call.elapsed);
        self.with_ours(|cells| {
            let cells = &cells.methods[call.method.number()];
            cells.moved(received, sent);
            cells.nanos.add(elapsed);
            cells.buckets[bucket_of(&LATENCY_BOUNDS, elapsed)].add(1);
            cells.codes[call.code.number()].add(1);
        });
    }

    fn with_ours(&self, count: impl FnOnce(&ThreadCells)) {
        // A thread that is going away counts nothing any more.
        let _ = OURS.try_with(|ours| {
            let mut ours = ours.borrow_mut();
            let place = match ours.iter().position(|(number, _)| *number == self.number) {
                Some(place) => place,
                None => {
                    // Those that nobody else holds belong to a server that is gone.
                    ours.retain(|(_, cells)| Arc::strong_count(cells) > 1);
                    let cells = Arc::<ThreadCells>::default();
                    self.threads.lock().push(cells.clone());
                    ours.push((self.number, cells));
                    ours.len() - 1
                }
            };
            count(&ours[place].1);
        });
    }

    /// The counts until now, of all threads together.
    pub fn figures(&self) -> CallFigures {
        let threads = self.threads.lock().clone();
        CallFigures {
            methods: Method::all()
                .map(|method| {
                    let mut figures = MethodFigures::new(method);
                    for cells in &threads {
                        figures.add(&cells.methods[method.number()]);
                    }
                    figures
                })
                .collect(),
        }
    }
}

/// Counts of all calls since the server began.
#[derive(Debug, Clone)]
pub struct CallFigures {
    /// One for each method, in the order of their numbers.
    pub methods: Vec<MethodFigures>,
}

impl CallFigures {
    /// The counts of one method.
    pub fn of(&self, method: Method) -> &MethodFigures {
        &self.methods[method.number()]
    }
}

/// Counts of one method since the server began.
#[derive(Debug, Clone)]
pub struct MethodFigures {
    /// Which.
    pub method: Method,
    /// The calls that have begun.
    pub begun: u64,
    /// The calls that have ended, by the numbers of their codes.
    pub by_code: [u64; Code::COUNT],
    /// How long they took, in nanoseconds.
    pub latency: Distribution,
    /// Bytes of messages from callers, with their prefixes, also of calls that go on.
    pub received_bytes: u64,
    /// Messages from callers.
    pub received_messages: u64,
    /// Bytes of messages to callers, with their prefixes.
    pub sent_bytes: u64,
    /// Messages to callers.
    pub sent_messages: u64,
}

impl MethodFigures {
    fn new(method: Method) -> Self {
        Self {
            method,
            begun: 0,
            by_code: [0; Code::COUNT],
            latency: Distribution::new(&LATENCY_BOUNDS),
            received_bytes: 0,
            received_messages: 0,
            sent_bytes: 0,
            sent_messages: 0,
        }
    }

    fn add(&mut self, cells: &MethodCells) {
        for (sum, cell) in self.by_code.iter_mut().zip(&cells.codes) {
            *sum += cell.get();
        }
        for (sum, cell) in self.latency.counts.iter_mut().zip(&cells.buckets) {
            *sum += cell.get();
        }
        self.latency.sum += cells.nanos.get();
        self.begun += cells.begun.get();
        self.received_bytes += cells.received_bytes.get();
        self.received_messages += cells.received_messages.get();
        self.sent_bytes += cells.sent_bytes.get();
        self.sent_messages += cells.sent_messages.get();
    }

    /// The calls that have ended.
    pub fn ended(&self) -> u64 {
        self.by_code.iter().sum()
    }

    /// The calls that are in flight, within those that begin and end while this is read.
    pub fn in_flight(&self) -> u64 {
        self.begun.saturating_sub(self.ended())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const RECEIVED: Traffic = Traffic { bytes: 10, messages: 1 };
    const SENT: Traffic = Traffic { bytes: 400, messages: 1 };

    fn call(code: Code, micros: u64) -> EndedCall {
        EndedCall {
            method: Method::GET_PROFILE,
            code,
            started: Instant::now(),
            elapsed: Duration::from_micros(micros),
            received: RECEIVED,
            sent: SENT,
            source: None,
        }
    }

    #[test]
    fn the_calls_of_all_threads_are_counted_also_of_those_that_have_ended() {
        let (calls, others) = (Calls::new(), Calls::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        calls.begun(Method::GET_PROFILE);
                        calls.ended(&call(Code::OK, 3), RECEIVED, SENT);
                    }
                    calls.begun(Method::GET_PROFILE);
                    others.begun(Method::GET_PROFILE);
                });
            }
        });
        calls.moved(Method::GET_PROFILE, RECEIVED, SENT);
        calls.ended(&call(Code::CANCELLED, 70), Traffic::default(), Traffic::default());
        let figures = calls.figures();
        let gets = figures.of(Method::GET_PROFILE);
        assert_eq!((gets.begun, gets.ended(), gets.in_flight()), (4004, 4001, 3));
        assert_eq!((gets.by_code[0], gets.by_code[1]), (4000, 1));
        assert_eq!((gets.latency.counts[0], gets.latency.counts[2]), (4000, 1));
        assert_eq!(gets.latency.sum, 4000 * 3000 + 70_000);
        assert_eq!((gets.received_bytes, gets.sent_bytes), (40_010, 4001 * 400));
        assert_eq!((gets.received_messages, gets.sent_messages), (4001, 4001));
        assert_eq!(others.figures().of(Method::GET_PROFILE).begun, 4);
        assert!(figures.methods[1..].iter().all(|method| method.begun == 0));
    }
}
