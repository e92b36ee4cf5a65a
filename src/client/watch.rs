//! A watch that goes on by itself where the connection was lost.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use super::Client;
use super::error::ClientError;
use super::retry::Backoff;
use crate::pb::watch_profiles_request::Start;
use crate::pb::{ProfileEvent, WatchProfilesRequest, WatchProfilesResponse, WatchStart};

/// A server sends something every second; one that is silent so long is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// Where a watch starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WatchFrom {
    /// With what changes from now on; "now" is when the first message comes.
    #[default]
    Now,
    /// With the oldest change that the server still has.
    Oldest,
    /// After the message that had this token.
    Token(String),
}

/// What to watch.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Where to start.
    pub from: WatchFrom,
    /// Only profiles of this domain; empty watches all.
    pub domain: String,
    /// Also those of all domains below it.
    pub include_subdomains: bool,
    /// The current profiles first; only from now.
    pub include_snapshot: bool,
    /// After a break: how long the server may be away before the watch gives up.
    pub patience: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            from: WatchFrom::Now,
            domain: String::new(),
            include_subdomains: false,
            include_snapshot: false,
            patience: Duration::from_secs(600),
        }
    }
}

/// One message of a watch.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The changes in order; none in a message that only brings a fresh token.
    pub events: Vec<ProfileEvent>,
    /// Where to go on after this message, also in another process.
    pub token: String,
    /// The snapshot ended just before.
    pub current: bool,
}

/// The messages of a watch. It ends after the first error.
pub struct Watch(BoxStream<'static, Result<Watched, ClientError>>);

impl Stream for Watch {
    type Item = Result<Watched, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Client {
    /// Follows the changes of all profiles, or of those of a domain.
    ///
    /// After any break the watch goes on behind the last message that came: nothing is missed, and what comes again
    /// has the same `position`. It fails when the server is away for longer than the options allow, and with
    /// [`ClientError::OutOfRange`] when the server no longer keeps what follows; `oldest_token` in the metadata is then
    /// where a new watch can start.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use futures_util::TryStreamExt;
    /// use profilestore::client::WatchOptions;
    ///
    /// let options = WatchOptions { domain: "example.com".into(), include_snapshot: true, ..Default::default() };
    /// let mut watch = client.watch(options);
    /// while let Some(message) = watch.try_next().await? {
    ///     message.events.iter().for_each(|event| println!("{:?} {}", event.r#type(), event.id));
    ///     // Keep `message.token` to go on from here with WatchFrom::Token.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self, options: WatchOptions) -> Watch {
        let start = match options.from {
            WatchFrom::Now => Start::StartAt(WatchStart::Now as i32),
            WatchFrom::Oldest => Start::StartAt(WatchStart::Oldest as i32),
            WatchFrom::Token(token) => Start::ResumeToken(token),
        };
        let walk = Walk {
            backoff: Backoff::without_end(self),
            client: self.clone(),
            request: WatchProfilesRequest {
                start: Some(start),
                domain: options.domain,
                include_subdomains: options.include_subdomains,
                include_snapshot: options.include_snapshot,
            },
            patience: options.patience,
            begun: false,
            messages: None,
        };
        Watch(Box::pin(stream::try_unfold(walk, |mut walk| async move { Ok(Some((walk.next().await?, walk))) })))
    }
}

struct Walk {
    client: Client,
    /// It starts after the last message.
    request: WatchProfilesRequest,
    messages: Option<Streaming<WatchProfilesResponse>>,
    patience: Duration,
    /// A message has come.
    begun: bool,
    backoff: Backoff,
}

impl Walk {
    async fn next(&mut self) -> Result<Watched, ClientError> {
        // A server that was never there is not waited for so long.
        let allowed = if self.begun { self.patience } else { self.client.inner.deadline };
        let deadline = Instant::now() + allowed;
        loop {
            let error = match timeout(SILENCE.min(allowed), self.message()).await {
                Ok(Ok(message)) => return Ok(self.progress(message)),
                Ok(Err(error)) => error,
                Err(_) => ClientError::ended_early(),
            };
            self.messages = None;
            match self.backoff.pause_after(&error, deadline) {
                Some(pause) if error.is_unavailable() || error.reason() == "OVERLOADED" => sleep(pause).await,
                _ => return Err(error),
            }
        }
    }

    fn progress(&mut self, message: WatchProfilesResponse) -> Watched {
        let WatchProfilesResponse { events, resume_token, current } = message;
        self.backoff.reset();
        self.begun = true;
        self.request.start = Some(Start::ResumeToken(resume_token.clone()));
        // The token knows whether it is in the middle of a snapshot.
        self.request.include_snapshot = false;
        Watched { events, token: resume_token, current }
    }

    /// The next message, of a new stream where there is none.
    async fn message(&mut self) -> Result<WatchProfilesResponse, ClientError> {
        let messages = match &mut self.messages {
            Some(messages) => messages,
            none => {
                let mut connection = self.client.connection().profiles();
                let answer = connection.watch_profiles(self.request.clone()).await;
                none.insert(answer.map_err(|status| ClientError::from_status(&status))?.into_inner())
            }
        };
        let message = messages.message().await.map_err(|status| ClientError::from_status(&status))?;
        message.ok_or_else(ClientError::ended_early)
    }
}
