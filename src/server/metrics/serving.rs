//! Connections, requests in flight, and the threads that serve them.

use tokio::runtime::RuntimeMetrics;

use super::exposition::{Labels, Page};
use crate::server::serving::ServingFigures;

/// Writes the figures of connections, whose bound is `limit`.
pub fn write_connections(page: &mut Page, figures: &ServingFigures, limit: usize) {
    page.gauge("profilestore_connections", "Connections that are open.").value(figures.open());
    page.gauge("profilestore_connections_limit", "With more connections new ones are closed at once.").value(limit);
    page.counter("profilestore_connections_accepted_total", "Connections that were taken.").value(figures.accepted());
    page.counter("profilestore_connections_refused_total", "Connections closed at once, being too many.")
        .value(figures.refused());
    page.counter("profilestore_connections_failed_total", "Connections that could not be taken.")
        .value(figures.failed());
    let mut family = page.counter("profilestore_connections_ended_total", "Connections that have ended, by how.");
    for (end, count) in figures.ended() {
        family.labelled(&[("end", end)], count);
    }
}

/// Writes the bytes of requests in flight and their bound.
pub fn write_request_bytes(page: &mut Page, bytes: usize, limit: usize) {
    page.gauge("profilestore_request_in_flight_bytes", "Bytes of all requests being read or answered.").value(bytes);
    page.gauge("profilestore_request_in_flight_limit_bytes", "With more bytes requests are refused.").value(limit);
}

/// Writes the bytes of answers that are held and their bound.
pub fn write_answer_bytes(page: &mut Page, bytes: usize, limit: usize) {
    page.gauge("profilestore_answer_held_bytes", "Bytes of all answers that clients have not taken yet.")
        .value(bytes);
    page.gauge("profilestore_answer_held_limit_bytes", "With more bytes reads are refused.").value(limit);
}

/// Writes a series of one thread, given its labels, its runtime and its number there.
type WriteThread<'a> = dyn FnMut(Labels<'_>, &RuntimeMetrics, usize) + 'a;

/// Writes the figures of the runtimes: those of the serving threads, which have one worker each, and the main one.
pub fn write_runtimes(page: &mut Page, serving: &[RuntimeMetrics], main: &RuntimeMetrics) {
    let each = |write: &mut WriteThread| {
        for (number, runtime) in serving.iter().enumerate() {
            let worker = number.to_string();
            write(&[("runtime", "serving"), ("worker", &worker)], runtime, 0);
        }
        for number in 0..main.num_workers() {
            let worker = number.to_string();
            write(&[("runtime", "main"), ("worker", &worker)], main, number);
        }
    };
    let help = "How long each thread of the runtimes was busy.";
    let mut family = page.counter("profilestore_runtime_busy_seconds_total", help);
    each(&mut |labels, runtime, worker| {
        family.labelled(labels, runtime.worker_total_busy_duration(worker).as_secs_f64());
    });
    let mut family = page.counter("profilestore_runtime_parks_total", "How often each thread waited for work.");
    each(&mut |labels, runtime, worker| {
        family.labelled(labels, runtime.worker_park_count(worker));
    });
    page.gauge("profilestore_runtime_tasks", "Tasks of the main runtime.").value(main.num_alive_tasks());
}
