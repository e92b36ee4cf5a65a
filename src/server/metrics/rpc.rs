//! The calls, under the names that dashboards for gRPC servers know.

use super::exposition::{Labels, NANOSECONDS, Page};
use crate::observe::{CallFigures, Code, MethodFigures};

type Count = fn(&MethodFigures) -> u64;

/// Counters of a method: name, help, and where it is.
const COUNTERS: [(&str, &str, Count); 5] = [
    ("grpc_server_started_total", "Calls that have begun.", |of| of.begun),
    ("grpc_server_msg_received_total", "Messages received from callers.", |of| of.received_messages),
    ("grpc_server_msg_sent_total", "Messages sent to callers.", |of| of.sent_messages),
    ("profilestore_rpc_received_bytes_total", "Bytes of messages received from callers.", |of| of.received_bytes),
    ("profilestore_rpc_sent_bytes_total", "Bytes of messages sent to callers.", |of| of.sent_bytes),
];

/// Writes the figures of all calls.
pub fn write(page: &mut Page, calls: &CallFigures) {
    let each = |write: &mut dyn FnMut(&MethodFigures, Labels<'_>)| {
        for of in &calls.methods {
            let method = of.method;
            write(
                of,
                &[("grpc_type", method.kind()), ("grpc_service", method.service()), ("grpc_method", method.name())],
            );
        }
    };
    for (name, help, count) in COUNTERS {
        let mut family = page.counter(name, help);
        each(&mut |of, labels| {
            family.labelled(labels, count(of));
        });
    }
    // All codes from the beginning: the rate of a series that begins with its first error would miss that error.
    let mut family = page.counter("grpc_server_handled_total", "Calls that have ended, by code.");
    each(&mut |of, labels| {
        for code in Code::all() {
            let labels = [labels, &[("grpc_code", code.name())]].concat();
            family.labelled(&labels, of.by_code[code.number()]);
        }
    });
    let mut family = page.histogram("grpc_server_handling_seconds", "How long calls took until their end was sent.");
    each(&mut |of, labels| {
        family.distribution(labels, &of.latency, NANOSECONDS);
    });
    let mut family = page.gauge("profilestore_rpc_in_flight", "Calls that have begun and not ended.");
    each(&mut |of, labels| {
        family.labelled(labels, of.in_flight());
    });
}
