//! Changes as messages: subjects, and CloudEvents 1.0 in the structured JSON form.
//!
//! ```text
//! profiles.put.com.example.mail      the prefix, what happened, the domain's labels from the last to the first
//! profiles.put._                     a profile without an e-mail
//! ```
//!
//! A change that moves a profile to another domain is two messages: `left` for the domain before and then `put` for
//! the new one, so that who listens to one domain only hears of both. Invariants: the same change always makes the same
//! messages with the same ids; no two messages have the same `sequence`, and a later one of a profile has a larger one; without [`MessageOptions::include_profile`] a message has nothing of a profile but its id, its
//! domain and its etag.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;

use crate::model::{Domain, IndexKey, ProfileId, Record};
use crate::pb::Profile;
use crate::store::{CommittedChange, Corruption, Position, StoreError};

/// Stands for the domain of a profile without an e-mail. No label is the same: labels have no underscores.
const NO_DOMAIN: &str = "_";
/// The content type of a message.
#[cfg(feature = "nats")]
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// What messages look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageOptions {
    /// What all subjects begin with.
    pub subject: String,
    /// The `source` of all events.
    pub source: String,
    /// Whether a `put` holds the whole profile, which is personal data.
    pub include_profile: bool,
}

/// A message for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub subject: String,
    /// The event's id, by which a broker drops what it has already.
    pub id: String,
    /// The event.
    pub payload: Bytes,
}

/// What happened, as in the public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    Left,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Left => "left",
        }
    }

    /// Sorts the events of one change: `left` goes before the `put` of the same move.
    fn place_in_change(self) -> &'static str {
        match self {
            Self::Left => "00",
            Self::Put | Self::Delete => "01",
        }
    }
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    /// All events of a store sort by it: the change's position, and the place among the change's events.
    sequence: String,
    /// The trace of the write, if it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<WholeProfile<'a>>,
}

/// A profile in the proto's JSON form.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WholeProfile<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    email: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    display_name: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    domain: &'a str,
    etag: &'a str,
    create_time: Option<String>,
    update_time: Option<String>,
}

impl<'a> WholeProfile<'a> {
    fn new(profile: &'a Profile) -> Self {
        Self {
            id: &profile.id,
            email: &profile.email,
            display_name: &profile.display_name,
            attributes: &profile.attributes,
            domain: &profile.domain,
            etag: &profile.etag,
            create_time: profile.create_time.as_ref().map(ToString::to_string),
            update_time: profile.update_time.as_ref().map(ToString::to_string),
        }
    }
}

/// The messages of a change, in order: one, or two for a move to another domain.
pub fn messages(change: &CommittedChange, options: &MessageOptions) -> Result<Vec<Message>, StoreError> {
    let profile = change.record.as_ref().map(Record::decode).transpose();
    let profile = profile.map_err(|_| StoreError::Corrupt(Corruption("a logged record is not a profile".into())))?;
    let now = change.record.as_ref().and_then(Record::index_key).as_ref().map(domain_of);
    let before = change.previous_index_key.as_ref().map(domain_of);
    let Some(profile) = &profile else {
        return Ok(vec![message(change, Kind::Delete, before.as_ref(), None, options)]);
    };
    let left = before.filter(|before| now.as_ref() != Some(before));
    let left = left.map(|left| message(change, Kind::Left, Some(&left), None, options));
    let put = message(change, Kind::Put, now.as_ref(), Some(profile), options);
    Ok(left.into_iter().chain([put]).collect())
}

fn domain_of(key: &IndexKey) -> Domain {
    key.domain_key().domain()
}

fn message(
    change: &CommittedChange,
    kind: Kind,
    domain: Option<&Domain>,
    profile: Option<&Profile>,
    options: &MessageOptions,
) -> Message {
    let id = event_id(&change.position, kind);
    let event = CloudEvent {
        specversion: "1.0",
        id: &id,
        source: &options.source,
        r#type: format!("profilestore.profile.{}", kind.name()),
        subject: ProfileId::as_str(&change.id),
        time: change.time.to_timestamp().to_string(),
        datacontenttype: "application/json",
        sequence: hex(change.position.as_bytes()) + kind.place_in_change(),
        traceparent: change.trace.map(|trace| trace.to_string()),
        data: Data {
            id: change.id.as_str(),
            domain: domain.map(Domain::as_str),
            etag: profile.map(|profile| profile.etag.as_str()),
            profile: profile.filter(|_| options.include_profile).map(WholeProfile::new),
        },
    };
    // Writing strings and maps of strings to memory cannot fail.
    let payload = serde_json::to_vec(&event).unwrap_or_default().into();
    Message { subject: subject(&options.subject, kind, domain), id, payload }
}

/// The change's position as the API shows it; what a domain is left with is another event of the same change.
fn event_id(position: &Position, kind: Kind) -> String {
    let position = URL_SAFE_NO_PAD.encode(position.as_bytes());
    if kind == Kind::Left { format!("{position}-left") } else { position }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn subject(prefix: &str, kind: Kind, domain: Option<&Domain>) -> String {
    let mut subject = format!("{prefix}.{}", kind.name());
    let Some(domain) = domain else { return subject + "." + NO_DOMAIN };
    for label in domain.labels_reversed() {
        subject.push('.');
        push_token(&mut subject, label);
    }
    subject
}

/// A label as a token of a subject. Canonical labels are tokens as they are; every other byte (a subject can hold no
/// blanks, wildcards or control characters) becomes `_` and two hexadecimal digits.
fn push_token(subject: &mut String, label: &str) {
    if label.is_empty() {
        subject.push_str("__");
    }
    for byte in label.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            subject.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(subject, "_{byte:02x}");
        }
    }
}

/// Whether a text can stand before all subjects: tokens of letters, digits, hyphens and underscores with dots between.
pub fn is_subject_prefix(prefix: &str) -> bool {
    let is_token = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    prefix.len() <= 128 && prefix.split('.').all(is_token)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Canonicalization, CommitTime, Draft, Etag, Incarnation, Revision};

    fn time() -> CommitTime {
        CommitTime::from_unix_nanos(1_500_000_000)
    }

    fn options(include_profile: bool) -> MessageOptions {
        MessageOptions { subject: "profiles".into(), source: "/here".into(), include_profile }
    }

    fn record(email: &str) -> Record {
        let attributes = [("team".to_owned(), "engines \"1\"".to_owned())].into();
        let profile = Profile {
            id: "ada".into(),
            email: email.into(),
            display_name: "Ada".into(),
            attributes,
            ..Profile::default()
        };
        let draft = Draft::from_profile(profile, Canonicalization::default(), "profile").unwrap();
        let etag = Etag::new(Incarnation(1), Revision(2));
        Record::from_draft(&draft, &etag, time().to_timestamp(), time(), Revision(2))
    }

    fn change(now: Option<&str>, before: Option<&str>) -> CommittedChange {
        CommittedChange {
            position: Position::new(&[0xff, 1]).unwrap(),
            time: time(),
            id: ProfileId::parse("ada", "id").unwrap(),
            record: now.map(record),
            previous_index_key: before.and_then(|email| record(email).index_key()),
            trace: None,
        }
    }

    fn parts(change: &CommittedChange, include_profile: bool) -> Vec<(String, String, Value)> {
        let messages = messages(change, &options(include_profile)).unwrap();
        let parse =
            |message: Message| (message.subject, message.id, serde_json::from_slice(&message.payload).unwrap());
        messages.into_iter().map(parse).collect()
    }

    #[test]
    fn a_put_is_a_cloud_event_without_personal_data() {
        let event = json!({
            "specversion": "1.0", "id": "_wE", "source": "/here", "type": "profilestore.profile.put",
            "subject": "ada", "time": "1970-01-01T00:00:01.500Z", "datacontenttype": "application/json",
            "sequence": "ff0101",
            "data": {"id": "ada", "domain": "mail.x.example", "etag": record("").decode().unwrap().etag},
        });
        let expected = vec![("profiles.put.example.x.mail".into(), "_wE".into(), event)];
        assert_eq!(parts(&change(Some("Ada.L@Mail.X.example"), None), false), expected);
    }

    #[test]
    fn with_the_setting_a_put_has_the_whole_profile_in_the_protos_json() {
        let (.., event) = parts(&change(Some("Ada.L@x.example"), None), true).remove(0);
        let expected = json!({
            "id": "ada", "email": "Ada.L@x.example", "displayName": "Ada", "attributes": {"team": "engines \"1\""},
            "domain": "x.example", "etag": event["data"]["etag"],
            "createTime": "1970-01-01T00:00:01.500Z", "updateTime": "1970-01-01T00:00:01.500Z",
        });
        assert_eq!(event["data"]["profile"], expected);
    }

    #[test]
    fn an_event_goes_on_with_the_trace_of_its_write_if_that_is_recorded() {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let untraced = change(Some("a@x.example"), None);
        let traced = CommittedChange { trace: crate::trace::TraceParent::parse(TRACE), ..untraced.clone() };
        assert_eq!(parts(&traced, false)[0].2["traceparent"], TRACE);
        assert_eq!(parts(&untraced, false)[0].2.get("traceparent"), None);
    }

    #[test]
    fn a_move_is_told_to_the_domain_before_and_to_the_new_one() {
        let subjects = |now, before| -> Vec<_> {
            parts(&change(now, before), true).into_iter().map(|(subject, id, _)| (subject, id)).collect()
        };
        let pair = |subject: &str, id: &str| (subject.to_owned(), id.to_owned());
        let left = pair("profiles.left.example.x", "_wE-left");
        assert_eq!(
            subjects(Some("a@y.example"), Some("a@x.example")),
            [left.clone(), pair("profiles.put.example.y", "_wE")]
        );
        assert_eq!(subjects(Some(""), Some("a@x.example")), [left, pair("profiles.put._", "_wE")]);
        assert_eq!(subjects(Some("b@x.example"), Some("a@x.example")), [pair("profiles.put.example.x", "_wE")]);
        assert_eq!(subjects(None, Some("a@x.example")), [pair("profiles.delete.example.x", "_wE")]);
        assert_eq!(subjects(None, None), [pair("profiles.delete._", "_wE")]);
        let sequences = parts(&change(Some("a@y.example"), Some("a@x.example")), true);
        let sequences: Vec<_> = sequences.iter().map(|(.., event)| event["sequence"].as_str().unwrap()).collect();
        assert_eq!(
            sequences,
            ["ff0100", "ff0101"],
            "who keeps the last one takes the put for newer than what was left"
        );
        let (.., left) = parts(&change(Some("a@y.example"), Some("a@x.example")), true).remove(0);
        assert_eq!(left["data"], json!({"id": "ada", "domain": "x.example"}), "nothing of the new profile");
    }

    #[test]
    fn every_label_is_a_token_and_no_two_are_the_same() {
        let token = |label: &str| {
            let mut token = String::new();
            push_token(&mut token, label);
            token
        };
        assert_eq!(token("xn--bcher-kva"), "xn--bcher-kva");
        let labels = ["a b", "a*", ">", "a.b", "ä", "_", "__", "", "a_20b", "\u{0}", "\r\n", "a-b", "$sys"];
        let tokens: std::collections::HashSet<_> = labels.iter().map(|label| token(label)).collect();
        assert_eq!(tokens.len(), labels.len());
        assert!(tokens.iter().all(|token| is_subject_prefix(token)), "{tokens:?}");
        assert!(!tokens.contains(NO_DOMAIN));
    }

    #[test]
    fn a_prefix_is_tokens_with_dots_between() {
        for good in ["profiles", "a.b-c.D_1", &"x".repeat(128)] {
            assert!(is_subject_prefix(good));
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "$JS.API", "ä", &"x".repeat(129)] {
            assert!(!is_subject_prefix(bad), "{bad:?}");
        }
    }
}
