//! What the server can say about the calls it answers.
//!
//! [`method`] and [`code`] are small numbers for the calls and their ends, so that the hot path handles no strings.
//! [`calls`] counts calls and their latencies in cells of which each serving thread has its own. [`observer`] is whom
//! `rpc::observed` tells about each call: the cells first, then those who look at single calls. One of these is [`slow_calls`],
//! which writes a line; [`traces`] makes the spans of recorded calls, with [`origin`] for where a call comes from.
//! [`log_filter`] and [`repetitions`] are about the log itself, and [`pace`] about how much of it there may be; [`panics`] counts
//! defects, and by way of [`standard_error`] a log that nobody takes holds up nobody.
//!
//! What the cache, the feed and the store know is asked of them by the server when somebody wants to see it.
//!
//! [`hot_keys`] counts what is read most, [`slowest_calls`] keeps the slowest calls of the last minutes for the status page.
//!
//! Invariant: but for the ids and domains in `hot_keys` nothing here ever tells an id, an e-mail or any other text from a
//! caller but a plain request id.

pub mod calls;
pub mod code;
pub mod hot_keys;
pub mod log_filter;
pub mod method;
pub mod observer;
pub mod origin;
pub mod pace;
pub mod panics;
pub mod repetitions;
pub mod slow_calls;
pub mod slowest_calls;
pub mod standard_error;
pub mod traces;

pub use calls::{CallFigures, Calls, MethodFigures};
pub use code::Code;
pub use method::Method;
pub use observer::{CallSink, EndedCall, Observer, Traffic};
pub use origin::Origin;
pub use repetitions::Repetitions;
pub use slow_calls::SlowCalls;
pub use standard_error::StandardError;
