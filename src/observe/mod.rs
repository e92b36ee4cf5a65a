//! What the server can say about the calls it answers.
//!
//! [`method`] and [`code`] are small numbers for the calls and their ends, so that the hot path handles no strings.
//! [`calls`] counts calls and their latencies in cells of which each serving thread has its own. [`observer`] is whom
//! `rpc::observed` tells about each call: the cells first, then those who look at single calls.
//!
//! What the cache, the feed and the store know is asked of them by the server when somebody wants to see it.
//!
//! Invariant: nothing here ever holds an id, an e-mail or any other text from a caller.

pub mod calls;
pub mod code;
pub mod method;
pub mod observer;

pub use calls::{CallFigures, Calls, MethodFigures};
pub use code::Code;
pub use method::Method;
pub use observer::{CallSink, EndedCall, Observer, Traffic};
