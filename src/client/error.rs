//! What went wrong, as a type of its own for each thing that a caller may want to do about it.
//!
//! Invariant: a failure of the connection, in whatever way the transport names it, is
//! [`ClientError::Unavailable`]; what a server answered keeps the server's code.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no such profile.
    #[error("not found: {0}")]
    NotFound(Box<Cause>),
    /// The id is taken, or the e-mail where e-mails are unique.
    #[error("already exists: {0}")]
    AlreadyExists(Box<Cause>),
    /// The arguments are invalid; nothing was changed.
    #[error("invalid: {cause}")]
    Invalid {
        /// Everything that is wrong.
        violations: Vec<Violation>,
        /// What the server said.
        cause: Box<Cause>,
    },
    /// The profile has changed: it has another etag.
    #[error("aborted: {0}")]
    Aborted(Box<Cause>),
    /// The message is too large, or a token is older than what is kept.
    #[error("out of range: {0}")]
    OutOfRange(Box<Cause>),
    /// The server has too much to do, or (`DISK_LOW`) no room on its disk for writes. Nothing was changed; the same call may
    /// work later.
    #[error("overloaded: {0}")]
    Overloaded(Box<Cause>),
    /// The server cannot be reached or does not serve, also after the repetitions. A write may have been made.
    #[error("unavailable: {0}")]
    Unavailable(Box<Cause>),
    /// There was no answer in time. A write may have been made.
    #[error("deadline exceeded: {0}")]
    DeadlineExceeded(Box<Cause>),
    /// Stored data is damaged.
    #[error("data loss: {0}")]
    DataLoss(Box<Cause>),
    /// This server does not serve the call.
    #[error("unimplemented: {0}")]
    Unimplemented(Box<Cause>),
    /// The caller is not known or not allowed.
    #[error("denied: {0}")]
    Denied(Box<Cause>),
    /// The server gave the call up.
    #[error("cancelled: {0}")]
    Cancelled(Box<Cause>),
    /// A mistake in the server or in this client.
    #[error("internal: {0}")]
    Internal(Box<Cause>),
}

/// What is known of a failure.
#[derive(Debug, Clone)]
pub struct Cause {
    code: Code,
    reason: String,
    message: String,
    metadata: BTreeMap<String, String>,
    retry_after: Option<Duration>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// One thing that is wrong with the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field from the request's root, for example `profile.email`.
    pub field: String,
    /// What is wrong with it, for example `must contain @`.
    pub description: String,
}

impl Violation {
    pub(super) fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

impl ClientError {
    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.cause().code
    }

    /// The stable reason, for example `ETAG_MISMATCH`; empty when the failure is not the server's answer.
    pub fn reason(&self) -> &str {
        &self.cause().reason
    }

    /// The variable parts of the failure, for example `current_etag` or the `index` of a write in its batch.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.cause().metadata
    }

    /// What is wrong with the arguments; empty unless they are invalid.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid { violations, .. } => violations,
            _ => &[],
        }
    }

    /// How long the server asked to wait before the call is repeated.
    pub fn retry_after(&self) -> Option<Duration> {
        self.cause().retry_after
    }

    fn cause(&self) -> &Cause {
        match self {
            Self::Invalid { cause, .. }
            | Self::NotFound(cause)
            | Self::AlreadyExists(cause)
            | Self::Aborted(cause)
            | Self::OutOfRange(cause)
            | Self::Overloaded(cause)
            | Self::Unavailable(cause)
            | Self::DeadlineExceeded(cause)
            | Self::DataLoss(cause)
            | Self::Unimplemented(cause)
            | Self::Denied(cause)
            | Self::Cancelled(cause)
            | Self::Internal(cause) => cause,
        }
    }

    /// Whether nothing but the way to the server, or its readiness, was at fault.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// What this client found wrong by itself.
    pub(super) fn invalid(violations: Vec<Violation>) -> Self {
        let texts: Vec<_> = violations.iter().map(|each| format!("{} {}", each.field, each.description)).collect();
        Self::new(Code::InvalidArgument, texts.join(", "), violations)
    }

    /// The server did not answer in time; `last` is what an earlier attempt met.
    pub(super) fn too_late(deadline: Duration, last: Option<&Self>) -> Self {
        let message = match last {
            Some(last) => format!("there was no answer within {deadline:?}, after an attempt that failed: {last}"),
            None => format!("there was no answer within {deadline:?}"),
        };
        Self::new(Code::DeadlineExceeded, message, Vec::new())
    }

    /// A stream ended that should have gone on.
    pub(super) fn ended_early() -> Self {
        Self::new(Code::Unavailable, "the server ended the stream early".to_owned(), Vec::new())
    }

    /// The server broke its contract.
    pub(super) fn contract_broken(message: String) -> Self {
        Self::new(Code::Internal, message, Vec::new())
    }

    fn new(code: Code, message: String, violations: Vec<Violation>) -> Self {
        let cause = Cause { code, reason: String::new(), message, metadata: BTreeMap::new(), retry_after: None };
        Self::of(cause, violations)
    }

    pub(super) fn from_status(status: &Status) -> Self {
        if let Some(cause) = status.source() {
            return Self::from_transport(cause);
        }
        let details = status.get_error_details();
        let info = details.error_info();
        let violation = |each: &tonic_types::FieldViolation| Violation::new(&each.field, &each.description);
        let violations = details.bad_request().map(|bad| bad.field_violations.iter().map(violation).collect());
        let cause = Cause {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        };
        Self::of(cause, violations.unwrap_or_default())
    }

    /// A failure that no server answered: only such a status has a source.
    fn from_transport(cause: &(dyn Error + 'static)) -> Self {
        let mut chain = vec![cause];
        let mut last = cause;
        while let Some(source) = last.source() {
            chain.push(source);
            last = source;
        }
        if chain.iter().any(|error| error.is::<TimeoutExpired>()) {
            return Self::new(Code::DeadlineExceeded, "there was no answer in time".to_owned(), Vec::new());
        }
        // The transport's own words get more exact from cause to cause.
        Self::new(Code::Unavailable, format!("the connection failed: {last}"), Vec::new())
    }

    fn of(cause: Cause, violations: Vec<Violation>) -> Self {
        let code = cause.code;
        let cause = Box::new(cause);
        match code {
            Code::NotFound => Self::NotFound(cause),
            Code::AlreadyExists => Self::AlreadyExists(cause),
            Code::InvalidArgument => Self::Invalid { violations, cause },
            Code::Aborted => Self::Aborted(cause),
            Code::OutOfRange => Self::OutOfRange(cause),
            Code::ResourceExhausted => Self::Overloaded(cause),
            Code::Unavailable => Self::Unavailable(cause),
            Code::DeadlineExceeded => Self::DeadlineExceeded(cause),
            Code::DataLoss => Self::DataLoss(cause),
            Code::Unimplemented => Self::Unimplemented(cause),
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied(cause),
            Code::Cancelled => Self::Cancelled(cause),
            Code::Ok | Code::Unknown | Code::FailedPrecondition | Code::Internal => Self::Internal(cause),
        }
    }
}
