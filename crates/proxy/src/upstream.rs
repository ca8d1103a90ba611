//! A connection to a server on loan for one request, and the account of what became of it, or of a connection's bytes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use heddle_policy::Reason;
use heddle_policy::telemetry::Outcome;

use crate::balance::Load;
use crate::io::{Conn, Upstream};
use crate::meter::{Counters, Open};
use crate::pool::Pool;
use crate::relay::Copied;

/// A connection that carries one request.
pub(crate) struct Lease {
    pub(crate) conn: Conn<Upstream>,
    pub(crate) counters: Arc<Counters>,
    /// Absent towards the application.
    pub(crate) load: Option<Load>,
    /// Where the connection goes back to; absent for one that is not used twice.
    pub(crate) home: Option<(Rc<Pool>, SocketAddr)>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Absent when it says nothing of the server.
    pub(crate) outcome: Option<Outcome>,
    /// Of the answer; of one that broke off, what the mesh answers in its stead. 0 when the client gave up.
    pub(crate) status: u16,
    /// Of a call of gRPC that was answered.
    pub(crate) grpc_status: Option<u16>,
    /// Why the mesh answered in the server's stead, or that the client gave up.
    pub(crate) reason: Option<Reason>,
    /// From the request's head to the end of the answer.
    pub(crate) latency: Duration,
    /// Bytes from the client to the server, heads included, and back.
    pub(crate) uploaded: u64,
    pub(crate) downloaded: u64,
}

/// The account of a connection whose bytes are copied: it is open until this is dropped, and is counted then, also when it
/// is cut off with its task.
pub(crate) struct Carried {
    open: Open,
    pub(crate) copied: Copied,
    /// What it has come to; absent when it is not counted as a connection.
    outcome: Option<Outcome>,
}

impl Ended {
    pub(crate) fn count(&self, counters: &Counters) {
        if cfg!(feature = "uncounted") {
            return;
        }
        counters.bytes(self.uploaded, self.downloaded);
        if let Some(reason) = self.reason {
            counters.reason(reason);
        }
        let Some(outcome) = self.outcome else { return };
        counters.request(outcome, self.status);
        if outcome != Outcome::Denied {
            counters.latency(self.latency);
        }
    }
}

impl Lease {
    /// Accounts for a request, and gives the connection back if it may carry another.
    pub(crate) fn finish(self, ended: &Ended, reusable: bool) {
        self.account(ended);
        if let (true, Upstream::Plain(stream), Some((pool, address))) = (reusable, self.conn.transport, self.home) {
            pool.put(address, stream);
        }
    }

    pub(crate) fn account(&self, ended: &Ended) {
        ended.count(&self.counters);
        let Some(load) = &self.load else { return };
        match (ended.outcome, ended.reason) {
            (None, _) if ended.downloaded == 0 => load.gave_up(ended.latency),
            (None, _) => {}
            (_, Some(Reason::ConnectFailed | Reason::UpstreamReset | Reason::UpstreamTimeout)) => load.failed(),
            _ => load.answered(ended.latency),
        }
    }

    /// The request was refused, or the connection turned out to be closed before anything was sent.
    pub(crate) fn unsent(self) {
        if let Some(load) = &self.load {
            load.failed();
        }
    }
}

impl Carried {
    /// A connection that begins. It is the proxy that fails it, if it does not come to an end by itself.
    pub(crate) fn connection(counters: &Arc<Counters>) -> Self {
        Self { open: counters.open(), copied: Copied::default(), outcome: Some(Outcome::Failure) }
    }

    /// One that carries another protocol from here on, and has been counted as a request.
    pub(crate) fn upgraded(counters: &Arc<Counters>) -> Self {
        Self { open: counters.open(), copied: Copied::default(), outcome: None }
    }

    /// It has come to its end, and counts as a connection with this outcome if it has one.
    pub(crate) fn end(mut self, outcome: Option<Outcome>) {
        self.outcome = outcome;
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let counters = &self.open.0;
        counters.bytes(self.copied.forth, self.copied.back);
        if let Some(outcome) = self.outcome {
            counters.connection(outcome);
        }
    }
}
