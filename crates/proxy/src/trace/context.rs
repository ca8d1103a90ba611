//! The headers `traceparent` and `tracestate` (W3C Trace Context, level 1).

use heddle_policy::Tracing;

/// The place of a span in its trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Not zero, as `span_id` is not.
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    /// The span of the hop before; absent for a trace that begins here.
    pub(crate) parent: Option<u64>,
    /// The `tracestate`, as it was received.
    pub(crate) state: String,
}

/// What is made of a request's trace: of the one it carries, or of a new one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Propagation {
    span: Span,
    sampled: bool,
    /// Whether the trace began before, and its `tracestate` holds.
    continued: bool,
}

/// The longest `tracestate` that a span is given; the header goes on whatever its length.
const STATE_BYTES: usize = 512;

/// A `traceparent` that could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl Propagation {
    /// Continues the trace of the headers, or begins one. One that is not valid is as none, and its state is not kept.
    pub(crate) fn of(
        tracing: &Tracing,
        traceparent: Option<&[u8]>,
        tracestate: Option<&[u8]>,
        random: impl Fn() -> u64,
    ) -> Self {
        let span_id = random().max(1);
        match traceparent.and_then(parse) {
            Some(Parent { trace_id, span_id: parent, sampled }) => {
                let state = tracestate.filter(|state| state.len() <= STATE_BYTES).unwrap_or_default();
                let state = String::from_utf8_lossy(state).into_owned();
                let span = Span { trace_id, span_id, parent: Some(parent), state };
                Self { span, sampled, continued: true }
            }
            None => {
                let low = random();
                let trace_id = (u128::from(random()) << 64 | u128::from(low)).max(1);
                let share = (u128::from(low) * 1_000_000) >> 64;
                let span = Span { trace_id, span_id, parent: None, state: String::new() };
                Self { span, sampled: share < u128::from(tracing.samples_per_million), continued: false }
            }
        }
    }

    /// The span that is made of the request; none where the trace is not sampled.
    pub(crate) fn span(&self) -> Option<Span> {
        self.sampled.then(|| self.span.clone())
    }

    /// Whether the next hop hears of another span than the one before. What is not sampled goes on as it came.
    pub(crate) fn is_new(&self) -> bool {
        self.sampled || !self.continued
    }

    /// The headers of traces as the next hop receives them: a value, or none for one that does not go on.
    pub(crate) fn headers(&self) -> Vec<(&'static str, Option<String>)> {
        let flags = u8::from(self.sampled);
        let parent = format!("00-{:032x}-{:016x}-{flags:02x}", self.span.trace_id, self.span.span_id);
        let mut headers = vec![("traceparent", Some(parent))];
        if !self.continued {
            headers.push(("tracestate", None));
        }
        headers
    }
}

/// Reads `version-traceid-parentid-flags`. A later version may have more behind it.
fn parse(header: &[u8]) -> Option<Parent> {
    let text = std::str::from_utf8(header).ok()?.trim_ascii();
    let (fields, rest) = text.split_at_checked(55)?;
    let mut fields = fields.split('-');
    let (version, trace_id, span_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let lengths = [(version, 2), (trace_id, 32), (span_id, 16), (flags, 2)];
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let well_formed = lengths.iter().all(|(field, length)| field.len() == *length && is_hex(field));
    let ends = rest.is_empty() || (version != "00" && rest.starts_with('-'));
    if !well_formed || !ends || version == "ff" || fields.next().is_some() {
        return None;
    }
    let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id > 0)?;
    let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id > 0)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some(Parent { trace_id, span_id, sampled: flags & 1 == 1 })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use heddle_policy::OtlpProtocol;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracing(samples_per_million: u32) -> Tracing {
        let (endpoint, protocol) = ("http://collector:4317".into(), OtlpProtocol::Grpc);
        Tracing { endpoint, protocol, ca_certificates: None, samples_per_million }
    }

    fn propagate(samples_per_million: u32, traceparent: Option<&str>) -> Propagation {
        let next = Cell::new(0x1111_1111_1111_1111);
        let random = || next.replace(next.get() + 1);
        Propagation::of(&tracing(samples_per_million), traceparent.map(str::as_bytes), Some(b"a=1"), random)
    }

    #[test]
    fn a_trace_is_continued_as_it_was_decided_whatever_the_ratio() {
        let sampled = propagate(0, Some(PARENT));
        let span = sampled.span().unwrap();
        assert_eq!((span.parent, span.state.as_str()), (Some(0xb7ad_6b71_6920_3331), "a=1"));
        let expected = "00-0af7651916cd43dd8448eb211c80319c-1111111111111111-01";
        assert_eq!(sampled.headers(), [("traceparent", Some(expected.to_owned()))]);
        let unsampled = propagate(1_000_000, Some(&PARENT.replace("-01", "-00")));
        assert_eq!((unsampled.span(), unsampled.is_new()), (None, false));
    }

    #[test]
    fn a_trace_that_begins_here_is_sampled_by_the_ratio_and_the_next_hop_is_told() {
        let all = propagate(1_000_000, None);
        assert_eq!(all.span().unwrap().parent, None);
        assert!(all.headers()[0].1.as_ref().unwrap().ends_with("-01"));
        let none = propagate(0, None);
        assert_eq!((none.span(), none.is_new()), (None, true));
        assert!(none.headers()[0].1.as_ref().unwrap().ends_with("-00"));
        assert_eq!(none.headers()[1], ("tracestate", None));
        let random = crate::random::Random::new();
        let sample = || Propagation::of(&tracing(250_000), None, None, || random.next()).sampled;
        let sampled = (0..10_000).filter(|_| sample()).count();
        assert!((2_000..3_000).contains(&sampled), "{sampled} of 10,000 at a quarter");
    }

    #[test]
    fn what_is_not_a_traceparent_begins_a_trace() {
        let zeros = format!("00-{:032x}-{:016x}-01", 0, 1);
        let no_span = format!("00-{:032x}-{:016x}-01", 1, 0);
        let longer = format!("{PARENT}-x");
        let several = format!("{PARENT},{PARENT}");
        let upper = PARENT.to_uppercase();
        let ff = PARENT.replacen("00", "ff", 1);
        for header in [
            "",
            "00",
            &zeros,
            &no_span,
            &longer,
            &several,
            &upper,
            &ff,
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(header.as_bytes()), None, "{header}");
        }
        assert!(!propagate(0, Some(&several)).continued);
        let later = format!("{}-more", PARENT.replacen("00", "01", 1));
        assert_eq!(parse(later.as_bytes()), parse(PARENT.as_bytes()), "a later version has more behind it");
    }
}
