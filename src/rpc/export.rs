//! `ExportProfiles`: all profiles of a scope as a stream of chunks.
//!
//! A chunk is read when the caller has taken the one before, so a slow caller costs no memory. Each chunk's
//! cursor is where a later export goes on; the last one's leads to the end, so that a caller who lost the
//! connection just then finds out that it has everything.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tonic::Status;

use super::error::RpcError;
use super::page_token::{CallFingerprint, PageToken};
use super::request::scope_fingerprint;
use super::wire;
use crate::model::{Domain, Record, Violations};
use crate::pb;
use crate::store::{Cursor, PageBounds, Scope, Store};

/// The bounds of a chunk.
const CHUNK: PageBounds = PageBounds { max_records: 1000, max_bytes: 512 * 1024 };

/// Where an export goes on.
enum Place {
    /// At the first profile.
    Start,
    After(Cursor),
    /// Everything was sent.
    End,
}

/// The chunks of an export.
pub fn export<S: Store>(
    store: Arc<S>,
    request: pb::ExportProfilesRequest,
) -> Result<impl Stream<Item = Result<wire::ExportProfilesResponse, Status>> + Send, RpcError> {
    let mut violations = Violations::new();
    let scope = match request.domain.as_str() {
        "" => Some(Scope::All),
        domain => violations
            .check(Domain::parse(domain, "domain"))
            .map(|domain| Scope::domain(&domain, request.include_subdomains)),
    };
    let Some(scope) = scope else {
        if !request.cursor.is_empty() && PageToken::decode(&request.cursor).is_none() {
            violations.add("cursor", "must be the cursor of an export with the same arguments");
        }
        return Err(violations.into());
    };
    let call = scope_fingerprint("ExportProfiles", &scope);
    let place = place(&request.cursor, call)?;
    Ok(stream::try_unfold((store, scope, place), move |(store, scope, place)| async move {
        let after = match place {
            Place::Start => None,
            Place::After(cursor) => Some(cursor),
            Place::End => return Ok(None),
        };
        let page = store.list(&scope, after.as_ref(), CHUNK).await.map_err(RpcError::from)?;
        if page.records.is_empty() {
            return Ok(None);
        }
        let profiles = page.records.iter().map(Record::profile).collect();
        // No place of a profile has an empty cursor.
        let cursor = PageToken::new(call, page.next.clone().unwrap_or(Cursor(Bytes::new()))).encode();
        let place = page.next.map_or(Place::End, Place::After);
        Ok(Some((wire::ExportProfilesResponse { profiles, cursor }, (store, scope, place))))
    }))
}

fn place(cursor: &str, call: CallFingerprint) -> Result<Place, RpcError> {
    if cursor.is_empty() {
        return Ok(Place::Start);
    }
    let cursor = PageToken::decode(cursor).and_then(|token| token.cursor_for(call)).ok_or(RpcError::InvalidCursor)?;
    Ok(if cursor.0.is_empty() { Place::End } else { Place::After(cursor) })
}
