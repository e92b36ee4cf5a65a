//! The table from failure to status, row by row.

use super::*;
use crate::model::Etag;
use crate::store::Position;

/// What a status must be.
struct Row {
    code: Code,
    reason: &'static str,
    metadata: &'static [(&'static str, &'static str)],
    fields: &'static [&'static str],
    retry: bool,
}

const fn row(code: Code, reason: &'static str) -> Row {
    Row { code, reason, metadata: &[], fields: &[], retry: false }
}

const ID: (&str, &str) = ("id", "user-1");

fn id() -> ProfileId {
    ProfileId::parse("user-1", "id").unwrap()
}

fn single(rejection: Rejection) -> RpcError {
    RpcError::Rejected { id: id(), index: None, rejection }
}

fn batch(rejection: Rejection) -> RpcError {
    RpcError::Rejected { id: id(), index: Some(3), rejection }
}

fn mismatch() -> Rejection {
    Rejection::EtagMismatch { current: Etag::from_caller("now".into()) }
}

fn two_violations() -> Violations {
    let mut violations = Violations::one("profile.email", "is wrong");
    violations.add("profile.id", "is wrong too");
    violations
}

fn table() -> Vec<(RpcError, Row)> {
    use Code::*;
    const TWO: &[&str] = &["profile.email", "profile.id"];
    let decode_error = || <crate::pb::Profile as prost::Message>::decode(&b"\xff"[..]).unwrap_err();
    let invalid = row(InvalidArgument, "INVALID_FIELD");
    vec![
        (RpcError::Invalid(two_violations()), Row { fields: TWO, ..invalid }),
        (RpcError::InvalidPageToken, Row { fields: &["page_token"], ..row(InvalidArgument, "INVALID_PAGE_TOKEN") }),
        (RpcError::Malformed(decode_error()), row(InvalidArgument, "MALFORMED_REQUEST")),
        (RpcError::MessageTooSlow, row(DeadlineExceeded, "DEADLINE")),
        (
            RpcError::TooManyFields,
            Row { metadata: &[("limit", "20000")], ..row(InvalidArgument, "MALFORMED_REQUEST") },
        ),
        (
            RpcError::AnswerTooLarge { bytes: 9, limit: 8 },
            Row { metadata: &[("bytes", "9"), ("limit", "8")], ..row(OutOfRange, "ANSWER_TOO_LARGE") },
        ),
        (RpcError::NotFound { id: id() }, Row { metadata: &[ID], ..row(NotFound, "PROFILE_NOT_FOUND") }),
        (RpcError::EtagOfAbsent { id: id(), index: None }, Row { metadata: &[ID], ..row(Aborted, "ETAG_MISMATCH") }),
        (RpcError::DeadlineExceeded, row(DeadlineExceeded, "DEADLINE")),
        (single(Rejection::NotFound), Row { metadata: &[ID], ..row(NotFound, "PROFILE_NOT_FOUND") }),
        (single(Rejection::AlreadyExists), Row { metadata: &[ID], ..row(AlreadyExists, "PROFILE_EXISTS") }),
        (single(Rejection::EmailInUse), Row { metadata: &[ID], ..row(AlreadyExists, "EMAIL_IN_USE") }),
        (single(mismatch()), Row { metadata: &[("current_etag", "now"), ID], ..row(Aborted, "ETAG_MISMATCH") }),
        (
            single(Rejection::Invalid(two_violations())),
            Row { metadata: &[ID], fields: TWO, ..row(InvalidArgument, "INVALID_FIELD") },
        ),
        (batch(Rejection::NotFound), Row { metadata: &[ID, ("index", "3")], ..row(NotFound, "PROFILE_NOT_FOUND") }),
        (
            batch(mismatch()),
            Row { metadata: &[("current_etag", "now"), ID, ("index", "3")], ..row(Aborted, "ETAG_MISMATCH") },
        ),
        (
            batch(Rejection::DuplicateId),
            Row { metadata: &[ID, ("index", "3")], fields: &["writes[3]"], ..row(InvalidArgument, "INVALID_FIELD") },
        ),
        (
            RpcError::Store(StoreError::TooManyWrites { writes: 9, limit: 8 }),
            Row {
                metadata: &[("limit", "8"), ("writes", "9")],
                fields: &["writes"],
                ..row(InvalidArgument, "INVALID_FIELD")
            },
        ),
        (
            RpcError::Store(StoreError::TooLarge { bytes: 9, limit: 8 }),
            Row {
                metadata: &[("bytes", "9"), ("limit", "8")],
                fields: &["writes"],
                ..row(InvalidArgument, "INVALID_FIELD")
            },
        ),
        (RpcError::InvalidCursor, Row { fields: &["cursor"], ..row(InvalidArgument, "INVALID_PAGE_TOKEN") }),
        (
            RpcError::InvalidResumeToken,
            Row { fields: &["resume_token"], ..row(InvalidArgument, "INVALID_PAGE_TOKEN") },
        ),
        (
            RpcError::FeedTruncated { oldest_token: "old".into() },
            Row { metadata: &[("oldest_token", "old")], ..row(OutOfRange, "FEED_TRUNCATED") },
        ),
        (
            RpcError::TooManyWatchers { limit: 5 },
            Row { metadata: &[("limit", "5")], retry: true, ..row(ResourceExhausted, "OVERLOADED") },
        ),
        (
            RpcError::WatchersLeftToOthers { limit: 5 },
            Row { metadata: &[("limit", "5")], retry: true, ..row(ResourceExhausted, "OVERLOADED") },
        ),
        (
            RpcError::Store(StoreError::InvalidPosition),
            Row { fields: &["resume_token"], ..row(InvalidArgument, "INVALID_PAGE_TOKEN") },
        ),
        (
            RpcError::Store(StoreError::Truncated { oldest: Position::new(b"p").unwrap() }),
            row(OutOfRange, "FEED_TRUNCATED"),
        ),
        (RpcError::RepeatedAndGone, row(NotFound, "PROFILE_NOT_FOUND")),
        (
            RpcError::Store(StoreError::Rejected { index: 3, rejection: Rejection::EmailInUse }),
            Row { metadata: &[("index", "3")], ..row(AlreadyExists, "EMAIL_IN_USE") },
        ),
        (
            RpcError::Store(StoreError::RequestIdReused),
            Row { fields: &["request_id"], ..row(InvalidArgument, "REQUEST_ID_REUSED") },
        ),
        (
            RpcError::Store(StoreError::InvalidCursor),
            Row { fields: &["page_token"], ..row(InvalidArgument, "INVALID_PAGE_TOKEN") },
        ),
        (RpcError::Store(StoreError::Overloaded), Row { retry: true, ..row(ResourceExhausted, "OVERLOADED") }),
        (
            RpcError::Store(StoreError::TooManyHolds { limit: 9 }),
            Row { metadata: &[("limit", "9")], retry: true, ..row(ResourceExhausted, "OVERLOADED") },
        ),
        (RpcError::Store(StoreError::DiskLow), Row { retry: true, ..row(ResourceExhausted, "DISK_LOW") }),
        (RpcError::Store(StoreError::Closed), Row { retry: true, ..row(Unavailable, "DRAINING") }),
        (
            RpcError::Store(StoreError::Failed { cause: "SECRET".into() }),
            Row { retry: true, ..row(Unavailable, "STORE_FAILED") },
        ),
        (RpcError::Store(StoreError::Corrupt(Corruption("SECRET".into()))), row(DataLoss, "CORRUPT_RECORD")),
    ]
}

#[test]
fn every_failure_has_its_code_its_reason_and_its_details() {
    for (error, expected) in table() {
        let name = format!("{error:?}");
        let status = Status::from(error);
        assert_eq!(status.code(), expected.code, "{name}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), (ERROR_DOMAIN, expected.reason), "{name}");
        let mut metadata: Vec<_> = info.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        metadata.sort_unstable();
        assert_eq!(metadata, expected.metadata, "{name}");
        let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, expected.fields, "{name}");
        assert_eq!(details.retry_info().is_some(), expected.retry, "{name}");
        assert!(!status.message().is_empty() && !format!("{status:?}").contains("SECRET"), "{name}");
    }
}

#[test]
fn the_message_has_the_first_violation_and_counts_the_others() {
    assert_eq!(Status::from(RpcError::Invalid(two_violations())).message(), "profile.email is wrong (and 1 more)");
}

#[test]
fn violations_never_outgrow_what_clients_take_in_headers() {
    let mut violations = Violations::new();
    for index in 0..1000 {
        violations.add(format!("ids[{index}]"), "must be printable ASCII without spaces (0x21 to 0x7E)");
    }
    let status = Status::from(RpcError::Invalid(violations));
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(bytes < 8 * 1024, "{bytes}");
    let details = status.get_error_details();
    let listed = details.bad_request().unwrap().field_violations.len();
    let omitted: usize = details.error_info().unwrap().metadata["omitted_violations"].parse().unwrap();
    assert_eq!(listed + omitted, 1000);
    assert!(listed >= 50);
}
