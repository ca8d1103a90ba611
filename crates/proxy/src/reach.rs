//! The way to a member of a cluster: one is chosen, and others are tried while it cannot be connected to.

use std::rc::Rc;
use std::sync::Arc;

use heddle_policy::Reason;
use heddle_policy::telemetry::{Edge, Outcome, Side};
use tracing::debug;

use crate::balance::{Cluster, Load, Member};
use crate::io::{Conn, Upstream};
use crate::limits;
use crate::meter::Counters;
use crate::mux::{Kind, Open};
use crate::upstream::Lease;
use crate::worker::Worker;

/// A way to a member of a cluster.
pub(crate) struct Reached<W> {
    pub(crate) way: W,
    pub(crate) counters: Arc<Counters>,
    pub(crate) load: Load,
}

/// No member of a cluster could be connected to. To be counted by who knows what it was for.
pub(crate) struct Unreached {
    reason: Reason,
    /// Of the member that was tried last.
    counters: Option<Arc<Counters>>,
}

/// Connects to a member of the cluster.
pub(crate) async fn connect(worker: &Rc<Worker>, cluster: &Cluster, kind: Kind) -> Result<Lease, Unreached> {
    let open = async |member: &Member| {
        let (conn, is_pooled) = open(worker, member, kind).await?;
        Ok((conn, is_pooled.then(|| (worker.pool.clone(), member.endpoint.address))))
    };
    let Reached { way: (conn, home), counters, load } = reach(worker, cluster, open).await?;
    Ok(Lease { conn, counters, load: Some(load), home })
}

/// Finds a way to a member of the cluster by `open`: to others when it fails, as nothing has been sent.
pub(crate) async fn reach<W>(
    worker: &Worker,
    cluster: &Cluster,
    open: impl AsyncFn(&Member) -> Result<W, Reason>,
) -> Result<Reached<W>, Unreached> {
    let mut tried = Vec::new();
    let mut failed = Unreached { reason: Reason::NoEndpoint, counters: None };
    while tried.len() < limits::ATTEMPTS.min(cluster.members.len()) {
        let Some(member) = cluster.pick(&worker.random, &tried) else { break };
        let load = Load::new(&member.health);
        let counters = || {
            let make = || worker.counters(edge(worker, cluster, member), member.endpoint.workload.as_ref());
            member.counters.get_or_init(make).clone()
        };
        match open(member).await {
            Ok(way) => return Ok(Reached { way, counters: counters(), load }),
            Err(reason) => {
                // That too much is under way from here says nothing against the endpoint.
                if reason != Reason::Overloaded {
                    load.failed();
                }
                tried.push(member.endpoint.address);
                failed = Unreached { reason, counters: Some(counters()) };
            }
        }
    }
    Err(failed)
}

/// Opens a stream to a member's proxy, or a connection to a member that has none; whether it is from the pool of
/// connections for HTTP/1.
async fn open(worker: &Worker, member: &Member, kind: Kind) -> Result<(Conn<Upstream>, bool), Reason> {
    let address = member.endpoint.address;
    if let Some(peer) = &member.peer {
        let stream = peer.open(Open { port: address.port(), kind }).await?;
        return Ok((Conn::new(Upstream::Mesh(stream)), false));
    }
    let is_pooled = kind == Kind::Http1;
    if is_pooled && let Some(stream) = worker.pool.take(address) {
        return Ok((Conn::new(Upstream::Plain(stream)), true));
    }
    let stream = worker.dialer.connect(address).await.map_err(|error| {
        debug!(%address, %error, "cannot connect to an endpoint");
        Reason::ConnectFailed
    })?;
    Ok((Conn::new(Upstream::Plain(stream)), is_pooled))
}

fn edge(worker: &Worker, cluster: &Cluster, member: &Member) -> Edge {
    Edge {
        side: Side::Client,
        pod: worker.pod(),
        peer: member.endpoint.identity.clone(),
        peer_pod: Some(member.endpoint.pod.clone()),
        service: cluster.service.clone(),
        backend: cluster.backend.clone(),
    }
}

// === impl Unreached ===

impl Unreached {
    pub(crate) fn count_request(self) -> Reason {
        if let Some(counters) = self.counters {
            counters.refused(self.reason);
        }
        self.reason
    }

    pub(crate) fn count_connection(self) -> Reason {
        if let Some(counters) = self.counters {
            counters.reason(self.reason);
            counters.connection(Outcome::Failure);
        }
        self.reason
    }
}
