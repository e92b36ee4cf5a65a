//! NATS JetStream as the broker.
//!
//! A connection that is lost is given up, and the publisher makes another one with a client of its own. The client that is given
//! up may connect once more before it ends, and send what it had in its queue: such a message is the same as the one that is sent
//! again, with the same id. Invariant: credentials are in no address, no error and no line of a log.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{
    AccountErrorKind, ContextBuilder, CreateStreamErrorKind, GetStreamErrorKind, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, ErrorCode, stream};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;

use super::broker::{Acknowledged, Broker, Delay, Session};
use super::message::{CONTENT_TYPE, Message};

/// How long a connection, and each question about streams, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is probed; it is given up when the third probe has no answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Where the broker is and how it is spoken to.
#[derive(Clone)]
pub struct NatsOptions {
    /// The servers, of one cluster; any will do.
    pub servers: Servers,
    /// A credentials file (JWT and key).
    pub credentials_file: Option<PathBuf>,
    /// A file with the certificates of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// What all subjects begin with.
    pub subject: String,
    /// The stream that all messages must go to; it is made if it is missing. `None`: whichever takes the subjects.
    pub stream: Option<StreamOptions>,
    /// How long an acknowledgement may take.
    pub ack_timeout: Duration,
    /// The most messages in flight.
    pub max_in_flight: usize,
}

/// A stream to be made if it is missing. One that is there is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    /// Its name.
    pub name: String,
    /// The oldest messages go when it has more bytes than this.
    pub max_bytes: u64,
    /// Messages older than this go.
    pub max_age: Duration,
    /// For how long the broker knows the ids of messages, to drop what comes twice.
    pub duplicate_window: Duration,
}

/// Servers, and the credentials that stood in their addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Servers {
    addresses: Vec<ServerAddr>,
    user: Option<String>,
    password: Option<String>,
    names: String,
}

impl Servers {
    /// Reads addresses, `nats://` or `tls://`, separated by commas. All share the credentials of the first that has some:
    /// a user and a password, or a token in the place of the user. The error says nothing of what was given.
    pub fn parse(urls: &str) -> Result<Self, &'static str> {
        const NOT_AN_ADDRESS: &str = "is not an address such as nats://host:4222";
        let mut servers = Self { addresses: Vec::new(), user: None, password: None, names: String::new() };
        for url in urls.split(',').map(str::trim) {
            let given: ServerAddr = url.parse().map_err(|_| NOT_AN_ADDRESS)?;
            if !["nats", "tls"].contains(&given.scheme()) {
                return Err("must begin with nats:// or tls://");
            }
            if servers.user.is_none() {
                servers.user = given.username().map(percent_decoded);
                servers.password = given.password().map(percent_decoded);
            }
            let (scheme, host, port) = (given.scheme(), given.host(), given.port());
            if host.is_empty() {
                return Err(NOT_AN_ADDRESS);
            }
            // The host of an IPv6 address comes without its brackets.
            let name = if host.contains(':') {
                format!("{scheme}://[{host}]:{port}")
            } else {
                format!("{scheme}://{host}:{port}")
            };
            let bare = name.parse().map_err(|_| NOT_AN_ADDRESS)?;
            servers.addresses.push(bare);
            servers.names += if servers.names.is_empty() { "" } else { "," };
            servers.names += &name;
        }
        Ok(servers)
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names)
    }
}

/// A NATS JetStream.
pub struct Nats {
    options: NatsOptions,
    /// How long a connection, and each question about streams, may take.
    patience: Duration,
}

impl Nats {
    /// Connects to nothing yet.
    pub fn new(options: NatsOptions) -> Self {
        Self { options, patience: CONNECT_TIMEOUT }
    }

    async fn connect_options(&self, broken: watch::Sender<Option<Delay>>) -> Result<ConnectOptions, Delay> {
        let NatsOptions { servers, credentials_file, ca_file, subject, .. } = &self.options;
        let mut options = match credentials_file {
            Some(file) => ConnectOptions::with_credentials_file(file).await.map_err(|_| Delay::Unauthorized)?,
            None => ConnectOptions::new(),
        };
        options = match (servers.user.clone(), servers.password.clone()) {
            (Some(user), Some(password)) => options.user_and_password(user, password),
            (Some(token), None) => options.token(token),
            _ => options,
        };
        if let Some(file) = ca_file {
            options = options.add_root_certificates(file.clone());
        }
        let denied = format!("Publish to \"{subject}.");
        Ok(options
            .name("profilestore")
            .connection_timeout(self.patience)
            .request_timeout(Some(self.patience))
            .ping_interval(PING_INTERVAL)
            // One round over the servers, now and after a disconnect, if nobody drops the client before: a lost connection
            // is of no use, since its answers never come.
            .max_reconnects(servers.addresses.len())
            .ignore_discovered_servers()
            .event_callback(move |event| {
                let delay = match &event {
                    Event::Disconnected | Event::Closed => Some(Delay::Away),
                    Event::ServerError(ServerError::AuthorizationViolation) => Some(Delay::Unauthorized),
                    Event::ServerError(ServerError::Other(text)) if text.contains(&denied) => {
                        Some(Delay::NotPermitted)
                    }
                    _ => None,
                };
                if let Some(delay) = delay {
                    broken.send_if_modified(|broken| broken.is_none() && broken.replace(delay).is_none());
                }
                std::future::ready(())
            }))
    }

    /// Makes sure that the stream that is wanted is there and takes our subjects.
    async fn ensure_stream(&self, context: &Context, wanted: &StreamOptions) -> Result<(), Delay> {
        let subjects = format!("{}.>", self.options.subject);
        match context.get_stream(&wanted.name).await {
            Ok(found) => {
                let takes = found.cached_info().config.subjects.iter().any(|pattern| covers(pattern, &subjects));
                return if takes { Ok(()) } else { Err(Delay::WrongStream) };
            }
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                GetStreamErrorKind::JetStream(error) => return Err(refusal(&error)),
                _ => return Err(self.why_silent(context).await),
            },
        }
        let config = stream::Config {
            name: wanted.name.clone(),
            description: Some("changes of profiles, from profilestore".to_owned()),
            subjects: vec![subjects],
            max_bytes: i64::try_from(wanted.max_bytes).unwrap_or(i64::MAX),
            max_age: wanted.max_age,
            duplicate_window: wanted.duplicate_window,
            ..stream::Config::default()
        };
        match context.create_stream(config).await {
            Ok(_) => {
                tracing::info!(stream = wanted.name, "made a stream for the changes");
                Ok(())
            }
            Err(error) => Err(match error.kind() {
                CreateStreamErrorKind::JetStream(error) => refusal(&error),
                CreateStreamErrorKind::JetStreamUnavailable => Delay::NoJetStream,
                _ => Delay::Slow,
            }),
        }
    }

    async fn why_silent(&self, context: &Context) -> Delay {
        no_jetstream(context).await.unwrap_or(Delay::Slow)
    }
}

impl Broker for Nats {
    type Session = NatsSession;

    fn address(&self) -> &str {
        &self.options.servers.names
    }

    async fn connect(&self) -> Result<NatsSession, Delay> {
        let (broken, is_broken) = watch::channel(None);
        let options = self.connect_options(broken).await?;
        let connecting = options.connect(self.options.servers.addresses.clone());
        let patience = self.patience * (1 + self.options.servers.addresses.len() as u32);
        let client = timeout(patience, connecting).await.map_err(|_| Delay::Away)?;
        let client = client.map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => Delay::Unauthorized,
            ConnectErrorKind::Tls => Delay::Tls,
            ConnectErrorKind::Io if is_of_tls(&error) => Delay::Tls,
            _ => Delay::Away,
        })?;
        let context = ContextBuilder::new()
            .timeout(self.options.ack_timeout)
            .ack_timeout(self.options.ack_timeout)
            .max_ack_inflight(2 * self.options.max_in_flight)
            .build(client.clone());
        // An acknowledgement may take longer than an answer about a stream, which is bounded as the connection is.
        let questions = jetstream::new(client.clone());
        if let Some(wanted) = &self.options.stream {
            self.ensure_stream(&questions, wanted).await?;
        }
        Ok(NatsSession {
            _client: client,
            context: Arc::new(context),
            questions: Arc::new(questions),
            stream: self.options.stream.as_ref().map(|stream| stream.name.clone()),
            ack_timeout: self.options.ack_timeout,
            broken: is_broken,
        })
    }
}

/// A connection to NATS.
pub struct NatsSession {
    _client: Client,
    context: Arc<Context>,
    /// For what is asked about streams.
    questions: Arc<Context>,
    /// The stream that must take the messages.
    stream: Option<String>,
    ack_timeout: Duration,
    broken: watch::Receiver<Option<Delay>>,
}

impl Session for NatsSession {
    type Answer = BoxFuture<'static, Result<Acknowledged, Delay>>;

    async fn publish(&self, message: Message) -> Result<Self::Answer, Delay> {
        let mut publish = PublishMessage::build().payload(message.payload).message_id(message.id);
        publish = publish.header("Content-Type", CONTENT_TYPE);
        if let Some(stream) = &self.stream {
            publish = publish.expected_stream(stream);
        }
        // A connection that takes nothing makes the client's own queue full.
        let sent = timeout(self.ack_timeout, self.context.send_publish(message.subject, publish)).await;
        let answer = sent.map_err(|_| Delay::Slow)?.map_err(|error| delay(&error))?;
        let questions = self.questions.clone();
        let answered = async move {
            match answer.await {
                Ok(ack) => Ok(Acknowledged { duplicate: ack.duplicate }),
                Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                    Err(no_jetstream(&questions).await.unwrap_or(Delay::NoStream))
                }
                Err(error) => Err(delay(&error)),
            }
        };
        Ok(answered.boxed())
    }

    async fn lost(&self) -> Delay {
        let mut broken = self.broken.clone();
        // Without the sender the client has ended.
        broken.wait_for(Option::is_some).await.ok().and_then(|broken| *broken).unwrap_or(Delay::Away)
    }
}

/// Whether the input or output failed because of the other side's certificate or the like.
fn is_of_tls(error: &ConnectError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<async_nats::rustls::Error>())
}

/// A part of an address without the `%40` and the like in it.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let digits = behind.first_chunk::<2>().filter(|_| *first == b'%');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether there is no JetStream at all.
async fn no_jetstream(context: &Context) -> Option<Delay> {
    match context.query_account().await.map_err(|error| error.kind()) {
        Err(AccountErrorKind::JetStreamUnavailable) => Some(Delay::NoJetStream),
        Err(AccountErrorKind::JetStream(error)) => Some(refusal(&error)).filter(|delay| *delay == Delay::NoJetStream),
        _ => None,
    }
}

fn delay(error: &PublishError) -> Delay {
    match error.kind() {
        PublishErrorKind::StreamNotFound => Delay::NoStream,
        PublishErrorKind::TimedOut | PublishErrorKind::MaxAckPending => Delay::Slow,
        PublishErrorKind::BrokenPipe => Delay::Away,
        PublishErrorKind::MaxPayloadExceeded => Delay::TooLarge,
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence | PublishErrorKind::Other => {
            let source =
                std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
            source.map_or(Delay::Away, refusal)
        }
    }
}

fn refusal(error: &jetstream::Error) -> Delay {
    match error.error_code() {
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED => Delay::Full,
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => Delay::NoJetStream,
        ErrorCode::STREAM_NOT_MATCH | ErrorCode::STREAM_SUBJECT_OVERLAP => Delay::WrongStream,
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => Delay::TooLarge,
        ErrorCode(number) => Delay::Refused(number),
    }
}

/// Whether a stream's subject takes everything that another one, ending with `>`, takes.
fn covers(pattern: &str, wanted: &str) -> bool {
    let (mut pattern, mut wanted) = (pattern.split('.'), wanted.split('.'));
    loop {
        match (pattern.next(), wanted.next()) {
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(same), Some(token)) if same == token => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
#[path = "nats_silence_tests.rs"]
mod silence_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_the_addresses() {
        let servers = Servers::parse("nats://ada:secret@one:4222, tls://two").unwrap();
        assert_eq!((servers.user.as_deref(), servers.password.as_deref()), (Some("ada"), Some("secret")));
        assert_eq!(format!("{servers:?}"), "nats://one:4222,tls://two:4222");
        assert!(servers.addresses.iter().all(|address| !address.has_user_pass()));
        let encoded = Servers::parse("nats://ada:p%40s%2Fs%zz%@one").unwrap();
        assert_eq!(encoded.password.as_deref(), Some("p@s/s%zz%"));
        let token = Servers::parse("nats://token@[::1]:7").unwrap();
        assert_eq!(
            (token.user.as_deref(), token.password, token.names.as_str()),
            (Some("token"), None, "nats://[::1]:7")
        );
        for bad in ["", "http://a:secret@b", "nats://", "nats://a b", "ws://a:secret@b", "nats://one,"] {
            let error = Servers::parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_streams_subject_covers_ours_or_does_not() {
        for good in ["profiles.>", ">", "*.>"] {
            assert!(covers(good, "profiles.>"), "{good}");
        }
        for bad in ["profiles.put.>", "profiles.*", "other.>", "profiles", "*"] {
            assert!(!covers(bad, "profiles.>"), "{bad}");
        }
        assert!(covers("a.>", "a.b.>") && covers("a.*.>", "a.b.>") && !covers("a.c.>", "a.b.>"));
    }
}
