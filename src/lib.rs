//! profilestore keeps user profiles in an embedded store and serves them over gRPC.
//!
//! A map in reading order, from the ground up; each module imports only from those above it here:
//!
//! 1. [`pb`]: generated messages of the public API; [`model`]: ids, e-mails, domains, profiles, writes, limits;
//!    [`figures`]: counts and histograms.
//! 2. [`store`]: the seam, a trait whose documentation is the contract of every store.
//! 3. [`engine`]: stores that keep profiles, in memory and in sled behind a commit log.
//! 4. [`cache`]: a store around a store that answers hot reads from memory; [`observe`]: what there is to say about calls.
//! 5. [`rpc`]: the gRPC services over any store.
//! 6. [`server`]: settings, listeners, start and shutdown; [`client`]: calls to a server, retries, imports,
//!    exports; [`cli`]: the command line.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod cache;
pub mod cli;
pub mod client;
pub mod engine;
pub mod feed;
pub mod figures;
pub mod model;
pub mod observe;
pub mod pb;
pub mod rpc;
pub mod server;
pub mod store;
