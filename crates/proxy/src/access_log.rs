//! The access log: one line of JSON for each request or connection that a pod's annotation asks for.
//!
//! A line holds no header and no query, as these hold secrets.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use heddle_policy::telemetry::{Outcome, Side};
use heddle_policy::{Origin, PodName, Reason, SpiffeId};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::record::Entry;

/// The fields of a line, in their order. Their names are a promise: `docs/access-log.md` lists them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    /// When it began: RFC 3339 in UTC, with milliseconds.
    time: String,
    side: Side,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    /// `allowed`, `denied`, `would-deny` or `probe`; on the server's side.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'static str>,
    /// The resource and field that allowed it, or came nearest to.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    source: End<'a>,
    destination: End<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    duration_ms: f64,
    uploaded_bytes: u64,
    downloaded_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
}

#[derive(Default, Serialize)]
struct End<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a PodName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a SpiffeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// An entry as a line, without its end.
pub(crate) fn line(entry: &Entry) -> String {
    let own = End { pod: Some(&entry.pod), port: entry.port, ..End::default() };
    let peer = &entry.peer;
    let peer =
        End { pod: peer.pod.as_ref(), identity: peer.identity.as_ref(), address: peer.address, ..End::default() };
    let (source, destination) = if entry.side == Side::Client { (own, peer) } else { (peer, own) };
    let (request, ruling, span) = (entry.request.as_ref(), entry.ruling.as_ref(), entry.span.as_ref());
    let line = Line {
        time: Timestamp::try_from(entry.started).map(|time| format!("{time:.3}")).unwrap_or_default(),
        side: entry.side,
        protocol: entry.protocol,
        method: request.map(|request| request.method.as_str()),
        path: request.map(|request| request.path.as_str()),
        authority: request.map(|request| request.authority.as_str()),
        status: entry.status,
        grpc_status: entry.grpc_status,
        outcome: entry.outcome,
        decision: ruling.map(|ruling| ruling.decision.word()),
        rule: ruling.and_then(|ruling| ruling.rule.as_ref()),
        reason: entry.reason(),
        source,
        destination,
        service: entry.service.as_deref(),
        backend: entry.backend.as_deref(),
        duration_ms: (entry.duration.as_secs_f64() * 1e6).round() / 1e3,
        uploaded_bytes: entry.uploaded,
        downloaded_bytes: entry.downloaded,
        trace_id: span.map(|span| format!("{:032x}", span.trace_id)),
        span_id: span.map(|span| format!("{:016x}", span.span_id)),
    };
    // Nothing in it can fail to be written as JSON.
    serde_json::to_string(&line).unwrap_or_default()
}

/// Lines of this time are written together: to wake the writer for each costs more than the line.
const BATCH: Duration = Duration::from_millis(10);

/// Writes lines until there are no more. It blocks, so it has a thread of its own.
pub(crate) fn write(mut lines: mpsc::Receiver<String>, out: impl Write) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    while let Some(line) = lines.blocking_recv() {
        writeln!(out, "{line}")?;
        thread::sleep(BATCH);
        while let Ok(line) = lines.try_recv() {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_line_says_what_was_decided_and_by_which_rule() {
        let line = line(&Entry::example());
        assert!(!line.contains('\n'), "one line: {line}");
        let expected = json!({
            "time": "2023-11-14T22:13:20.123Z", "side": "server", "protocol": "HTTP/1.1",
            "method": "GET", "path": "/admin\"\n", "authority": "web.shop", "status": 403, "outcome": "denied",
            "decision": "denied",
            "rule": {
                "kind": "TrafficTarget", "namespace": "shop", "name": "buyers",
                "field": "spec.rules[0]", "at": "generation 3",
            },
            "reason": "route-not-allowed",
            "source": { "address": "10.0.0.1" },
            "destination": { "pod": "shop/web-1", "port": 8080 },
            "durationMs": 1.234, "uploadedBytes": 10, "downloadedBytes": 20,
            "traceId": "00000000000000000000000000000007", "spanId": "0000000000000008",
        });
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), expected);
    }

    #[test]
    fn lines_are_written_until_nobody_writes_any_more() {
        let (sender, lines) = mpsc::channel(2);
        sender.try_send("a".to_owned()).unwrap();
        sender.try_send("b".to_owned()).unwrap();
        drop(sender);
        let mut out = Vec::new();
        write(lines, &mut out).unwrap();
        assert_eq!(out, b"a\nb\n");
    }
}
