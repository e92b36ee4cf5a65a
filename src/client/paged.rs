//! Pages as a stream of what stands on them.
//!
//! Invariant: while the entries of one page are taken, at most the next page is fetched or held.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec::IntoIter;

use futures_util::stream::BoxStream;
use futures_util::{Stream, stream};
use tokio::task::JoinSet;

use super::Client;
use super::error::ClientError;

/// How to list profiles.
#[derive(Debug, Clone, Default)]
pub struct PageOptions {
    /// How many profiles to fetch at a time: 0 means 50, more than 1000 means 1000.
    pub page_size: i32,
    /// The fields to return, for example `email` or `attributes.team`; empty for all.
    pub read_mask: Vec<String>,
}

/// The entries of a listing, over all its pages.
///
/// Nothing is asked for before it is polled first. It ends after the first error. Pages together are not a
/// snapshot: an entry that moves meanwhile may be missed or met twice.
pub struct Paged<T>(BoxStream<'static, Result<T, ClientError>>);

impl<T> Stream for Paged<T> {
    type Item = Result<T, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl<T> std::fmt::Debug for Paged<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paged").finish_non_exhaustive()
    }
}

type Page<T> = Result<(Vec<T>, String), ClientError>;

/// The entries of a page and the pages to come.
struct Listing<T, M, F> {
    client: Client,
    request: M,
    fetch: F,
    entries: IntoIter<T>,
    /// The next page; a task of its own, since an answer that nobody reads would meet its deadline. Dropping
    /// the set ends it.
    ahead: JoinSet<Page<T>>,
    begun: bool,
}

/// The entries of all the pages that `fetch` gives for a request and a page token.
pub(super) fn paged<T, M, F, Fut>(client: Client, request: M, fetch: F) -> Paged<T>
where
    T: Send + 'static,
    M: Clone + Send + 'static,
    F: Fn(Client, M, String) -> Fut + Send + 'static,
    Fut: Future<Output = Page<T>> + Send + 'static,
{
    let entries = Vec::new().into_iter();
    let listing = Listing { client, request, fetch, entries, ahead: JoinSet::new(), begun: false };
    Paged(Box::pin(stream::try_unfold(listing, |mut listing| async move {
        Ok(listing.next().await?.map(|entry| (entry, listing)))
    })))
}

impl<T, M, F, Fut> Listing<T, M, F>
where
    T: Send + 'static,
    M: Clone,
    F: Fn(Client, M, String) -> Fut,
    Fut: Future<Output = Page<T>> + Send + 'static,
{
    fn fetch_ahead(&mut self, page_token: String) {
        self.ahead.spawn((self.fetch)(self.client.clone(), self.request.clone(), page_token));
    }

    async fn next(&mut self) -> Result<Option<T>, ClientError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.fetch_ahead(String::new());
        }
        loop {
            if let Some(entry) = self.entries.next() {
                return Ok(Some(entry));
            }
            let Some(page) = self.ahead.join_next().await else { return Ok(None) };
            let (entries, next_page_token) =
                page.unwrap_or_else(|error| Err(ClientError::contract_broken(format!("a page was lost: {error}"))))?;
            if !next_page_token.is_empty() {
                self.fetch_ahead(next_page_token);
            }
            self.entries = entries.into_iter();
        }
    }
}
