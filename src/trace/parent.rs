//! The W3C trace context of one span, in the form in which it travels with a write.

use std::fmt;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The bit of the flags that says that the caller records the trace.
const SAMPLED: u8 = 1;
/// The length of version 00.
const LENGTH: usize = 55;

/// A span of a trace that is recorded. Nothing follows a trace that is not, so there is no other kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

/// What a `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The caller records this trace.
    Sampled(TraceParent),
    /// The caller does not record it.
    Unsampled,
    /// It is not one that can be read; the call goes on as without it.
    Malformed,
}

impl Parent {
    /// Reads a `traceparent` header (W3C Trace Context, section 3.2). Later versions may have more behind.
    pub fn parse(header: &[u8]) -> Self {
        match Self::read(header) {
            None => Self::Malformed,
            Some((_, flags)) if flags & SAMPLED == 0 => Self::Unsampled,
            Some((parent, _)) => Self::Sampled(parent),
        }
    }

    /// The trace that a header names, whether or not its caller records it: others may.
    pub fn trace_id_in(header: &[u8]) -> Option<TraceId> {
        Self::read(header).map(|(parent, _)| parent.trace_id())
    }

    fn read(header: &[u8]) -> Option<(TraceParent, u8)> {
        let (fields, rest) = header.split_at_checked(LENGTH)?;
        let [version] = hex(&fields[..2])?;
        let dashes = [fields[2], fields[35], fields[52]] == *b"---";
        let whole = rest.is_empty() || (version > 0 && rest[0] == b'-');
        if version == 0xff || !dashes || !whole {
            return None;
        }
        let parent = TraceParent { trace_id: hex(&fields[3..35])?, span_id: hex(&fields[36..52])? };
        let [flags] = hex(&fields[53..])?;
        if parent.trace_id == [0; 16] || parent.span_id == [0; 8] {
            return None;
        }
        Some((parent, flags))
    }
}

impl TraceParent {
    /// Reads what [`fmt::Display`] has written, or a caller's header of a trace that is recorded.
    pub fn parse(header: &str) -> Option<Self> {
        match Parent::parse(header.as_bytes()) {
            Parent::Sampled(parent) => Some(parent),
            Parent::Unsampled | Parent::Malformed => None,
        }
    }

    /// The span that a context is about, if it is recorded.
    pub fn of(context: &SpanContext) -> Option<Self> {
        (context.is_valid() && context.is_sampled())
            .then(|| Self { trace_id: context.trace_id().to_bytes(), span_id: context.span_id().to_bytes() })
    }

    /// The same as OpenTelemetry has it, with a caller's `tracestate`.
    pub fn span_context(&self, state: TraceState) -> SpanContext {
        let (trace_id, span_id) = (TraceId::from_bytes(self.trace_id), SpanId::from_bytes(self.span_id));
        SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true, state)
    }

    /// The trace's id.
    pub fn trace_id(&self) -> TraceId {
        TraceId::from_bytes(self.trace_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id) = (TraceId::from_bytes(self.trace_id), SpanId::from_bytes(self.span_id));
        write!(f, "00-{trace_id}-{span_id}-01")
    }
}

/// Lower-case hexadecimal digits, as the header must have.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED_HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_that_is_written_reads_the_same() {
        let parent = TraceParent::parse(SAMPLED_HEADER).unwrap();
        assert_eq!(parent.to_string(), SAMPLED_HEADER);
        let context = parent.span_context(TraceState::default());
        assert_eq!(TraceParent::of(&context), Some(parent));
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
    }

    #[test]
    fn a_header_is_read_as_the_standard_says_or_not_at_all() {
        let with = |from: usize, text: &str| {
            let mut header = SAMPLED_HEADER.as_bytes().to_vec();
            header[from..from + text.len()].copy_from_slice(text.as_bytes());
            header
        };
        let sampled = Parent::Sampled(TraceParent::parse(SAMPLED_HEADER).unwrap());
        assert_eq!(Parent::parse(&with(53, "00")), Parent::Unsampled);
        assert_eq!(Parent::parse(&with(53, "02")), Parent::Unsampled);
        let trace_id = Parent::trace_id_in(&with(53, "00")).unwrap().to_string();
        assert_eq!(trace_id, "4bf92f3577b34da6a3ce929d0e0e4736", "it has its trace all the same");
        assert_eq!(Parent::parse(&with(53, "ff")), sampled);
        assert_eq!(Parent::parse(&[&with(0, "01")[..], b"-more"].concat()), sampled, "a later version");
        let zeros = "0".repeat(32);
        for bad in [
            with(0, "ff"),
            with(2, "_"),
            with(35, "_"),
            with(52, "_"),
            with(3, &zeros),
            with(36, &zeros[..16]),
            with(3, "4BF9"),
            with(53, "0g"),
            SAMPLED_HEADER.as_bytes()[..54].to_vec(),
            [SAMPLED_HEADER.as_bytes(), b"-more"].concat(),
            [&with(0, "01")[..], b"more"].concat(),
            Vec::new(),
        ] {
            assert_eq!(Parent::parse(&bad), Parent::Malformed, "{:?}", String::from_utf8_lossy(&bad));
        }
    }
}
