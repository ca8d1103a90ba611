//! Requests for the workload: from other proxies, or captured in plaintext.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

use heddle_policy::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::head::Head;
use super::replay::Replay;
use super::serve::{self, Handler, Lease};
use super::server::{Server, Way};
use crate::access::{self, Admission};
use crate::inbound::{Client, Inbound};
use crate::io::{Conn, Transport};
use crate::record::Record;
use crate::tasks::Activity;
use crate::worker::Worker;

/// Requests of one client.
struct Requests {
    worker: Rc<Worker>,
    client: Rc<Client>,
    /// Absent on a connection of another proxy, where each request names its own.
    port: Option<u16>,
    /// The application at each of its ports that was asked for. No other client's requests are on these connections: one
    /// that leaves its uploads stuck would hold up theirs.
    applications: RefCell<HashMap<u16, Rc<Server>>>,
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
    let requests = Requests::new(worker, client, None, Some(expires_at));
    serve::serve(io, Rc::new(requests), worker, activity).await;
}

/// A connection to one port of the workload.
pub(crate) async fn serve<T: Transport>(inbound: Inbound, conn: Conn<T>, activity: &Activity) {
    let Inbound { worker, client, port } = inbound;
    let requests = Requests::new(&worker, client, Some(port), None);
    serve::serve(Replay::from(conn), Rc::new(requests), &worker, activity).await;
}

impl Requests {
    fn new(worker: &Rc<Worker>, client: Rc<Client>, port: Option<u16>, expires_at: Option<SystemTime>) -> Self {
        Self { worker: worker.clone(), client, port, applications: RefCell::default(), expires_at }
    }

    fn inbound(&self, port: u16) -> Inbound {
        Inbound { worker: self.worker.clone(), client: self.client.clone(), port }
    }

    fn application(&self, inbound: &Inbound) -> Rc<Server> {
        let way = || Way::Plain(inbound.application(), self.worker.dialer);
        let panics = &self.worker.shared.meter.panics;
        self.applications.borrow_mut().entry(inbound.port).or_insert_with(|| Server::new(way(), panics)).clone()
    }

    fn refuse(&self, reason: Reason) -> Reason {
        self.client.counters.refused(reason);
        reason
    }
}

impl Handler for Requests {
    type Plan = Admitted;

    const SETTLES_PATHS: bool = true;

    fn record(&self, head: &Head) -> Option<Box<Record>> {
        let inbound = self.inbound(self.port.or(head.port)?);
        Record::of_request(&self.worker, inbound.initiator(), || head.seen())
    }

    fn decide(&self, head: &Head, record: Option<&mut Record>) -> Result<Admitted, Reason> {
        let Some(port) = self.port.or(head.port) else { return Err(self.refuse(Reason::BadRequest)) };
        let revision = self.worker.view().snapshot.revision;
        let inbound = self.inbound(port);
        match head.judge(|judged| access::check(&inbound, judged, record)) {
            Some(Admission::Admitted) => Ok(Admitted { inbound, revision }),
            Some(Admission::Denied(reason)) => Err(self.refuse(reason)),
            None => Err(self.refuse(Reason::BadRequest)),
        }
    }

    async fn connect(&self, Admitted { inbound, .. }: &Admitted) -> Result<Lease, Reason> {
        let slot = self.application(inbound).acquire().await.map_err(|reason| self.refuse(reason))?;
        Ok(Lease { slot, counters: self.client.counters.clone(), load: None, port: None })
    }

    async fn revoked(&self, Admitted { inbound, revision }: &Admitted, head: &Head) -> Reason {
        let objection = |now: &heddle_policy::Inbound| {
            head.judge(|judged| access::objection(now, inbound, judged)).unwrap_or(Some(Reason::BadRequest))
        };
        access::until_objection(&self.worker, *revision, objection).await
    }

    fn is_between_proxies(&self) -> bool {
        self.port.is_none()
    }

    fn has_expired(&self) -> bool {
        self.expires_at.is_some_and(|expires_at| SystemTime::now() >= expires_at)
    }

    fn malformed(&self, reason: Reason) {
        self.refuse(reason);
    }
}
