//! `Backup`: a snapshot file as a stream of chunks.
//!
//! A chunk is read, on a thread that may block, when the caller has taken the one before, so a slow caller costs one
//! chunk of memory. While the snapshot is made, empty chunks tell the caller that it goes on.

use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tonic::Status;

use super::error::RpcError;
use crate::pb;
use crate::store::{Backup, Store, StoreError};

/// The length of a chunk.
const CHUNK_BYTES: usize = 256 * 1024;
/// How often the caller hears that the snapshot is still being made.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);

enum Place {
    Making(Pin<Box<dyn Future<Output = Result<Backup, StoreError>> + Send>>),
    Reading(Backup),
}

/// The chunks of a backup.
pub fn backup<S: Store>(store: Arc<S>) -> impl Stream<Item = Result<pb::BackupResponse, Status>> + Send {
    let making = Place::Making(Box::pin(async move { store.backup().await }));
    stream::try_unfold(making, |place| async move {
        let backup = match place {
            Place::Reading(backup) => backup,
            Place::Making(mut making) => match tokio::time::timeout(SIGN_OF_LIFE_EVERY, &mut making).await {
                Err(_) => return Ok(Some((pb::BackupResponse::default(), Place::Making(making)))),
                Ok(made) => made.map_err(RpcError::from)?,
            },
        };
        let read = tokio::task::spawn_blocking(move || read_chunk(backup)).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        let (data, backup) = read.map_err(|error| {
            RpcError::from(StoreError::Failed { cause: format!("the backup cannot be read: {error}") })
        })?;
        Ok((!data.is_empty()).then_some((pb::BackupResponse { data }, Place::Reading(backup))))
    })
}

/// The next chunk; an empty one at the end.
fn read_chunk(mut backup: Backup) -> io::Result<(Bytes, Backup)> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    backup.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok((chunk.into(), backup))
}
