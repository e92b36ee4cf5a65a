//! Where a failure becomes a gRPC status: code, reason, details.
//!
//! Invariants: every status made here carries an `ErrorInfo` of the domain `profilestore` with a stable
//! reason; overload and unavailability carry a `RetryInfo`; internal causes are logged once, here, and never
//! shown to the caller; no text holds personal data.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::model::{ProfileId, Rejection, Violations};
use crate::store::StoreError;

const DOMAIN: &str = "profilestore";
/// When a caller who was turned away may come back.
const RETRY_OVERLOADED: Duration = Duration::from_millis(100);
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);

/// The reasons that callers can rely on.
mod reason {
    pub const INVALID_FIELD: &str = "INVALID_FIELD";
    pub const INVALID_PAGE_TOKEN: &str = "INVALID_PAGE_TOKEN";
    pub const MALFORMED_REQUEST: &str = "MALFORMED_REQUEST";
    pub const TOO_LARGE: &str = "TOO_LARGE";
    pub const PROFILE_NOT_FOUND: &str = "PROFILE_NOT_FOUND";
    pub const PROFILE_EXISTS: &str = "PROFILE_EXISTS";
    pub const EMAIL_IN_USE: &str = "EMAIL_IN_USE";
    pub const ETAG_MISMATCH: &str = "ETAG_MISMATCH";
    pub const OVERLOADED: &str = "OVERLOADED";
    pub const DRAINING: &str = "DRAINING";
    pub const STORE_FAILED: &str = "STORE_FAILED";
    pub const CORRUPT_RECORD: &str = "CORRUPT_RECORD";
    pub const DEADLINE: &str = "DEADLINE";
    pub const NOT_BUILT: &str = "NOT_BUILT";
}

fn status(code: Code, message: impl Into<String>, reason: &str, metadata: &[(&str, String)]) -> Status {
    Status::with_error_details(code, message, details(reason, metadata))
}

fn details(reason: &str, metadata: &[(&str, String)]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn invalid(violations: &Violations, reason: &str) -> Status {
    let mut details = details(reason, &[]);
    let fields: Vec<_> =
        violations.iter().map(|violation| FieldViolation::new(&violation.field, &violation.description)).collect();
    details.set_bad_request(fields);
    Status::with_error_details(Code::InvalidArgument, violations.to_string(), details)
}

fn retry(code: Code, message: &str, reason: &str, delay: Duration) -> Status {
    let mut details = details(reason, &[]);
    details.set_retry_info(Some(delay));
    Status::with_error_details(code, message, details)
}

/// The request breaks the published bounds.
pub fn invalid_fields(violations: Violations) -> Status {
    invalid(&violations, reason::INVALID_FIELD)
}

/// The page token is damaged, or of another call.
pub fn invalid_page_token() -> Status {
    let violation = Violations::one(
        "page_token",
        "is not a token of this call with these arguments; use next_page_token as it came, and change only page_size",
    );
    invalid(&violation, reason::INVALID_PAGE_TOKEN)
}

/// The request is not a message of its type.
pub fn malformed_request() -> Status {
    let message = "the request is not a valid protobuf message of its type";
    status(Code::InvalidArgument, message, reason::MALFORMED_REQUEST, &[])
}

/// There is no such profile.
pub fn not_found(id: &ProfileId) -> Status {
    let message = format!("there is no profile {id}");
    status(Code::NotFound, message, reason::PROFILE_NOT_FOUND, &[("id", id.to_string())])
}

/// The caller's deadline has passed.
pub fn deadline_exceeded() -> Status {
    let message = "the deadline has passed; a write that was already accepted may still be made";
    status(Code::DeadlineExceeded, message, reason::DEADLINE, &[])
}

/// A part of the API that is still to come.
pub fn not_built(what: &str) -> Status {
    status(Code::Unimplemented, format!("{what} is not supported yet"), reason::NOT_BUILT, &[])
}

/// What the store said of a single call.
pub fn store_error(error: StoreError) -> Status {
    match error {
        StoreError::Rejected { index, rejection } => {
            let index = index.to_string();
            rejection_with(rejection, &[("index", index)])
        }
        StoreError::TooLarge { bytes, limit } => {
            let message = format!("the write has {bytes} bytes; at most {limit} are allowed");
            let metadata = [("bytes", bytes.to_string()), ("limit", limit.to_string())];
            status(Code::InvalidArgument, message, reason::TOO_LARGE, &metadata)
        }
        StoreError::InvalidCursor => invalid_page_token(),
        StoreError::Overloaded => {
            let message = "too many calls are waiting; try again a little later";
            retry(Code::ResourceExhausted, message, reason::OVERLOADED, RETRY_OVERLOADED)
        }
        StoreError::Closed => {
            retry(Code::Unavailable, "the server is shutting down", reason::DRAINING, RETRY_UNAVAILABLE)
        }
        // Logged by the store when it failed, so that a thousand refused calls are not a thousand lines.
        StoreError::Failed { .. } => {
            let message = "the store has failed and must be restarted; the outcome of this call is unknown";
            retry(Code::Unavailable, message, reason::STORE_FAILED, RETRY_UNAVAILABLE)
        }
        StoreError::Corrupt(corruption) => {
            tracing::error!(%corruption, "stored data is damaged");
            corrupt()
        }
    }
}

/// Stored data does not pass its check.
pub fn corrupt() -> Status {
    status(Code::DataLoss, "stored data is damaged and is not shown", reason::CORRUPT_RECORD, &[])
}

/// Why the store refused a single write.
pub fn rejection(rejection: Rejection) -> Status {
    rejection_with(rejection, &[])
}

fn rejection_with(rejection: Rejection, metadata: &[(&str, String)]) -> Status {
    let message = rejection.to_string();
    match rejection {
        Rejection::NotFound => status(Code::NotFound, message, reason::PROFILE_NOT_FOUND, metadata),
        Rejection::AlreadyExists => status(Code::AlreadyExists, message, reason::PROFILE_EXISTS, metadata),
        Rejection::EmailInUse => status(Code::AlreadyExists, message, reason::EMAIL_IN_USE, metadata),
        Rejection::EtagMismatch { current } => {
            let current = ("current_etag", current.as_str().to_owned());
            let metadata: Vec<_> = metadata.iter().cloned().chain([current]).collect();
            status(Code::Aborted, message, reason::ETAG_MISMATCH, &metadata)
        }
        Rejection::Invalid(violations) => invalid_fields(violations),
        Rejection::DuplicateId => status(Code::InvalidArgument, message, reason::INVALID_FIELD, metadata),
    }
}

/// An update or delete asked for a version of a profile that does not exist at all.
pub fn etag_of_absent() -> Status {
    let message = "the profile does not exist, so it cannot have this etag";
    status(Code::Aborted, message, reason::ETAG_MISMATCH, &[("current_etag", String::new())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Etag;
    use crate::store::Corruption;

    #[test]
    fn each_failure_has_its_code_and_reason() {
        let rejected = |rejection| StoreError::Rejected { index: 3, rejection };
        let etag = Etag::from_caller("e".into());
        let secret = || "secret".to_owned();
        let table = [
            (rejected(Rejection::NotFound), Code::NotFound, "PROFILE_NOT_FOUND"),
            (rejected(Rejection::AlreadyExists), Code::AlreadyExists, "PROFILE_EXISTS"),
            (rejected(Rejection::EmailInUse), Code::AlreadyExists, "EMAIL_IN_USE"),
            (rejected(Rejection::EtagMismatch { current: etag }), Code::Aborted, "ETAG_MISMATCH"),
            (rejected(Rejection::Invalid(Violations::one("f", "d"))), Code::InvalidArgument, "INVALID_FIELD"),
            (rejected(Rejection::DuplicateId), Code::InvalidArgument, "INVALID_FIELD"),
            (StoreError::TooLarge { bytes: 2, limit: 1 }, Code::InvalidArgument, "TOO_LARGE"),
            (StoreError::InvalidCursor, Code::InvalidArgument, "INVALID_PAGE_TOKEN"),
            (StoreError::Overloaded, Code::ResourceExhausted, "OVERLOADED"),
            (StoreError::Closed, Code::Unavailable, "DRAINING"),
            (StoreError::Failed { cause: secret() }, Code::Unavailable, "STORE_FAILED"),
            (StoreError::Corrupt(Corruption(secret())), Code::DataLoss, "CORRUPT_RECORD"),
        ];
        for (error, code, reason) in table {
            let status = store_error(error.clone());
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{error:?}");
            assert_eq!(info.domain, "profilestore");
            let retryable = matches!(code, Code::ResourceExhausted | Code::Unavailable);
            assert_eq!(details.retry_info().is_some(), retryable, "{error:?}");
            assert!(!status.message().contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn an_etag_mismatch_tells_the_current_etag() {
        let current = Etag::from_caller("now".into());
        let status = rejection(Rejection::EtagMismatch { current });
        assert_eq!(status.get_error_details().error_info().unwrap().metadata["current_etag"], "now");
    }
}
