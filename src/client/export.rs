//! An export that goes on by itself where a connection was lost.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::BoxStream;
use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Streaming;

use super::Client;
use super::error::ClientError;
use super::retry::{Backoff, may_be_repeated};
use crate::pb::{ExportProfilesRequest, ExportProfilesResponse, Profile};

/// What to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Only profiles of this domain; empty exports all.
    pub domain: String,
    /// Also those of all domains below it.
    pub include_subdomains: bool,
    /// Go on after the chunk that had this cursor; empty starts at the beginning.
    pub cursor: String,
}

/// A chunk of an export.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The profiles.
    pub profiles: Vec<Profile>,
    /// Where to go on after this chunk, also in another process.
    pub cursor: String,
}

/// The chunks of an export. It ends after the first error.
pub struct Export(BoxStream<'static, Result<Exported, ClientError>>);

impl Stream for Export {
    type Item = Result<Exported, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").finish_non_exhaustive()
    }
}

impl Client {
    /// Streams all profiles, or those of a domain, in chunks, each with a cursor.
    ///
    /// When the connection is lost, the export goes on after the last chunk that came. The server sends as fast
    /// as the chunks are taken.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use futures_util::TryStreamExt;
    /// use profilestore::client::ExportOptions;
    ///
    /// let mut export = client.export(ExportOptions { domain: "example.com".into(), ..Default::default() });
    /// while let Some(chunk) = export.try_next().await? {
    ///     println!("{} profiles, then {}", chunk.profiles.len(), chunk.cursor);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn export(&self, options: ExportOptions) -> Export {
        let ExportOptions { domain, include_subdomains, cursor } = options;
        let walk = Walk {
            backoff: Backoff::of(self),
            client: self.clone(),
            request: ExportProfilesRequest { domain, include_subdomains, cursor },
            chunks: None,
        };
        Export(Box::pin(stream::try_unfold(walk, |mut walk| async move {
            Ok(walk.next().await?.map(|chunk| (chunk, walk)))
        })))
    }
}

struct Walk {
    client: Client,
    /// Its cursor is that of the last chunk.
    request: ExportProfilesRequest,
    chunks: Option<Streaming<ExportProfilesResponse>>,
    backoff: Backoff,
}

impl Walk {
    async fn next(&mut self) -> Result<Option<Exported>, ClientError> {
        let allowed = self.client.inner.deadline;
        let deadline = Instant::now() + allowed;
        let mut last = None;
        loop {
            let error = match timeout_at(deadline, self.message()).await {
                Err(_) => return Err(ClientError::too_late(allowed, last.as_ref())),
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(ExportProfilesResponse { profiles, cursor }))) => {
                    self.backoff.reset();
                    self.request.cursor.clone_from(&cursor);
                    return Ok(Some(Exported { profiles, cursor }));
                }
                Ok(Err(error)) => error,
            };
            self.chunks = None;
            match self.backoff.pause_after(&error, deadline) {
                Some(pause) if may_be_repeated(&error) => {
                    last = Some(error);
                    sleep(pause).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// The next message, of a new stream where there is none.
    async fn message(&mut self) -> Result<Option<ExportProfilesResponse>, ClientError> {
        let chunks = match &mut self.chunks {
            Some(chunks) => chunks,
            none => {
                let mut connection = self.client.connection().profiles();
                let answer = connection.export_profiles(self.request.clone()).await;
                none.insert(answer.map_err(|status| ClientError::from_status(&status))?.into_inner())
            }
        };
        chunks.message().await.map_err(|status| ClientError::from_status(&status))
    }
}
