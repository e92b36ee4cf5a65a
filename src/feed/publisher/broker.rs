//! What the publisher needs of a broker.

use std::future::Future;

use super::message::Message;

/// Why nothing can be published at present. Each delays publishing and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Delay {
    /// Nobody answers, or the connection broke.
    #[error("the broker cannot be reached")]
    Away,
    /// The broker takes none of our credentials, or they cannot be read.
    #[error("the broker refuses the credentials, or they cannot be read")]
    Unauthorized,
    /// TLS failed.
    #[error("there is no TLS connection to the broker: a certificate is missing or not trusted")]
    Tls,
    /// The broker has no streams at all.
    #[error("the broker has no JetStream, or not for this account")]
    NoJetStream,
    /// No stream takes the subjects.
    #[error("no stream takes these subjects")]
    NoStream,
    /// Another stream than the one that was named takes the subjects.
    #[error("the stream that was named does not take these subjects")]
    WrongStream,
    /// The stream takes no more.
    #[error("the stream is full or has no room")]
    Full,
    /// An acknowledgement does not come.
    #[error("the broker does not answer in time")]
    Slow,
    /// These credentials may not publish there.
    #[error("the broker does not permit these subjects")]
    NotPermitted,
    /// The message is larger than the broker takes.
    #[error("a message is larger than the broker takes")]
    TooLarge,
    /// The broker says no for another reason, with its number.
    #[error("the broker refuses a message or the stream, error {0}")]
    Refused(u64),
    /// The changes cannot be read.
    #[error("the changes cannot be read")]
    Unreadable,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The broker had it already.
    pub duplicate: bool,
}

/// A way to reach a broker.
pub trait Broker: Send + Sync + 'static {
    /// A connection.
    type Session: Session;

    /// Where it is, for the log; without credentials.
    fn address(&self) -> &str;

    /// Connects once, within a bound on time.
    fn connect(&self) -> impl Future<Output = Result<Self::Session, Delay>> + Send;
}

/// A connection to a broker. Dropped, it is closed.
pub trait Session: Send + 'static {
    /// Completes with the broker's answer to one message, within a bound on time.
    type Answer: Future<Output = Result<Acknowledged, Delay>> + Send + Unpin;

    /// Hands a message over, within a bound on time; messages go out in the order in which they are handed over.
    fn publish(&self, message: Message) -> impl Future<Output = Result<Self::Answer, Delay>> + Send;

    /// Completes when the connection is lost or is of no use any more.
    fn lost(&self) -> impl Future<Output = Delay> + Send;
}
