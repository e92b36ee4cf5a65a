//! What the tests of watches share: a watcher that notes what it is sent.

use profilestore::pb::watch_profiles_request::Start;
use profilestore::pb::*;
use tonic::{Status, Streaming};

use crate::Client;
use crate::common::soon;

/// A watch in the making.
#[derive(Clone, Default)]
pub struct Request(pub WatchProfilesRequest);

impl Request {
    pub fn now() -> Self {
        Self::default().start(Start::StartAt(WatchStart::Now as i32))
    }

    pub fn oldest() -> Self {
        Self::default().start(Start::StartAt(WatchStart::Oldest as i32))
    }

    pub fn after(token: &str) -> Self {
        Self::default().start(Start::ResumeToken(token.into()))
    }

    pub fn start(mut self, start: Start) -> Self {
        self.0.start = Some(start);
        self
    }

    pub fn domain(mut self, domain: &str, include_subdomains: bool) -> Self {
        self.0.domain = domain.into();
        self.0.include_subdomains = include_subdomains;
        self
    }

    pub fn snapshot(mut self) -> Self {
        self.0.include_snapshot = true;
        self
    }

    /// Begins the watch.
    pub async fn send(self, client: &mut Client) -> Result<Watcher, Status> {
        let stream = client.watch_profiles(self.0).await?.into_inner();
        Ok(Watcher { stream, token: String::new() })
    }

    /// Begins the watch and takes its first response, which comes at once.
    pub async fn begin(self, client: &mut Client) -> Watcher {
        let mut watcher = self.send(client).await.unwrap();
        assert_eq!(watcher.response().await.events, []);
        watcher
    }
}

/// A running watch.
pub struct Watcher {
    pub stream: Streaming<WatchProfilesResponse>,
    /// The last token.
    pub token: String,
}

impl Watcher {
    /// The next response.
    pub async fn response(&mut self) -> WatchProfilesResponse {
        self.try_response().await.unwrap()
    }

    pub async fn try_response(&mut self) -> Result<WatchProfilesResponse, Status> {
        let response = soon(self.stream.message()).await?.expect("a watch ends with an error");
        assert!(!response.resume_token.is_empty());
        self.token.clone_from(&response.resume_token);
        Ok(response)
    }

    /// The next so many events, whatever responses they come in.
    pub async fn events(&mut self, count: usize) -> Vec<ProfileEvent> {
        let mut events = Vec::new();
        // Together, because heartbeats come for ever.
        soon(async {
            while events.len() < count {
                events.extend(self.response().await.events);
            }
        })
        .await;
        assert_eq!(events.len(), count);
        events
    }

    /// The next so many events in short.
    pub async fn next(&mut self, count: usize) -> Vec<String> {
        self.events(count).await.iter().map(short).collect()
    }

    /// What the watch fails with, after responses without events.
    pub async fn error(&mut self) -> Status {
        loop {
            match self.try_response().await {
                Ok(response) => assert_eq!(response.events, []),
                Err(status) => return status,
            }
        }
    }
}

/// An event in short: `PUT ada`.
pub fn short(event: &ProfileEvent) -> String {
    format!("{} {}", event.r#type().as_str_name().trim_start_matches("PROFILE_EVENT_TYPE_"), event.id)
}
