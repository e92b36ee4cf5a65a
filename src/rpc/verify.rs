//! `Verify`: a check of the whole store, with its progress.
//!
//! The store makes the check where its scans run. It ends when its caller goes away.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::Status;

use super::error::RpcError;
use super::request::to_int64;
use crate::pb;
use crate::store::{Problem, Store, StoreError, VerifyProgress, VerifyReport};

/// How often the caller hears of the progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

type Check = Pin<Box<dyn Future<Output = Result<VerifyReport, StoreError>> + Send>>;

/// A check that goes on.
struct Run {
    check: Check,
    progress: VerifyProgress,
    /// How many problems were sent.
    sent: usize,
}

/// The responses of a check.
pub fn verify<S: Store>(store: Arc<S>) -> impl Stream<Item = Result<pb::VerifyResponse, Status>> + Send {
    let progress = VerifyProgress::default();
    let check: Check = Box::pin({
        let progress = progress.clone();
        async move { store.verify_with(progress).await }
    });
    stream::try_unfold(Some(Run { check, progress, sent: 0 }), |run| async move {
        let Some(mut run) = run else { return Ok(None) };
        let ended = tokio::time::timeout(PROGRESS_EVERY, &mut run.check).await;
        let mut response = run.response();
        let Ok(report) = ended else { return Ok(Some((response, Some(run)))) };
        let report = report.map_err(RpcError::from)?;
        response.done = true;
        response.unsettled_count = to_int64(report.unsettled);
        Ok(Some((response, None)))
    })
}

impl Run {
    fn response(&mut self) -> pb::VerifyResponse {
        let problems = self.progress.problems_after(self.sent);
        self.sent += problems.len();
        pb::VerifyResponse {
            checked_count: to_int64(self.progress.checked()),
            problems: problems.into_iter().map(to_message).collect(),
            done: false,
            unsettled_count: 0,
        }
    }
}

fn to_message(Problem { description, remedy }: Problem) -> pb::VerifyProblem {
    pb::VerifyProblem { description, remedy }
}
