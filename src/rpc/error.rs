//! The one place where a failure becomes a gRPC status.
//!
//! | failure | code | reason |
//! |---|---|---|
//! | invalid argument | `INVALID_ARGUMENT` + `BadRequest` | `INVALID_FIELD` |
//! | damaged or foreign page token | `INVALID_ARGUMENT` + `BadRequest` | `INVALID_PAGE_TOKEN` |
//! | request id of another request | `INVALID_ARGUMENT` + `BadRequest` | `REQUEST_ID_REUSED` |
//! | undecodable message | `INVALID_ARGUMENT` | `MALFORMED_REQUEST` |
//! | more profiles than one answer holds | `OUT_OF_RANGE` | `ANSWER_TOO_LARGE` |
//! | damaged or foreign resume token | `INVALID_ARGUMENT` + `BadRequest` | `INVALID_PAGE_TOKEN` |
//! | resume token older than what is kept | `OUT_OF_RANGE` | `FEED_TRUNCATED` |
//! | absent | `NOT_FOUND` | `PROFILE_NOT_FOUND` |
//! | must be absent, is present / e-mail taken | `ALREADY_EXISTS` | `PROFILE_EXISTS` / `EMAIL_IN_USE` |
//! | etag differs | `ABORTED` | `ETAG_MISMATCH` |
//! | queue full, too many watchers | `RESOURCE_EXHAUSTED` + `RetryInfo` | `OVERLOADED` |
//! | disk nearly full | `RESOURCE_EXHAUSTED` + `RetryInfo` | `DISK_LOW` |
//! | draining, engine closed after a failed write | `UNAVAILABLE` + `RetryInfo` | `DRAINING`, `STORE_FAILED` |
//! | checksum or format wrong | `DATA_LOSS` | `CORRUPT_RECORD` |
//! | deadline | `DEADLINE_EXCEEDED` | `DEADLINE` |
//! | a store that cannot be backed up | `UNIMPLEMENTED` | `NOT_IMPLEMENTED` |
//!
//! Invariants: every status has an `ErrorInfo` with the domain [`ERROR_DOMAIN`]. Internal causes never reach
//! the caller: damaged data is logged here, a failed store by itself when it fails. No e-mail, name or attribute reaches a message or its metadata;
//! an id does only when the caller sent it.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::model::limits::MAX_MESSAGE_FIELDS;
use crate::model::{ProfileId, Rejection, Violations};
use crate::store::{Corruption, StoreError};

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "profilestore";

/// How long a caller should wait before it repeats a call that met a full queue.
const RETRY_WHEN_OVERLOADED: Duration = Duration::from_millis(100);
/// How long a caller should wait for another server, or for this one's restart.
const RETRY_WHEN_UNAVAILABLE: Duration = Duration::from_secs(1);
/// How long a caller should wait before it repeats a write that met a full disk: room is made by people.
const RETRY_WHEN_DISK_LOW: Duration = Duration::from_secs(10);
/// The most bytes of violations in one status. They travel in a header, and clients refuse headers of more
/// than 8 to 16 KiB: with all of a thousand bad ids the caller would see no error at all.
const MAX_VIOLATION_BYTES: usize = 4096;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Arguments are invalid.
    #[error("{0}")]
    Invalid(#[from] Violations),
    /// The page token is damaged, or another call gave it.
    #[error("the page token is not one of this call's")]
    InvalidPageToken,
    /// The cursor of an export is damaged, or another call gave it.
    #[error("the cursor is not one of this call's")]
    InvalidCursor,
    /// The resume token of a watch is damaged, or another watch gave it.
    #[error("the resume token is not one of this call's")]
    InvalidResumeToken,
    /// The changes after a resume token are no longer kept.
    #[error("the changes after the resume token are no longer kept")]
    FeedTruncated {
        /// The oldest token that a watch with the same arguments still goes on from.
        oldest_token: String,
    },
    /// There are as many watchers as there may be.
    #[error("there are too many watchers")]
    TooManyWatchers {
        /// The bound.
        limit: usize,
    },
    /// The connection has as many watchers as it leaves places for others.
    #[error("the connection has too many watchers")]
    WatchersLeftToOthers {
        /// The bound on all.
        limit: usize,
    },
    /// The request is not the message that it should be.
    #[error("{0}")]
    Malformed(prost::DecodeError),
    /// The request has more fields than any call allows.
    #[error("the message has more than {MAX_MESSAGE_FIELDS} fields")]
    TooManyFields,
    /// A message of the request was begun and did not come to its end in time.
    #[error("the request did not come in time")]
    MessageTooSlow,
    /// What was asked for takes more than one answer may.
    #[error("the answer would have {bytes} bytes; at most {limit} are sent in one")]
    AnswerTooLarge {
        /// The size of the answer, in bytes.
        bytes: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// There is no such profile.
    #[error("there is no such profile")]
    NotFound {
        /// The id that the caller asked for.
        id: ProfileId,
    },
    /// An etag was given for a profile that does not exist.
    #[error("an etag was given and there is no such profile")]
    EtagOfAbsent {
        /// The id that the caller sent.
        id: ProfileId,
        /// The write's place in its batch, from 0; `None` for a single write.
        index: Option<usize>,
    },
    /// The request was made before, and the profile was deleted since.
    #[error("the request was made before and its profile is gone")]
    RepeatedAndGone,
    /// The store refused a write.
    #[error("{rejection}")]
    Rejected {
        /// The id that the caller sent.
        id: ProfileId,
        /// The write's place in its batch, from 0; `None` for a single write.
        index: Option<usize>,
        /// Why.
        rejection: Rejection,
    },
    /// The store failed, or refused a whole commit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's deadline has passed.
    #[error("the deadline has passed")]
    DeadlineExceeded,
}

impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        error.answer().into_status()
    }
}

impl RpcError {
    /// The code, the reason and the message of this failure, for a part of a call that as a whole goes on.
    pub fn parts(self) -> (Code, &'static str, String) {
        let Answer { code, reason, message, .. } = self.answer();
        (code, reason, message)
    }

    fn answer(self) -> Answer {
        match self {
            Self::Invalid(violations) => Answer::invalid(violations),
            Self::InvalidPageToken => invalid_page_token(),
            Self::InvalidCursor => {
                let description = "must be the cursor of an export with the same arguments";
                let answer = Answer::invalid(Violations::one("cursor", description));
                Answer { reason: "INVALID_PAGE_TOKEN", ..answer }
            }
            Self::InvalidResumeToken => invalid_resume_token(),
            Self::FeedTruncated { oldest_token } => feed_truncated().with("oldest_token", oldest_token),
            Self::TooManyWatchers { limit } => {
                let message = format!("there are {limit} watchers already; repeat a little later");
                Answer::new(Code::ResourceExhausted, "OVERLOADED", message)
                    .with("limit", limit)
                    .retry_after(RETRY_WHEN_UNAVAILABLE)
            }
            Self::WatchersLeftToOthers { limit } => {
                let message = format!(
                    "of {limit} watchers a connection has at most as many as it leaves to others; \
                     use another connection, or repeat later"
                );
                Answer::new(Code::ResourceExhausted, "OVERLOADED", message)
                    .with("limit", limit)
                    .retry_after(RETRY_WHEN_UNAVAILABLE)
            }
            // The text names a message and a field, never a value.
            Self::Malformed(error) => Answer::new(Code::InvalidArgument, "MALFORMED_REQUEST", error.to_string()),
            Self::MessageTooSlow => Answer::new(Code::DeadlineExceeded, "DEADLINE", self.to_string()),
            Self::TooManyFields => Answer::new(Code::InvalidArgument, "MALFORMED_REQUEST", self.to_string())
                .with("limit", MAX_MESSAGE_FIELDS),
            Self::AnswerTooLarge { bytes, limit } => {
                let message = format!("{self}; ask for fewer profiles at once, or for some of their fields");
                Answer::new(Code::OutOfRange, "ANSWER_TOO_LARGE", message).with("bytes", bytes).with("limit", limit)
            }
            Self::NotFound { id } => rejected(Rejection::NotFound, None).with("id", id),
            Self::EtagOfAbsent { id, index } => {
                Answer::new(Code::Aborted, "ETAG_MISMATCH", "an etag was given and there is no such profile")
                    .with("id", id)
                    .at(index)
            }
            Self::RepeatedAndGone => {
                let message = "the request was made before, and its profile has been deleted since";
                Answer::new(Code::NotFound, "PROFILE_NOT_FOUND", message)
            }
            Self::Rejected { id, index, rejection } => rejected(rejection, index).with("id", id).at(index),
            Self::Store(error) => store_error(error),
            Self::DeadlineExceeded => {
                Answer::new(Code::DeadlineExceeded, "DEADLINE", "the call's deadline has passed")
            }
        }
    }
}

fn store_error(error: StoreError) -> Answer {
    match error {
        StoreError::Rejected { index, rejection } => rejected(rejection, Some(index)).at(Some(index)),
        StoreError::RequestIdReused => {
            let description = "was used for another request; every request needs an id of its own";
            let answer = Answer::invalid(Violations::one("request_id", description));
            Answer { reason: "REQUEST_ID_REUSED", ..answer }
        }
        StoreError::TooLarge { bytes, limit } => {
            let description = format!("take {bytes} bytes encoded; at most {limit} are allowed in one commit");
            Answer::invalid(Violations::one("writes", description)).with("bytes", bytes).with("limit", limit)
        }
        StoreError::TooManyWrites { writes, limit } => {
            let description = format!("has {writes} writes; at most {limit} are allowed in one commit");
            Answer::invalid(Violations::one("writes", description)).with("writes", writes).with("limit", limit)
        }
        StoreError::InvalidCursor => invalid_page_token(),
        StoreError::InvalidPosition => invalid_resume_token(),
        StoreError::Truncated { .. } => feed_truncated(),
        StoreError::TooManyHolds { limit } => Answer::new(Code::ResourceExhausted, "OVERLOADED", error.to_string())
            .with("limit", limit)
            .retry_after(RETRY_WHEN_UNAVAILABLE),
        StoreError::Overloaded => {
            Answer::new(Code::ResourceExhausted, "OVERLOADED", "too many calls are waiting; repeat a little later")
                .retry_after(RETRY_WHEN_OVERLOADED)
        }
        StoreError::DiskLow => {
            let message = "the server's disk is nearly full; writes are taken again when there is room";
            Answer::new(Code::ResourceExhausted, "DISK_LOW", message).retry_after(RETRY_WHEN_DISK_LOW)
        }
        StoreError::NoBackups => {
            Answer::new(Code::Unimplemented, "NOT_IMPLEMENTED", "the store of this server cannot be backed up")
        }
        StoreError::Closed => Answer::new(Code::Unavailable, "DRAINING", "the server is shutting down")
            .retry_after(RETRY_WHEN_UNAVAILABLE),
        StoreError::Failed { cause } => {
            // The store logged it when it happened; a line for each refused call would only flood the log.
            tracing::debug!(cause, "a call failed because the store has failed");
            let message =
                "the store has failed and must be restarted; whether the write was made is unknown until then";
            Answer::new(Code::Unavailable, "STORE_FAILED", message).retry_after(RETRY_WHEN_UNAVAILABLE)
        }
        StoreError::Corrupt(Corruption(cause)) => {
            tracing::error!(cause, "a call met damaged data");
            Answer::new(Code::DataLoss, "CORRUPT_RECORD", "stored data is damaged")
        }
    }
}

/// The code, the reason and the message of a refused profile of an import.
pub fn rejection_parts(rejection: Rejection) -> (Code, &'static str, String) {
    let Answer { code, reason, message, .. } = rejected(rejection, None);
    (code, reason, message)
}

/// `index` is the write's place in its batch; a single write has none.
fn rejected(rejection: Rejection, index: Option<usize>) -> Answer {
    match rejection {
        Rejection::NotFound => Answer::new(Code::NotFound, "PROFILE_NOT_FOUND", "there is no such profile"),
        Rejection::AlreadyExists => {
            Answer::new(Code::AlreadyExists, "PROFILE_EXISTS", "there already is a profile with this id")
        }
        Rejection::EmailInUse => Answer::new(Code::AlreadyExists, "EMAIL_IN_USE", "another profile has this e-mail"),
        Rejection::EtagMismatch { current } => {
            Answer::new(Code::Aborted, "ETAG_MISMATCH", "the profile has changed: it has another etag")
                .with("current_etag", current.as_str())
        }
        Rejection::Invalid(violations) => Answer::invalid(violations),
        Rejection::DuplicateId => {
            let field = index.map_or_else(|| "writes".to_owned(), |index| format!("writes[{index}]"));
            Answer::invalid(Violations::one(field, "is about a profile that an earlier write of the batch is about"))
        }
    }
}

fn invalid_page_token() -> Answer {
    let description = "must be the next_page_token of a call with the same arguments";
    let answer = Answer::invalid(Violations::one("page_token", description));
    Answer { reason: "INVALID_PAGE_TOKEN", ..answer }
}

fn invalid_resume_token() -> Answer {
    let description = "must be the resume_token of a watch of this store with the same domain and include_subdomains";
    let answer = Answer::invalid(Violations::one("resume_token", description));
    Answer { reason: "INVALID_PAGE_TOKEN", ..answer }
}

fn feed_truncated() -> Answer {
    let message = "the changes after the resume token are not kept, or the store was restored since; start anew, or at the oldest token";
    Answer::new(Code::OutOfRange, "FEED_TRUNCATED", message)
}

/// A status in the making.
struct Answer {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    violations: Violations,
    retry_after: Option<Duration>,
}

impl Answer {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: HashMap::new(),
            violations: Violations::new(),
            retry_after: None,
        }
    }

    /// The message has the first violation, the details have all.
    fn invalid(violations: Violations) -> Self {
        let first = violations.iter().next();
        let mut message = first.map_or_else(
            || "the request is invalid".to_owned(),
            |violation| format!("{} {}", violation.field, violation.description),
        );
        let others = violations.iter().count().saturating_sub(1);
        if others > 0 {
            message.push_str(&format!(" (and {others} more)"));
        }
        Self { violations, ..Self::new(Code::InvalidArgument, "INVALID_FIELD", message) }
    }

    fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Names the write of a batch that is to blame.
    fn at(mut self, index: Option<usize>) -> Self {
        let Some(index) = index else { return self };
        // The path of a violation says so already.
        if self.violations.is_empty() {
            self.message = format!("writes[{index}]: {}", self.message);
        }
        self.with("index", index)
    }

    fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    fn into_status(mut self) -> Status {
        let mut details = ErrorDetails::new();
        let (mut room, mut omitted) = (MAX_VIOLATION_BYTES, 0);
        for violation in self.violations.iter() {
            let bytes = violation.field.len() + violation.description.len();
            if bytes > room {
                omitted += 1;
                continue;
            }
            room -= bytes;
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
        if omitted > 0 {
            self.metadata.insert("omitted_violations".to_owned(), omitted.to_string());
        }
        details.set_error_info(self.reason, ERROR_DOMAIN, self.metadata);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
