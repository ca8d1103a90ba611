//! Whether the workload's policy admits a request or a connection, and the record of what it does not.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use heddle_policy::{Decision, Denied, Headers, Reason, Verdict};
use tokio::time::Instant;
use tracing::info;

use crate::http1::{Request, parse_head};
use crate::inbound::Inbound;
use crate::limits;
use crate::record::Record;
use crate::worker::Worker;

/// What becomes of a request or connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Admitted,
    Denied(Reason),
}

/// What becomes of a connection that is not looked into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passage {
    Open,
    /// It may be a probe that only connects: it is answered, and a byte of it is denied for this reason.
    Probe(Reason),
    Denied(Reason),
}

/// Judges a request by the present configuration; `None` when its path cannot be judged.
pub(crate) fn check_request(to: &Inbound, request: &Request<'_, '_>, record: Option<&mut Record>) -> Option<Admission> {
    request.judge(|judged| check(to, judged, record))
}

/// Judges a request, as rules see it, by the present configuration.
pub(crate) fn check<H: Headers + ?Sized>(
    to: &Inbound,
    judged: &heddle_policy::Request<'_, H>,
    record: Option<&mut Record>,
) -> Admission {
    let view = to.worker.view();
    if view.snapshot.config.settings.is_none() {
        return Admission::Denied(Reason::Overloaded);
    }
    let what = || format!("{} {}", judged.method, judged.path);
    if to.is_proxy_itself() {
        return deny_proxy_itself(to, record, what);
    }
    let inbound = &view.snapshot.config.inbound;
    let decision = inbound.decide_request(&to.client.peer, to.port, judged);
    let request = Some((judged.method, judged.path));
    let is_probe = || to.client.plaintext_from.is_some_and(|from| inbound.is_probe(from, to.port, request));
    admit(to, &decision, record, is_probe, what)
}

/// The proxy's own ports are none of the workload's, whatever policy and mode say: through them a client would speak
/// in the workload's name, or read what the proxy knows.
fn deny_proxy_itself(to: &Inbound, record: Option<&mut Record>, what: impl FnOnce() -> String) -> Admission {
    let reason = Reason::PortNotAllowed;
    let denied = Denied { reason, nearest: None };
    if let Some(record) = record {
        record.decided(&Decision { admitted: false, verdict: Verdict::Denied(denied) }, false);
    }
    log(to, denied, false, what);
    Admission::Denied(reason)
}

/// Judges a connection that is not looked into. [`Reason::NotHttp`] means that its requests may be allowed: it is not
/// recorded before the connection has turned out to have none.
pub(crate) fn check_connection(to: &Inbound, record: Option<&mut Record>) -> Passage {
    let view = to.worker.view();
    if view.snapshot.config.settings.is_none() {
        return Passage::Denied(Reason::Overloaded);
    }
    if to.is_proxy_itself() {
        return deny_proxy_itself(to, record, || "TCP".to_owned()).into();
    }
    let inbound = &view.snapshot.config.inbound;
    let decision = inbound.decide_connection(&to.client.peer, to.port);
    if let (false, Verdict::Denied(Denied { reason: Reason::NotHttp, .. })) = (decision.admitted, decision.verdict) {
        return Passage::Denied(Reason::NotHttp);
    }
    let is_probe = || to.client.plaintext_from.is_some_and(|from| inbound.is_probe(from, to.port, None));
    let admission = admit(to, &decision, record, is_probe, || "TCP".to_owned());
    match (admission, decision.verdict) {
        (Admission::Admitted, Verdict::Denied(denied)) if !still_allows_connection(inbound, to) => {
            Passage::Probe(denied.reason)
        }
        _ => admission.into(),
    }
}

/// Whether a connection would be admitted if it carried no HTTP. Nothing is recorded.
pub(crate) fn would_admit_connection(to: &Inbound) -> bool {
    let view = to.worker.view();
    let config = &view.snapshot.config;
    config.settings.is_some() && !to.is_proxy_itself() && still_allows_connection(&config.inbound, to)
}

/// Records that a connection is denied which could have been allowed as HTTP only.
pub(crate) fn deny_not_http(to: &Inbound, record: Option<&mut Record>) {
    let view = to.worker.view();
    let decision = view.snapshot.config.inbound.decide_connection(&to.client.peer, to.port);
    if let Some(record) = record {
        record.decided(&decision, false);
    }
    if let Verdict::Denied(denied) = decision.verdict {
        log(to, denied, false, || "TCP".to_owned());
    }
}

/// Applies a decision, and records one that is against policy.
fn admit(
    to: &Inbound,
    decision: &Decision<'_>,
    record: Option<&mut Record>,
    is_probe: impl FnOnce() -> bool,
    what: impl FnOnce() -> String,
) -> Admission {
    let is_probe = matches!(decision.verdict, Verdict::Denied(_)) && is_probe();
    if let Some(record) = record {
        record.decided(decision, is_probe);
    }
    let Verdict::Denied(denied) = decision.verdict else { return Admission::Admitted };
    if is_probe {
        return Admission::Admitted;
    }
    if decision.admitted {
        to.client.counters.would_deny();
    }
    log(to, denied, decision.admitted, what);
    if decision.admitted { Admission::Admitted } else { Admission::Denied(denied.reason) }
}

/// Whether a live connection would be admitted by `inbound`, a newer configuration (A28).
pub(crate) fn still_allows_connection(inbound: &heddle_policy::Inbound, to: &Inbound) -> bool {
    inbound.decide_connection(&to.client.peer, to.port).admitted
        || to.client.plaintext_from.is_some_and(|from| inbound.is_tls_probe(from, to.port))
}

/// Whether a request that changed protocol, such as to WebSocket, would be admitted by a newer configuration.
pub(crate) fn still_allows_head(inbound: &heddle_policy::Inbound, to: &Inbound, head: &[u8]) -> bool {
    let judge = |request: &Request<'_, '_>| {
        request.judge(|judged| inbound.decide_request(&to.client.peer, to.port, judged).admitted)
    };
    parse_head(head, judge).flatten().unwrap_or(false)
}

/// Why a request of HTTP/1 under way would not be admitted by `inbound`, if it would not.
pub(crate) fn objection_to_head(inbound: &heddle_policy::Inbound, to: &Inbound, head: &[u8]) -> Option<Reason> {
    let judge = |request: &Request<'_, '_>| request.judge(|judged| objection(inbound, to, judged));
    parse_head(head, judge).flatten().unwrap_or(Some(Reason::BadRequest))
}

/// Why a request under way would not be admitted by `inbound`, if it would not.
pub(crate) fn objection<H: Headers + ?Sized>(
    inbound: &heddle_policy::Inbound,
    to: &Inbound,
    judged: &heddle_policy::Request<'_, H>,
) -> Option<Reason> {
    let decision = inbound.decide_request(&to.client.peer, to.port, judged);
    let request = Some((judged.method, judged.path));
    let is_probe = to.client.plaintext_from.is_some_and(|from| inbound.is_probe(from, to.port, request));
    match decision.verdict {
        Verdict::Denied(denied) if !decision.admitted && !is_probe => Some(denied.reason),
        _ => None,
    }
}

/// Waits for a configuration that objects to what the one of `revision` admitted; why it does.
pub(crate) async fn until_objection(
    worker: &Worker,
    revision: u64,
    objection: impl Fn(&heddle_policy::Inbound) -> Option<Reason>,
) -> Reason {
    let mut changes = worker.shared.changes.subscribe();
    loop {
        let view = worker.view();
        // Policy may have changed since the request was admitted.
        if view.snapshot.revision != revision
            && let Some(reason) = objection(&view.snapshot.config.inbound)
        {
            return reason;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs `moving` to its end, or until a configuration comes by which `check` fails: then `None`.
pub(crate) async fn until_revoked<R>(
    worker: &Worker,
    moving: impl Future<Output = R>,
    check: impl Fn(&heddle_policy::Inbound) -> bool,
) -> Option<R> {
    let mut changes = worker.shared.changes.subscribe();
    // Policy may have changed since the connection was admitted.
    if !check(&worker.view().snapshot.config.inbound) {
        return None;
    }
    let revoked = async {
        while changes.changed().await.is_ok() {
            if !check(&worker.view().snapshot.config.inbound) {
                return;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        result = moving => Some(result),
        () = revoked => None,
    }
}

impl From<Admission> for Passage {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Admitted => Self::Open,
            Admission::Denied(reason) => Self::Denied(reason),
        }
    }
}

fn log(to: &Inbound, denied: Denied<'_>, admitted: bool, what: impl FnOnce() -> String) {
    thread_local! {
        static LOGGED: Cell<(Option<Instant>, u32)> = const { Cell::new((None, 0)) };
    }
    let now = Instant::now();
    let (since, count) = LOGGED.get();
    let (since, count) = match since {
        Some(since) if now < since + Duration::from_secs(1) => (since, count),
        _ => (now, 0),
    };
    LOGGED.set((Some(since), count.saturating_add(1)));
    if count >= limits::LOGGED_DENIALS {
        return;
    }
    let source = to.client.peer.identity.as_ref().map_or("plaintext", |identity| identity.as_str());
    let rule = denied.nearest.map(ToString::to_string).unwrap_or_default();
    let verdict = if admitted { "would deny" } else { "denied" };
    info!(source, port = to.port, request = what(), reason = denied.reason.code(), nearest = rule, "{verdict}");
}
