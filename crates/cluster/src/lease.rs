//! Leader election on a Lease: of several control planes one writes status and events.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

/// Who stands for election.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
    /// Unique among the candidates, and the same after a restart of the same pod: it then leads on without a pause.
    pub identity: String,
}

/// How long a leader leads after its last sign of life.
const TERM: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Stands for election until dropped, and tells in `leads` whether this candidate leads.
///
/// Times of other machines are not compared: another's term is over when its Lease has not changed for [`TERM`] on this
/// machine's clock.
pub async fn campaign(client: Client, candidate: Candidate, leads: watch::Sender<bool>) {
    let api: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let mut seen = Seen { version: None, at: Instant::now() };
    let mut renewed: Option<Instant> = None;
    loop {
        // The term begins when it is asked for: an answer may be late.
        let asked = Instant::now();
        match timeout(RENEW_EVERY, attempt(&api, &candidate, &mut seen)).await {
            Ok(Ok(true)) => renewed = Some(asked),
            Ok(Ok(false)) => renewed = None,
            Ok(Err(error)) => debug!(%error, "the lease cannot be renewed"),
            Err(_) => debug!("the API server does not answer"),
        }
        // A leader that cannot reach the API server steps down before another may take over.
        let leading = renewed.is_some_and(|at| at.elapsed() + 2 * RENEW_EVERY < TERM);
        leads.send_if_modified(|leads| {
            let changed = *leads != leading;
            if changed {
                info!(leading, identity = candidate.identity, "leadership changed");
            }
            *leads = leading;
            changed
        });
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// The Lease of another, as last seen to change.
struct Seen {
    version: Option<String>,
    at: Instant,
}

/// Takes or renews the Lease when it is free or ours; says whether it is ours after.
async fn attempt(api: &Api<Lease>, candidate: &Candidate, seen: &mut Seen) -> kube::Result<bool> {
    let Some(lease) = api.get_opt(&candidate.lease).await? else {
        return won(api.create(&PostParams::default(), &renewed_lease(candidate, None)).await);
    };
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    if seen.version != lease.metadata.resource_version {
        *seen = Seen { version: lease.metadata.resource_version.clone(), at: Instant::now() };
    }
    let free = holder.is_empty() || holder == candidate.identity || seen.at.elapsed() >= TERM;
    if !free {
        return Ok(false);
    }
    let renewed = renewed_lease(candidate, Some(&lease));
    won(api.replace(&candidate.lease, &PostParams::default(), &renewed).await)
}

/// A conflict means that another was faster.
fn won(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn renewed_lease(candidate: &Candidate, old: Option<&Lease>) -> Lease {
    let now = Some(MicroTime(Timestamp::now()));
    let before = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let same_holder = before.holder_identity.as_deref() == Some(&candidate.identity);
    Lease {
        metadata: ObjectMeta {
            name: Some(candidate.lease.clone()),
            namespace: Some(candidate.namespace.clone()),
            // The version makes the write fail when another wrote in between.
            resource_version: old.and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(candidate.identity.clone()),
            lease_duration_seconds: Some(TERM.as_secs() as i32),
            acquire_time: if same_holder { before.acquire_time } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(old.is_some() && !same_holder)),
            ..LeaseSpec::default()
        }),
    }
}
