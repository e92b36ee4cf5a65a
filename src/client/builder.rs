//! From settings to a client; every setting has a bound.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tonic::transport::Endpoint;

use super::error::{ClientError, Violation};
use super::retry::Notice;
use super::{Client, Connection, Inner};

const CONNECTIONS: RangeInclusive<usize> = 1..=64;
const RETRIES: RangeInclusive<u32> = 0..=20;
/// Far below the ten minutes for which a server remembers a request id, so that a repeated write is known.
const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(300);
const ALLOWED_TIMES: &str = "1 ms to 5 min are allowed";

/// How often a connection with calls in flight is probed, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What may be under way to us without our having read it: a page fits, so that it is not sent in turns.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The settings of a client in the making; [`Client::builder`] begins one.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    address: String,
    connections: usize,
    deadline: Duration,
    retries: u32,
    connect_timeout: Duration,
    notice: Notice,
}

impl ClientBuilder {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            connections: 4,
            deadline: Duration::from_secs(10),
            retries: 5,
            connect_timeout: Duration::from_secs(5),
            notice: Notice::default(),
        }
    }

    /// How many connections to hold: 1 to 64, by default 4.
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// How long a call may take with all its repetitions: 1 ms to 5 min, by default 10 s.
    ///
    /// Of the calls that give a stream, each page of a listing is a call of its own, and an import or an export
    /// fails when it waits so long without any progress.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// How often a call that met `UNAVAILABLE` is repeated at most: 0 to 20, by default 5.
    ///
    /// The pauses between double from 0.1 s, with jitter, up to 5 s, and are never shorter than what the
    /// server asked for (up to these 5 s).
    pub fn retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// What to call, by default nothing, when a call waits for longer than about a second for a server that cannot be reached,
    /// or does not serve, and before each repetition after that. It must not block.
    pub fn on_wait(self, told: impl Fn() + Send + Sync + 'static) -> Self {
        Self { notice: Notice::new(told), ..self }
    }

    /// How long making a connection may take: 1 ms to 5 min, by default 5 s.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// Makes the client. Nothing is connected yet: the first call does.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, which the connections need.
    pub fn build(self) -> Result<Client, ClientError> {
        let mut violations = Vec::new();
        check_range(&mut violations, "connections", self.connections, CONNECTIONS);
        check_range(&mut violations, "retries", self.retries, RETRIES);
        for (field, time) in [("deadline", self.deadline), ("connect_timeout", self.connect_timeout)] {
            if !TIMES.contains(&time) {
                violations.push(Violation::new(field, format!("is {time:?}; {ALLOWED_TIMES}")));
            }
        }
        let endpoint = endpoint(&self.address).map_err(|violation| violations.push(violation)).ok();
        let Some(endpoint) = endpoint.filter(|_| violations.is_empty()) else {
            return Err(ClientError::invalid(violations));
        };
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let inner = Inner {
            connections: (0..self.connections).map(|_| Connection(endpoint.connect_lazy())).collect(),
            turn: AtomicUsize::new(0),
            deadline: self.deadline,
            retries: self.retries,
            notice: self.notice,
        };
        Ok(Client { inner: Arc::new(inner) })
    }
}

/// Whether a client can be made of the address; else what it must be.
pub fn check_address(address: &str) -> Result<(), String> {
    endpoint(address).map(|_| ()).map_err(|violation| violation.description)
}

/// Whether a call may take so long; else what is allowed.
pub fn check_deadline(deadline: Duration) -> Result<(), String> {
    if TIMES.contains(&deadline) { Ok(()) } else { Err(ALLOWED_TIMES.to_owned()) }
}

fn endpoint(address: &str) -> Result<Endpoint, Violation> {
    let wrong = || Violation::new("address", "must be HOST:PORT or http://HOST:PORT");
    let host_and_port = match address.split_once("://") {
        None => address,
        Some(("http", rest)) => rest.trim_end_matches('/'),
        Some(_) => return Err(wrong()),
    };
    let authority: http::uri::Authority = host_and_port.parse().map_err(|_| wrong())?;
    if authority.port_u16().is_none() || authority.host().is_empty() || host_and_port.contains('@') {
        return Err(wrong());
    }
    Endpoint::from_shared(format!("http://{authority}")).map_err(|_| wrong())
}

/// Notes a setting that is out of its bounds.
pub(super) fn check_range<T: PartialOrd + std::fmt::Display>(
    violations: &mut Vec<Violation>,
    field: &str,
    value: T,
    range: RangeInclusive<T>,
) {
    if !range.contains(&value) {
        let description = format!("is {value}; {} to {} are allowed", range.start(), range.end());
        violations.push(Violation::new(field, description));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port_and_no_other_scheme() {
        for good in ["127.0.0.1:50051", "http://localhost:1", "http://[::1]:50051/", "a.example:80"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", "https://localhost:1", "http://", ":1", "a b:1", "me@host:1", "host:1/path"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
