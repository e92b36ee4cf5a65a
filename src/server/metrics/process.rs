//! The process: CPU, memory, open files, threads, start time, panics; and its spans.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_process::Collector;

use super::exposition::Page;
use crate::observe::panics;
use crate::observe::traces::{SpanFigures, span_figures};

/// Collects the process' figures in a recorder of its own; there is no global one.
pub struct Process {
    collector: Collector,
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Process {
    /// Describes the figures.
    pub fn new() -> Self {
        let collector = Collector::default();
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || collector.describe());
        let handle = recorder.handle();
        Self { collector, recorder, handle }
    }

    /// Writes the figures as of now.
    pub fn write(&self, page: &mut Page) {
        let help = "Panics of any thread or call, whether or not something went on after it.";
        page.counter("profilestore_panics_total", help).value(panics::so_far());
        write_spans(page);
        metrics::with_local_recorder(&self.recorder, || self.collector.collect());
        self.handle.run_upkeep();
        page.append(&self.handle.render());
    }
}

/// The spans of traces, if there are any.
fn write_spans(page: &mut Page) {
    let Some(SpanFigures { made, exported, failed }) = span_figures() else { return };
    for (name, help, count) in [
        (
            "profilestore_trace_spans_made_total",
            "Spans that ended; those that neither left nor failed wait or were dropped.",
            made,
        ),
        ("profilestore_trace_spans_exported_total", "Spans that the collector took.", exported),
        ("profilestore_trace_spans_failed_total", "Spans whose export failed.", failed),
    ] {
        page.counter(name, help).value(count);
    }
}
