//! The publisher's task: begun before anything is served, ended before the store is closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::publish_settings::PublishSettings;
use super::run::ServeError;
use crate::feed::publisher::{Publisher, SharedFigures};
use crate::store::Store;

/// How long a shutdown waits for the publisher, which has bounds of its own that are shorter.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A publisher that runs, if one is wanted. Dropped, it is asked to end.
pub struct Publishing {
    task: Option<JoinHandle<()>>,
    figures: Option<Arc<SharedFigures>>,
    stop: DropGuard,
}

/// Takes the publisher's place in the log and starts it, if the settings name a broker. A broker that is not there
/// keeps nothing from starting.
pub async fn start<S: Store>(store: &Arc<S>, settings: &PublishSettings) -> Result<Publishing, ServeError> {
    let stop = CancellationToken::new();
    let mut publishing = Publishing { task: None, figures: None, stop: stop.clone().drop_guard() };
    if settings.url.is_set() {
        publishing.begin(store, settings, stop).await?;
    } else if settings.forget {
        if Publisher::forget(&**store).await.map_err(ServeError::Publisher)? {
            tracing::info!("the place of an earlier publisher was given up; the log is no longer held for it");
        }
    } else if let Some(hold) = store.holds().await.map_err(ServeError::Publisher)?.first() {
        tracing::warn!(
            name = %hold.name,
            lag_changes = hold.lag,
            "the log is held for somebody who does not run; publish again, or give the place up with --forget-publisher"
        );
    }
    Ok(publishing)
}

impl Publishing {
    #[cfg(feature = "nats")]
    async fn begin<S: Store>(
        &mut self,
        store: &Arc<S>,
        settings: &PublishSettings,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let options = settings.broker().map_err(|what| ServeError::Start(format!("publish.url {what}")))?;
        let publisher = Publisher::prepare(store.clone(), settings.options()).await.map_err(ServeError::Publisher)?;
        self.figures = Some(publisher.figures());
        self.task = Some(tokio::spawn(publisher.run(crate::feed::publisher::nats::Nats::new(options), stop)));
        Ok(())
    }

    #[cfg(not(feature = "nats"))]
    async fn begin<S: Store>(
        &mut self,
        _: &Arc<S>,
        _: &PublishSettings,
        _: CancellationToken,
    ) -> Result<(), ServeError> {
        Err(ServeError::Start("this build has no publisher (feature nats)".into()))
    }

    /// The publisher's figures; `None` when nothing is published.
    pub fn figures(&self) -> Option<&Arc<SharedFigures>> {
        self.figures.as_ref()
    }

    /// Lets the publisher take the answers that are on their way and store its place, for some seconds at most.
    pub async fn stop(self) {
        drop(self.stop);
        let Some(mut task) = self.task else { return };
        match timeout(PATIENCE, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the publisher ended early"),
            Err(_) => {
                task.abort();
                tracing::warn!("the publisher did not end in time; after the next start it sends some changes again");
            }
        }
    }
}
