//! The log filter on the admin listener: `GET /log/filter` shows it, `PUT /log/filter` changes it until the next restart
//! or SIGHUP.
//!
//! Nobody has to say who he is here, so only this machine may change it, by a name that nobody else can give it: a page
//! of a stranger whose name leads to this machine is in the browser's eyes of the same origin, but its `Host` tells.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;

use crate::observe::log_filter::{self, FilterError, MAX_FILTER_BYTES};

/// The routes.
pub fn routes() -> Router {
    // A browser that some page has lead here asks before it sends a PUT, and gets no permission.
    Router::new().route("/log/filter", get(show).put(change)).layer(DefaultBodyLimit::max(MAX_FILTER_BYTES))
}

async fn show() -> (StatusCode, String) {
    match log_filter::current() {
        Some(filter) => (StatusCode::OK, format!("{filter}\n")),
        None => (StatusCode::NOT_FOUND, format!("{}\n", FilterError::NoLog)),
    }
}

async fn change(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    filter: String,
) -> (StatusCode, String) {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "the filter is changed from the server's own machine only\n".into());
    }
    if !is_own_name(&headers) {
        let why = "the filter is changed under the name localhost or an IP address only\n";
        return (StatusCode::FORBIDDEN, why.into());
    }
    let filter = filter.trim();
    match log_filter::set(filter, "PUT /log/filter") {
        Ok(_) => (StatusCode::OK, format!("{filter}\n")),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Whether the request is for a name that no name server can give to this machine.
fn is_own_name(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    host.is_some_and(|host| {
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_names_that_nobody_else_can_give_are_ours() {
        let is_own =
            |host: &'static str| is_own_name(&HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]));
        for own in ["localhost", "LocalHost:9464", "127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "10.0.0.7:1"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["", "a", "example.com:9464", "localhost.example.com", "127.0.0.1.example.com", "a@b:c"] {
            assert!(!is_own(other), "{other}");
        }
        assert!(!is_own_name(&HeaderMap::new()));
    }
}
