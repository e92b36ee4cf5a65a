//! The settings of the publisher to a message queue.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::feed::publisher::{Start, is_subject_prefix};

const MIB: u64 = 1024 * 1024;
const DAY: u64 = 24 * 3600;

/// The publisher to a message queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishSettings {
    /// Where the NATS servers are; nothing is published when it is empty.
    pub url: BrokerUrl,
    /// What all subjects begin with.
    pub subject: String,
    /// The stream that messages must go to; it is made if it is missing. Empty: whichever takes the subjects.
    pub stream: String,
    /// The most bytes of a stream that is made here.
    pub stream_max_bytes: u64,
    /// How long a stream that is made here keeps messages.
    #[serde(with = "humantime_serde")]
    pub stream_max_age: Duration,
    /// For how long a stream that is made here knows the ids of messages.
    #[serde(with = "humantime_serde")]
    pub stream_duplicate_window: Duration,
    /// Whether messages hold whole profiles, which are personal data.
    pub include_profile: bool,
    /// Where a publisher begins that has no place in this store yet.
    pub start: Start,
    /// The `source` of the events.
    pub source: String,
    /// The most messages in flight.
    pub max_in_flight: usize,
    /// How long an acknowledgement may take.
    #[serde(with = "humantime_serde")]
    pub ack_timeout: Duration,
    /// A NATS credentials file; empty for none.
    pub credentials_file: PathBuf,
    /// The certificates of the authorities to trust; empty for the system's.
    pub ca_file: PathBuf,
    /// Without a url: give up the place of an earlier publisher, which else holds the log.
    pub forget: bool,
}

impl Default for PublishSettings {
    fn default() -> Self {
        Self {
            url: BrokerUrl::default(),
            subject: "profiles".into(),
            stream: String::new(),
            stream_max_bytes: 1024 * MIB,
            stream_max_age: Duration::from_secs(7 * DAY),
            stream_duplicate_window: Duration::from_secs(120),
            include_profile: false,
            start: Start::Oldest,
            source: "/profilestore".into(),
            max_in_flight: 256,
            ack_timeout: Duration::from_secs(10),
            credentials_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            forget: false,
        }
    }
}

impl PublishSettings {
    /// Names each value that is out of its bounds.
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        let seconds = |from: u64, to: u64| Duration::from_secs(from)..=Duration::from_secs(to);
        if let Err(what) = self.url.check() {
            require(false, &format!("publish.url {what}"));
        }
        require(
            !(self.forget && self.url.is_set()),
            "publish.forget gives up a publisher's place, and with publish.url there is one",
        );
        require(
            is_subject_prefix(&self.subject),
            "publish.subject must be letters, digits, hyphens and underscores with dots between, 128 in all",
        );
        require(
            self.stream.is_empty()
                || (self.stream.len() <= 64 && is_subject_prefix(&self.stream) && !self.stream.contains('.')),
            "publish.stream must be at most 64 letters, digits, hyphens and underscores",
        );
        require(self.stream_max_bytes >= MIB, "publish.stream_max_bytes must be at least 1048576");
        require(
            seconds(60, 3650 * DAY).contains(&self.stream_max_age),
            "publish.stream_max_age must be 1m to 10years",
        );
        require(
            (Duration::from_secs(1)..=self.stream_max_age).contains(&self.stream_duplicate_window),
            "publish.stream_duplicate_window must be 1s to publish.stream_max_age",
        );
        require(
            (1..=256).contains(&self.source.len()) && self.source.bytes().all(|byte| byte.is_ascii_graphic()),
            "publish.source must be a URI reference of 1 to 256 bytes",
        );
        require((1..=4096).contains(&self.max_in_flight), "publish.max_in_flight must be 1 to 4096");
        require(seconds(1, 600).contains(&self.ack_timeout), "publish.ack_timeout must be 1s to 10m");
    }

    #[cfg(feature = "nats")]
    pub(super) fn options(&self) -> crate::feed::publisher::PublisherOptions {
        use crate::feed::publisher::{MessageOptions, PublisherOptions};
        PublisherOptions {
            message: MessageOptions {
                subject: self.subject.clone(),
                source: self.source.clone(),
                include_profile: self.include_profile,
            },
            start: self.start,
            max_in_flight: self.max_in_flight,
        }
    }

    #[cfg(feature = "nats")]
    pub(super) fn broker(&self) -> Result<crate::feed::publisher::nats::NatsOptions, &'static str> {
        use crate::feed::publisher::nats::{NatsOptions, Servers, StreamOptions};
        let file = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        Ok(NatsOptions {
            servers: Servers::parse(&self.url.0)?,
            credentials_file: file(&self.credentials_file),
            ca_file: file(&self.ca_file),
            subject: self.subject.clone(),
            stream: (!self.stream.is_empty()).then(|| StreamOptions {
                name: self.stream.clone(),
                max_bytes: self.stream_max_bytes,
                max_age: self.stream_max_age,
                duplicate_window: self.stream_duplicate_window,
            }),
            ack_timeout: self.ack_timeout,
            max_in_flight: self.max_in_flight,
        })
    }
}

/// The addresses of a broker's servers, which may hold credentials: it is printed without them.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    #[cfg(feature = "nats")]
    fn check(&self) -> Result<(), &'static str> {
        if self.is_set() { crate::feed::publisher::nats::Servers::parse(&self.0).map(|_| ()) } else { Ok(()) }
    }

    #[cfg(not(feature = "nats"))]
    fn check(&self) -> Result<(), &'static str> {
        if self.is_set() { Err("cannot be used: this build has no publisher (feature nats)") } else { Ok(()) }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, url) in self.0.split(',').enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match url.rsplit_once('@') {
                Some((before, host)) => {
                    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
                    write!(f, "{scheme}://***@{host}")?;
                }
                None => f.write_str(url)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_printed() {
        let url = BrokerUrl("nats://ada:secret@one:4222,tls://secret@two,three:4222,a:se@cret@four".into());
        let settings = PublishSettings { url: url.clone(), ..PublishSettings::default() };
        assert_eq!(url.to_string(), "nats://***@one:4222,tls://***@two,three:4222,://***@four");
        for text in [format!("{settings:?}"), serde_json::to_string(&settings).unwrap(), format!("{url:?}")] {
            assert!(!text.contains("secret") && !text.contains("ada") && text.contains("three"), "{text}");
        }
    }

    #[test]
    fn every_value_has_bounds_and_all_that_is_wrong_is_said() {
        let mut wrong = Vec::new();
        let nothing = Duration::ZERO;
        let settings = PublishSettings {
            url: BrokerUrl("ftp://a:secret@b".into()),
            subject: "a b".into(),
            stream: "a.b".into(),
            stream_max_bytes: 0,
            stream_max_age: nothing,
            stream_duplicate_window: nothing,
            source: String::new(),
            max_in_flight: 0,
            ack_timeout: nothing,
            forget: true,
            ..PublishSettings::default()
        };
        settings.check(&mut |holds, what| {
            if !holds {
                wrong.push(what.to_owned())
            }
        });
        assert_eq!(wrong.len(), 10, "{wrong:?}");
        assert!(wrong.iter().all(|what| what.starts_with("publish.") && !what.contains("secret")), "{wrong:?}");
        PublishSettings::default().check(&mut |holds, what| assert!(holds, "{what}"));
    }
}
