//! Sends spans to a collector, by OTLP over gRPC.
//!
//! ```text
//! serving threads → bounded queue → OpenTelemetry's batch thread → our thread: the connection to the collector
//! ```
//!
//! Nobody waits for a collector: a span that finds the queue full is dropped, and an export that takes too long is
//! given up. The queue's and the batches' bounds, headers, time and compression are those of the standard `OTEL_*` variables.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::span_figures::{self, Counted};
use super::{SAMPLED_PART, TraceOptions};
use crate::observe::pace::Pace;
use crate::trace;

/// Whatever the collector does, an export is given up after this time.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// What the resource says of the service when `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` do not.
const SERVICE: &str = "profilestore";

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The settings, or one of the `OTEL_*` variables, cannot be used.
    #[error("traces cannot be exported to observe.otlp_endpoint: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// A thread cannot be started.
    #[error("the thread for traces cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// The process's exporter of spans.
pub struct Exporter {
    provider: SdkTracerProvider,
    thread: JoinHandle<()>,
    stop: CancellationToken,
}

impl Exporter {
    /// Starts it. There is one in a process, and it has no second life: what is started after the first gets no spans.
    pub fn start(options: &TraceOptions) -> Result<Self, TraceError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let otlp = {
            let _on_its_runtime = handle.enter();
            OtlpExporter::builder().with_tonic().with_endpoint(options.endpoint.as_str()).build()?
        };
        let stopped = stop.clone().cancelled_owned();
        let thread = std::thread::Builder::new().name("traces".into()).spawn(move || {
            runtime.block_on(stopped);
            // A look-up of the collector's name may go on; it ends with the process.
            runtime.shutdown_background();
        })?;
        let exporter = OnItsThread { otlp: Arc::new(otlp), handle, failures: Mutex::new(Pace::default()) };
        let resource =
            Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let resource = if names_the_service() { resource } else { resource.with_service_name(SERVICE) };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Counted(BatchSpanProcessor::builder(exporter).build()))
            // Which calls are recorded is decided before there is a span.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.build())
            .build();
        trace::install(BoxedTracer::new(Box::new(provider.tracer(SERVICE))));
        // Saturates: a ratio of 1 is all.
        let _ = SAMPLED_PART.set((options.ratio * u64::MAX as f64) as u64);
        Ok(Self { provider, thread, stop })
    }

    /// Sends what is left, for as long as that may take, and ends. Blocks.
    pub fn stop(self, within: Duration) {
        let sent = self.provider.shutdown_with_timeout(within);
        if let Err(error) = sent {
            tracing::warn!(%error, "the last traces could not be exported");
        }
        self.stop.cancel();
        // A panic has been logged by the panic hook.
        let _ = self.thread.join();
    }
}

fn names_the_service() -> bool {
    let attributes = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty()) || attributes.contains("service.name=")
}

/// An exporter whose work is done on the thread that we have for it, with an end to it, and a word when it fails.
#[derive(Debug)]
struct OnItsThread {
    otlp: Arc<OtlpExporter>,
    handle: Handle,
    failures: Mutex<Pace>,
}

impl SpanExporter for OnItsThread {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (spans, otlp) = (batch.len(), self.otlp.clone());
        let exported =
            self.handle.spawn(async move { tokio::time::timeout(EXPORT_TIMEOUT, otlp.export(batch)).await }).await;
        let result = match exported {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(EXPORT_TIMEOUT)),
            Err(_) => Err(OTelSdkError::AlreadyShutdown),
        };
        span_figures::left(spans, result.is_ok());
        if let Err(error) = &result
            && let Some(left_out) = self.failures.lock().pass(Instant::now())
        {
            tracing::warn!(%error, spans, left_out, "traces could not be exported");
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(otlp) = Arc::get_mut(&mut self.otlp) {
            otlp.set_resource(resource);
        }
    }
}
