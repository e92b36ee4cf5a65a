//! A client of a profilestore server.
//!
//! A [`Client`] holds several connections and spreads its calls over them in turn; cloning it is cheap.
//!
//! Invariants: a call is repeated after `UNAVAILABLE` only, a bounded number of times, and never past its
//! deadline; every write carries a fresh `request_id`, the same for each repetition, so that a write is made
//! once however often it is sent; no error text holds an e-mail, a name or an attribute.
//!
//! ```no_run
//! use futures_util::TryStreamExt;
//! use profilestore::client::{Client, PageOptions, Profile, UpdateOptions};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("127.0.0.1:50051").build()?;
//!
//! let ada = Profile { id: "ada".into(), email: "ada@example.com".into(), ..Profile::default() };
//! let stored = client.create(ada).await?;
//!
//! // Changes the display name, unless somebody else was faster.
//! let renamed = Profile { display_name: "Ada Lovelace".into(), ..stored };
//! client.update(renamed, UpdateOptions { mask: vec!["display_name".into()], ..Default::default() }).await?;
//!
//! if let Some(profile) = client.get("ada").await? {
//!     println!("{}", profile.display_name);
//! }
//! let mut profiles = client.query("example.com", true, PageOptions::default());
//! while let Some(profile) = profiles.try_next().await? {
//!     println!("{}", profile.id);
//! }
//! # Ok(())
//! # }
//! ```

mod admin;
mod builder;
mod chunk;
mod error;
mod export;
mod import;
mod import_run;
mod paged;
mod reads;
mod retry;
mod watch;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use admin::Answers;
pub use builder::ClientBuilder;
pub(crate) use builder::{check_address, check_deadline};
pub use error::{Cause, ClientError, Violation};
pub use export::{Export, ExportOptions, Exported};
pub use import::{Import, ImportOptions, Imported, OnConflict, Refused};
pub use paged::{PageOptions, Paged};
pub use reads::Health;
pub use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;
pub use watch::{Watch, WatchFrom, WatchOptions, Watched};
pub use writes::{DeleteOptions, UpdateOptions, Write};

use self::retry::Notice;
use crate::pb::admin_service_client::AdminServiceClient;
use crate::pb::profile_service_client::ProfileServiceClient;
pub use crate::pb::{
    BatchGetProfilesResponse, CacheStatus, DomainSummary, FeedHold, GetHotKeysResponse, GetStatusResponse, HotKey,
    MethodStatus, Profile, ProfileEvent, ProfileEventType as EventType, VerifyProblem, VerifyResponse,
};

/// The largest answer that is accepted: a thousand profiles of the largest size fit.
const MAX_RESPONSE_BYTES: usize = 32 * 1024 * 1024;

/// A client of a profilestore server; see the [module](self).
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connections: Vec<Connection>,
    /// Counts the calls; the remainder is the connection whose turn it is.
    turn: AtomicUsize,
    deadline: Duration,
    retries: u32,
    notice: Notice,
}

/// One HTTP/2 connection, which is made when it is first needed and made anew when it is lost.
#[derive(Debug, Clone)]
struct Connection(Channel);

impl Client {
    /// Begins to make a client of the server at `HOST:PORT` or `http://HOST:PORT`.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use profilestore::client::Client;
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), profilestore::client::ClientError> {
    /// let client = Client::builder("http://127.0.0.1:50051")
    ///     .connections(2)
    ///     .deadline(Duration::from_secs(2))
    ///     .retries(3)
    ///     .build()?;
    /// println!("{} profiles", client.count("", false).await?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(address: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(address.into())
    }

    /// The connection whose turn it is.
    fn connection(&self) -> Connection {
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        self.inner.connections[turn % self.inner.connections.len()].clone()
    }
}

impl Connection {
    fn profiles(self) -> ProfileServiceClient<Channel> {
        ProfileServiceClient::new(self.0).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    fn admin(self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.0).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    fn health(self) -> HealthClient<Channel> {
        HealthClient::new(self.0)
    }
}

/// A field mask of the API; without paths there is none.
fn field_mask(paths: Vec<String>) -> Option<prost_types::FieldMask> {
    (!paths.is_empty()).then_some(prost_types::FieldMask { paths })
}
