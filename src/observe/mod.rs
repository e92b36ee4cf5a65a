//! What the server can say about the calls it answers.
//!
//! [`method`] and [`code`] are small numbers for the calls and their ends, so that the hot path handles no strings.
//! [`calls`] counts calls and their latencies in cells of which each serving thread has its own. [`observer`] is whom
//! `rpc::observed` tells about each call: the cells first, then those who look at single calls.
//!
//! What the cache, the feed and the store know is asked of them by the server when somebody wants to see it.
//!
//! [`hot_keys`] counts what is read most, [`slowest_calls`] keeps the slowest calls of the last minutes for the status page.
//!
//! Invariant: but for the ids and domains in `hot_keys` nothing here ever holds a text from a caller, and no e-mail, name
//! or attribute at all.

pub mod calls;
pub mod code;
pub mod hot_keys;
pub mod method;
pub mod observer;
pub mod slowest_calls;

pub use calls::{CallFigures, Calls, MethodFigures};
pub use code::Code;
pub use method::Method;
pub use observer::{CallSink, EndedCall, Observer, Traffic};
