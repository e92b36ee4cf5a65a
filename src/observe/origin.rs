//! Where a call comes from, for the lines and spans about it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::TraceId;
use pin_project_lite::pin_project;

use crate::trace::TraceParent;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one is not taken.
const MAX_REQUEST_ID_BYTES: usize = 64;

thread_local! {
    /// The peer of the connection that is polled now.
    static PEER: Cell<Option<SocketAddr>> = const { Cell::new(None) };
}

/// Where a call comes from, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The caller's `x-request-id`, as it came.
    request_id: Option<HeaderValue>,
    /// The other side of the connection.
    pub peer: Option<SocketAddr>,
    /// The call's span, if its trace is recorded.
    pub trace: Option<TraceParent>,
}

impl Origin {
    /// The origin of a call that begins on this thread, with its span if its trace is recorded.
    pub fn of(headers: &HeaderMap, trace: Option<TraceParent>) -> Self {
        Self { request_id: headers.get(&REQUEST_ID).cloned(), peer: PEER.get(), trace }
    }

    /// The caller's name for the call. Only letters, digits, `-`, `_` and `.`: others could be an e-mail, or anything.
    pub fn request_id(&self) -> Option<&str> {
        let id = self.request_id.as_ref()?.to_str().ok()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ((1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain)).then_some(id)
    }

    /// The call's trace, if it is recorded.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace.map(|trace| trace.trace_id())
    }
}

/// Runs a connection's future so that the calls it begins know their peer.
pub fn with_peer<F: Future>(peer: Option<SocketAddr>, connection: F) -> WithPeer<F> {
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
}
