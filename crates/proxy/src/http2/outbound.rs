//! Requests of the workload.

use std::rc::Rc;

use heddle_policy::Reason;
use heddle_policy::telemetry::Side;

use super::head::Head;
use super::replay::Replay;
use super::serve::{self, Handler, Lease};
use crate::balance::{Cluster, Member};
use crate::io::{Conn, Transport};
use crate::outbound::refuse;
use crate::reach::{Reached, Unreached, reach};
use crate::record::{Initiator, Record};
use crate::tasks::Activity;
use crate::view::Destination;
use crate::worker::Worker;

/// Requests of one connection of the workload.
struct Requests {
    worker: Rc<Worker>,
    destination: Destination,
}

/// A connection to one destination, which each request may reach at another endpoint.
pub(crate) async fn serve<T: Transport>(
    worker: &Rc<Worker>,
    conn: Conn<T>,
    destination: Destination,
    activity: &Activity,
) {
    let requests = Requests { worker: worker.clone(), destination };
    serve::serve(Replay::from(conn), Rc::new(requests), worker, activity).await;
}

impl Handler for Requests {
    type Plan = Rc<Cluster>;

    const SETTLES_PATHS: bool = false;

    fn record(&self, head: &Head) -> Option<Box<Record>> {
        Record::of_request(&self.worker, Initiator::Workload, || head.seen())
    }

    fn decide(&self, head: &Head, _: Option<&mut Record>) -> Result<Rc<Cluster>, Reason> {
        let view = self.worker.view();
        if view.snapshot.config.settings.is_none() {
            self.malformed(Reason::Overloaded);
            return Err(Reason::Overloaded);
        }
        let target = view.find(&self.worker, &self.destination);
        let chosen = head.judge(|judged| target.for_request(&self.worker, judged));
        chosen.unwrap_or(Err(Reason::BadRequest)).inspect_err(|reason| refuse(&self.worker, &target, *reason, true))
    }

    async fn connect(&self, cluster: &Rc<Cluster>) -> Result<Lease, Reason> {
        let worker = &self.worker;
        let acquire = async |member: &Member| {
            let make = || worker.http2_server(&member.endpoint);
            let slot = member.http2.get_or_init(make).acquire().await?;
            Ok((slot, member.endpoint.identity.is_some().then(|| member.endpoint.address.port())))
        };
        let reached = reach(worker, cluster, acquire).await;
        let Reached { way: (slot, port), counters, load } = reached.map_err(Unreached::count_request)?;
        Ok(Lease { slot, counters, load: Some(load), port })
    }

    async fn revoked(&self, _cluster: &Rc<Cluster>, _head: &Head) -> Reason {
        std::future::pending().await
    }

    fn is_between_proxies(&self) -> bool {
        false
    }

    fn has_expired(&self) -> bool {
        false
    }

    fn malformed(&self, reason: Reason) {
        self.worker.plain_counters(Side::Client).refused(reason);
    }
}
