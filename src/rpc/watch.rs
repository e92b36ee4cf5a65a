//! `WatchProfiles`: where a watch begins, and its tokens. What it is sent then is the matter of [`WatchResponses`].

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use super::error::RpcError;
use super::page_token::{CallFingerprint, PageToken};
use super::request::scope_fingerprint;
use super::watch_responses::WatchResponses;
use crate::feed::{Feed, FeedError, Filter, Place};
use crate::model::{Domain, Violations};
use crate::pb;
use crate::pb::WatchStart;
use crate::pb::watch_profiles_request::Start;
use crate::store::{Cursor, Position, Store, StoreError};

/// The responses of a watch. The first one is made here: a token that is no good fails the call itself, unless it takes long to
/// find out.
pub async fn watch<S: Store>(
    feed: Arc<Feed<S>>,
    request: pb::WatchProfilesRequest,
) -> Result<Pin<Box<WatchResponses<S>>>, RpcError> {
    let (filter, beginning) = parse(request)?;
    let call = call_of(&filter);
    let begun = match beginning {
        Beginning::Now => feed.watch_from_now(filter).await,
        Beginning::Snapshot => feed.watch_with_snapshot(filter).await,
        Beginning::Oldest => feed.watch_from_oldest(filter).await,
        Beginning::After(place) => feed.watch_from(filter, place).await,
    };
    let mut responses = Box::pin(WatchResponses::of(begun.map_err(|error| refused(error, call))?, call));
    poll_fn(|cx| responses.as_mut().poll_first(cx)).await?;
    Ok(responses)
}

/// The token of the unfiltered watch that stands behind a position.
pub fn token_of(position: Position) -> String {
    token(call_of(&Filter::all()), &Place::Changes(position))
}

/// Where a watch begins.
enum Beginning {
    Now,
    Snapshot,
    Oldest,
    After(Place),
}

fn parse(request: pb::WatchProfilesRequest) -> Result<(Filter, Beginning), RpcError> {
    let mut violations = Violations::new();
    let filter = match request.domain.as_str() {
        "" => Some(Filter::all()),
        domain => {
            let domain = violations.check(Domain::parse(domain, "domain"));
            domain.map(|domain| Filter::domain(&domain, request.include_subdomains))
        }
    };
    let (start, resume_token) = match request.start {
        None => (WatchStart::Now, None),
        Some(Start::ResumeToken(token)) => (WatchStart::Unspecified, Some(token)),
        Some(Start::StartAt(start)) => {
            let known = WatchStart::try_from(start);
            if known.is_err() {
                violations.add("start_at", "must be one of the values of WatchStart");
            }
            (known.ok().filter(|start| *start != WatchStart::Unspecified).unwrap_or(WatchStart::Now), None)
        }
    };
    if request.include_snapshot && start != WatchStart::Now {
        violations.add("include_snapshot", "must be false unless the watch starts at WATCH_START_NOW");
    }
    let place = resume_token.map(|token| {
        let token = PageToken::decode(&token)?.cursor_for(call_of(filter.as_ref()?))?;
        Place::decode(&token.0)
    });
    let Some(filter) = filter.filter(|_| violations.is_empty()) else { return Err(violations.into()) };
    let beginning = match (place, start) {
        (Some(None), _) => return Err(RpcError::InvalidResumeToken),
        (Some(Some(place)), _) => Beginning::After(place),
        (None, WatchStart::Oldest) => Beginning::Oldest,
        (None, _) if request.include_snapshot => Beginning::Snapshot,
        (None, _) => Beginning::Now,
    };
    Ok((filter, beginning))
}

fn call_of(filter: &Filter) -> CallFingerprint {
    scope_fingerprint("WatchProfiles", filter.scope())
}

/// The token of a watch that stands at a place.
pub(super) fn token(call: CallFingerprint, place: &Place) -> String {
    PageToken::new(call, Cursor(place.encode())).encode()
}

/// What a watch is told that cannot go on.
pub(super) fn refused(error: FeedError, call: CallFingerprint) -> RpcError {
    match error {
        FeedError::TooManyWatchers { limit } => RpcError::TooManyWatchers { limit },
        FeedError::LeftToOthers { limit } => RpcError::WatchersLeftToOthers { limit },
        FeedError::Store(StoreError::Truncated { oldest }) => {
            RpcError::FeedTruncated { oldest_token: token(call, &Place::Changes(oldest)) }
        }
        FeedError::Store(StoreError::InvalidPosition | StoreError::InvalidCursor) => RpcError::InvalidResumeToken,
        FeedError::Store(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineRules;
    use crate::engine::memory::MemoryStore;
    use crate::model::{Canonicalization, Draft, Precondition, Profile, Write};
    use crate::store::{Commit, NoObserver, PageBounds};

    #[tokio::test]
    async fn a_snapshot_token_whose_cursor_is_of_another_list_is_refused() {
        let store = Arc::new(MemoryStore::new(EngineRules::default(), Arc::new(NoObserver)));
        let put = |id: &str| {
            let profile = Profile { id: id.into(), email: format!("{id}@x.example"), ..Profile::default() };
            Write::put(Draft::from_profile(profile, Canonicalization::default(), "p").unwrap(), Precondition::None)
        };
        store.commit(Commit::all(["a", "b"].map(put).into())).await.unwrap();
        let of_domain = Filter::domain(&Domain::parse("x.example", "domain").unwrap(), false);
        let one = PageBounds { max_records: 1, max_bytes: usize::MAX };
        let cursor = async |filter: &Filter| store.list(filter.scope(), None, one).await.unwrap().next.unwrap();
        let cursors = [cursor(&Filter::all()).await, cursor(&of_domain).await];
        let position = store.head().await.unwrap();
        let feed = Arc::new(Feed::start(store, 10));
        for (cursor, is_good) in cursors.into_iter().zip([true, false]) {
            // A snapshot in the middle of its list, as `Place` writes it, under the right fingerprint and checksum.
            let mut place = vec![2, position.as_bytes().len() as u8];
            place.extend_from_slice(position.as_bytes());
            place.extend_from_slice(&cursor.0);
            let place = Place::decode(&place.into()).unwrap();
            let start = Some(Start::ResumeToken(token(call_of(&Filter::all()), &place)));
            let begun = watch(feed.clone(), pb::WatchProfilesRequest { start, ..Default::default() }).await;
            match begun {
                Ok(_) => assert!(is_good),
                Err(error) => assert!(!is_good && matches!(error, RpcError::InvalidResumeToken), "{error:?}"),
            }
        }
    }
}
