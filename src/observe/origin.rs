//! Where a call comes from, for the lines and spans about it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::TraceId;
use pin_project_lite::pin_project;

use super::traces::TRACEPARENT;
use crate::trace::{Parent, TraceParent};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one is not taken.
const MAX_REQUEST_ID_BYTES: usize = 64;
/// The calls of a connection end in the turn after it, so few are enough.
const MAX_CUT: usize = 64;

thread_local! {
    /// The peer of the connection that is polled now.
    static PEER: Cell<Option<SocketAddr>> = const { Cell::new(None) };
    /// The peers whose connections were given up last.
    static CUT: RefCell<VecDeque<SocketAddr>> = const { RefCell::new(VecDeque::new()) };
    /// All connections were given up.
    static ALL_CUT: Cell<bool> = const { Cell::new(false) };
}

/// The server gives up the connection of this peer, with the calls that it still has. Must be called on its thread.
pub fn cut(peer: Option<SocketAddr>) {
    CUT.with_borrow_mut(|cut| {
        if cut.len() == MAX_CUT {
            cut.pop_front();
        }
        cut.extend(peer);
    });
}

/// The other side of the connection that is polled now.
pub fn peer() -> Option<SocketAddr> {
    PEER.get()
}

/// The server gives up all connections of this thread, which ends.
pub fn cut_all() {
    ALL_CUT.set(true);
}

/// Where a call comes from, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The caller's `x-request-id`, as it came.
    request_id: Option<HeaderValue>,
    /// The caller's `traceparent`, as it came.
    traceparent: Option<HeaderValue>,
    /// The other side of the connection.
    pub peer: Option<SocketAddr>,
    /// The call's span, if its trace is recorded.
    pub trace: Option<TraceParent>,
}

impl Origin {
    /// The origin of a call that begins on this thread, with its span if its trace is recorded.
    pub fn of(headers: &HeaderMap, trace: Option<TraceParent>) -> Self {
        let header = |name| headers.get(name).cloned();
        Self { request_id: header(&REQUEST_ID), traceparent: header(&TRACEPARENT), peer: PEER.get(), trace }
    }

    /// The caller's name for the call. Only letters, digits, `-`, `_` and `.`: others could be an e-mail, or anything.
    pub fn request_id(&self) -> Option<&str> {
        let id = self.request_id.as_ref()?.to_str().ok()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ((1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain)).then_some(id)
    }

    /// Whether the server has given up the call's connection.
    pub fn is_cut(&self) -> bool {
        ALL_CUT.get() || self.peer.is_some_and(|peer| CUT.with_borrow(|cut| cut.contains(&peer)))
    }

    /// The call's trace: the one that is recorded here, or else its caller's.
    pub fn trace_id(&self) -> Option<TraceId> {
        let callers = || self.traceparent.as_ref().and_then(|header| Parent::trace_id_in(header.as_bytes()));
        self.trace.map(|trace| trace.trace_id()).or_else(callers)
    }
}

/// Runs a connection's future so that the calls it begins know their peer.
pub fn with_peer<F: Future>(peer: Option<SocketAddr>, connection: F) -> WithPeer<F> {
    if let Some(peer) = peer {
        // An earlier connection from there may have been cut.
        CUT.with_borrow_mut(|cut| cut.retain(|other| *other != peer));
    }
    WithPeer { connection, peer }
}

pin_project! {
    /// A connection's future; see [`with_peer`].
    pub struct WithPeer<F> {
        #[pin]
        connection: F,
        peer: Option<SocketAddr>,
    }
}

impl<F: Future> Future for WithPeer<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Others on this thread set it before they look.
        PEER.set(*this.peer);
        this.connection.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_taken_only_when_it_can_be_nothing_else() {
        let id = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(&REQUEST_ID, HeaderValue::from_str(value).unwrap());
            Origin::of(&headers, None).request_id().map(str::to_owned)
        };
        for good in ["a", "0189-ac.b_Z", &"a".repeat(64)] {
            assert_eq!(id(good).as_deref(), Some(good));
        }
        for bad in ["", "ada@example.com", "a b", "Ada, Countess", &"a".repeat(65), "ä"] {
            assert_eq!(id(bad), None, "{bad}");
        }
        assert_eq!(Origin::of(&HeaderMap::new(), None).request_id(), None);
    }

    #[test]
    fn a_connection_that_was_cut_is_known_until_its_peer_comes_again() {
        let peer = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let is_cut = |port| Origin { peer: peer(port), ..Origin::default() }.is_cut();
        cut(peer(1));
        assert!(is_cut(1) && !is_cut(2) && !Origin::default().is_cut());
        let _again = with_peer(peer(1), std::future::ready(()));
        assert!(!is_cut(1));
        (1..=1000).for_each(|port| cut(peer(port)));
        assert!(is_cut(1000) && CUT.with_borrow(VecDeque::len) == MAX_CUT);
    }
}
