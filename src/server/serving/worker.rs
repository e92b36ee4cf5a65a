//! One thread that serves its share of the connections.

use std::convert::Infallible;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::ServingLimits;
use super::connection::{ConnectionError, serve_connection};
use super::figures::{End, ServingFigures};
use super::request_body::RequestBody;
use crate::observe::origin::{self, with_peer};
use crate::rpc::at_once::AtOnce;

/// A connection on its way to a worker. Bounded by the permits, so the queue needs no bound of its own.
pub struct Accepted {
    /// The socket.
    pub stream: TcpStream,
    /// Given back when the connection has ended.
    pub permit: OwnedSemaphorePermit,
}

/// What ends a worker, and what it ends.
pub struct Ends {
    /// Asks the worker to drain.
    pub shutdown: CancellationToken,
    /// Cancelled should the thread end by a panic.
    pub failed: CancellationToken,
}

/// The handle of a worker's thread.
pub struct Worker {
    queue: mpsc::UnboundedSender<Accepted>,
    thread: JoinHandle<()>,
    /// Closed when the thread's work is done.
    done: tokio::sync::oneshot::Receiver<()>,
}

impl Worker {
    /// Starts a worker's thread.
    pub fn start<S, B>(
        number: usize,
        service: S,
        limits: ServingLimits,
        figures: Arc<ServingFigures>,
        ends: Ends,
    ) -> io::Result<Self>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
            + AtOnce<B::Data>
            + Clone
            + Send
            + 'static,
        S::Future: 'static,
        B: http_body::Body<Data: From<Bytes>, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
    {
        let (queue, accepted) = mpsc::unbounded_channel();
        let (ending, done) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        figures.add_runtime(runtime.metrics());
        let Ends { shutdown, failed } = ends;
        let thread = std::thread::Builder::new().name(format!("serving-{number}")).spawn(move || {
            let failed = failed.drop_guard();
            LocalSet::new().block_on(&runtime, work(accepted, service, limits, &figures, shutdown));
            failed.disarm();
            drop(ending);
        })?;
        Ok(Self { queue, thread, done })
    }

    /// Gives the worker a connection. A worker that drains does not take it, and it is closed.
    pub fn hand_over(&self, accepted: Accepted) -> bool {
        self.queue.send(accepted).is_ok()
    }

    /// Waits for the worker to drain.
    pub async fn ended(self) {
        drop(self.queue);
        // An error means that the thread has ended, which is what is waited for.
        let _ = self.done.await;
        if self.thread.join().is_err() {
            tracing::error!("a serving thread panicked");
        }
    }
}

async fn work<S, B>(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    service: S,
    limits: ServingLimits,
    figures: &ServingFigures,
    shutdown: CancellationToken,
) where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + AtOnce<B::Data> + Clone + 'static,
    S::Future: 'static,
    B: http_body::Body<Data: From<Bytes>, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let Accepted { stream, permit } = tokio::select! {
            // In this order: a worker that drains begins nothing more.
            biased;
            () = shutdown.cancelled() => break,
            // Ended connections are forgotten as they end.
            Some(ended) = connections.join_next() => {
                report(ended, figures);
                continue;
            }
            next = accepted.recv() => match next {
                Some(next) => next,
                None => break,
            },
        };
        let (service, shutdown) = (service.clone(), shutdown.clone());
        connections.spawn_local(async move {
            let _permit = permit;
            let peer = stream.peer_addr().ok();
            let ended = with_peer(peer, serve_connection(prepared(stream)?, service, limits, shutdown)).await;
            if ended.as_ref().is_err_and(ConnectionError::is_given_up) {
                origin::cut(peer);
            }
            ended
        });
        // The connections that are there have their turn before the next one begins.
        tokio::task::yield_now().await;
    }
    // Those that wait in line are closed now, and not when the last of the others has ended.
    accepted.close();
    while accepted.try_recv().is_ok() {
        figures.end(End::Closed, 1);
    }
    let drained = tokio::time::timeout(limits.drain_timeout, async {
        while let Some(ended) = connections.join_next().await {
            report(ended, figures);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "cut connections that did not drain in time");
        figures.end(End::CutAtShutdown, connections.len());
        origin::cut_all();
        connections.shutdown().await;
    }
}

/// The socket of an accepted connection, ready for this thread. What encrypts connections goes around it here.
fn prepared(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    let stream = tokio::net::TcpStream::from_std(stream)?;
    // Without this small answers would wait for the client's acknowledgements.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn report(ended: Result<Result<(), ConnectionError>, tokio::task::JoinError>, figures: &ServingFigures) {
    let end = match ended {
        Ok(Ok(())) => End::Closed,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection ended with an error");
            End::of_error(&error)
        }
        Err(error) => {
            // The panic's own message is the panic hook's business.
            tracing::error!(panicked = error.is_panic(), "a connection's task failed");
            End::Panicked
        }
    };
    figures.end(end, 1);
}
