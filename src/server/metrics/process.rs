//! The process: CPU, memory, open files, threads, start time, panics.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_process::Collector;

use super::exposition::Page;
use crate::observe::panics;

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
        metrics::with_local_recorder(&self.recorder, || self.collector.collect());
        self.handle.run_upkeep();
        page.append(&self.handle.render());
    }
}
