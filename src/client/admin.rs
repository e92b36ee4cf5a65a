//! The calls of `AdminService` but for the status.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, stream};
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};

use super::error::ClientError;
use super::{Client, Connection};
use crate::pb::{BackupRequest, GetHotKeysRequest, GetHotKeysResponse, VerifyRequest, VerifyResponse};

/// What a server sends one after another. It ends after the first error.
pub struct Answers<T>(BoxStream<'static, Result<T, ClientError>>);

impl<T> Stream for Answers<T> {
    type Item = Result<T, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl<T> std::fmt::Debug for Answers<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl Client {
    /// The ids and domains that are read most, over the last minute: at most `limit` of each (0 means 20, more than 100
    /// means 100).
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// for hot in client.hot_keys(10).await?.ids {
    ///     println!("{} was read about {} times", hot.key, hot.read_count);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn hot_keys(&self, limit: u32) -> Result<GetHotKeysResponse, ClientError> {
        let request = GetHotKeysRequest { limit: i32::try_from(limit).unwrap_or(i32::MAX) };
        self.call(
            request,
            |connection: Connection, request| async move { connection.admin().get_hot_keys(request).await },
        )
        .await
    }

    /// Checks everything that the server's store holds. The last response has `done` set; to drop the stream ends the
    /// check. It is not begun anew when the connection is lost.
    pub fn verify(&self) -> Answers<VerifyResponse> {
        let client = self.clone();
        self.answers(async move { client.connection().admin().verify(VerifyRequest {}).await })
    }

    /// Streams the bytes of a backup: a snapshot file. It is whole only if the stream ends without an error and the
    /// file's checksums agree. To drop the stream ends the backup.
    ///
    /// The server first makes a new snapshot, which takes a while; meanwhile it sends empty chunks, which are left out
    /// here.
    pub fn backup(&self) -> Answers<Bytes> {
        let client = self.clone();
        let chunks = self.answers(async move { client.connection().admin().backup(BackupRequest {}).await });
        Answers(Box::pin(futures_util::TryStreamExt::try_filter_map(chunks, |chunk| async move {
            Ok((!chunk.data.is_empty()).then_some(chunk.data))
        })))
    }

    /// The answers of a call; each must come within the deadline.
    fn answers<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    ) -> Answers<T> {
        enum Place<F, T> {
            Call(F),
            Answers(Box<Streaming<T>>),
        }
        let allowed = self.inner.deadline;
        let first = Place::Call(Box::pin(call));
        Answers(Box::pin(stream::try_unfold(first, move |place| async move {
            let next = async {
                let mut answers = match place {
                    Place::Call(call) => Box::new(call.await?.into_inner()),
                    Place::Answers(answers) => answers,
                };
                Ok(answers.message().await?.map(|answer| (answer, Place::Answers(answers))))
            };
            match timeout(allowed, next).await {
                Ok(next) => next.map_err(|status: Status| ClientError::from_status(&status)),
                Err(_) => Err(ClientError::too_late(allowed, None)),
            }
        })))
    }
}
