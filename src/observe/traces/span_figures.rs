//! What became of the spans that were made.
//!
//! The batch processor tells nobody how many spans it drops, so those that come to it are counted, and those that leave it:
//! what is missing is dropped, or waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanProcessor};

use super::SAMPLED_PART;

static MADE: AtomicU64 = AtomicU64::new(0);
static EXPORTED: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicU64 = AtomicU64::new(0);

/// What became of the spans of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanFigures {
    /// Spans that ended.
    pub made: u64,
    /// Spans that the collector took.
    pub exported: u64,
    /// Spans whose export was tried and failed.
    pub failed: u64,
}

/// The figures; `None` in a process that exports no spans.
pub fn span_figures() -> Option<SpanFigures> {
    SAMPLED_PART.get()?;
    // What left first, so that no span seems to have left before it came.
    let (exported, failed) = (EXPORTED.load(Ordering::Relaxed), FAILED.load(Ordering::Relaxed));
    Some(SpanFigures { made: MADE.load(Ordering::Relaxed), exported, failed })
}

/// The export of so many spans has ended.
pub(super) fn left(spans: usize, exported: bool) {
    let count = if exported { &EXPORTED } else { &FAILED };
    count.fetch_add(spans as u64, Ordering::Relaxed);
}

/// Counts the spans on their way into the queue.
#[derive(Debug)]
pub(super) struct Counted(pub BatchSpanProcessor);

impl SpanProcessor for Counted {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.0.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        MADE.fetch_add(1, Ordering::Relaxed);
        self.0.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}
