//! Requests for the workload: from other proxies, or captured in plaintext.

use std::rc::Rc;
use std::time::SystemTime;

use heddle_policy::Reason;
use heddle_policy::telemetry::Outcome;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::head::Head;
use super::replay::Replay;
use super::serve::{self, Handler, Lease};
use crate::access::{self, Admission};
use crate::inbound::{Client, Inbound};
use crate::io::{Conn, Transport};
use crate::tasks::Activity;
use crate::worker::Worker;

/// Requests of one client.
struct Requests {
    worker: Rc<Worker>,
    client: Rc<Client>,
    /// Absent on a connection of another proxy, where each request names its own.
    port: Option<u16>,
    /// When what the client proved ends; absent where it proved nothing.
    expires_at: Option<SystemTime>,
}

/// A request that was admitted.
struct Admitted {
    inbound: Inbound,
    /// Of the configuration that admitted it.
    revision: u64,
}

/// A connection of another proxy.
pub(crate) async fn mesh<T>(worker: &Rc<Worker>, io: T, client: Rc<Client>, expires_at: SystemTime, activity: &Activity)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let requests = Requests { worker: worker.clone(), client, port: None, expires_at: Some(expires_at) };
    serve::serve(io, Rc::new(requests), worker, activity).await;
}

/// A connection to one port of the workload.
pub(crate) async fn serve<T: Transport>(inbound: Inbound, conn: Conn<T>, activity: &Activity) {
    let Inbound { worker, client, port } = inbound;
    let requests = Requests { worker: worker.clone(), client, port: Some(port), expires_at: None };
    serve::serve(Replay::from(conn), Rc::new(requests), &worker, activity).await;
}

impl Requests {
    fn refuse(&self, reason: Reason) -> Reason {
        let denied = reason.status() == 403;
        self.client.counters.request(if denied { Outcome::Denied } else { Outcome::Failure });
        self.client.counters.reason(reason);
        reason
    }
}

impl Handler for Requests {
    type Plan = Admitted;

    fn decide(&self, head: &Head) -> Result<Admitted, Reason> {
        let Some(port) = self.port.or(head.port) else { return Err(self.refuse(Reason::BadRequest)) };
        let revision = self.worker.view().snapshot.revision;
        let inbound = Inbound { worker: self.worker.clone(), client: self.client.clone(), port };
        match head.judge(|judged| access::check(&inbound, judged)) {
            Some(Admission::Admitted) => Ok(Admitted { inbound, revision }),
            Some(Admission::Denied(reason)) => Err(self.refuse(reason)),
            None => Err(self.refuse(Reason::BadRequest)),
        }
    }

    async fn connect(&self, Admitted { inbound, .. }: &Admitted) -> Result<Lease, Reason> {
        let address = inbound.application();
        // Through the proxy's own listeners a client would speak in the workload's name.
        if self.worker.shared.is_own(address) {
            debug!(%address, "a client asks for the proxy itself");
            return Err(self.refuse(Reason::ConnectFailed));
        }
        let server = self.worker.http2.plain(address, self.worker.dialer);
        let slot = server.acquire().await.map_err(|reason| self.refuse(reason))?;
        Ok(Lease { slot, counters: self.client.counters.clone(), load: None, port: None })
    }

    async fn revoked(&self, Admitted { inbound, revision }: &Admitted, head: &Head) -> Reason {
        let objection = |now: &heddle_policy::Inbound| {
            head.judge(|judged| access::objection(now, inbound, judged)).unwrap_or(Some(Reason::BadRequest))
        };
        let mut changes = self.worker.shared.changes.subscribe();
        loop {
            let view = self.worker.view();
            // Policy may have changed since the request was admitted.
            if view.snapshot.revision != *revision
                && let Some(reason) = objection(&view.snapshot.config.inbound)
            {
                return reason;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn has_expired(&self) -> bool {
        self.expires_at.is_some_and(|expires_at| SystemTime::now() >= expires_at)
    }

    fn malformed(&self, reason: Reason) {
        self.refuse(reason);
    }
}
