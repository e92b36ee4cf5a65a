//! The log filter on the admin listener: `GET /log/filter` shows it, `PUT /log/filter` changes it until the next restart
//! or SIGHUP.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
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

async fn change(filter: String) -> (StatusCode, String) {
    let filter = filter.trim();
    match log_filter::set(filter) {
        Ok(changed) => {
            if changed {
                tracing::warn!(filter, "the log filter was changed");
            }
            (StatusCode::OK, format!("{filter}\n"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
