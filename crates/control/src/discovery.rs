//! What proxies are told: who they are, their configurations, their certificates.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use heddle_cluster::{Reviewed, review_token};
use heddle_compile::{Compiled, ResourceSet, compile};
use heddle_identity::{Authority, Names};
use heddle_policy::telemetry::Report;
use heddle_policy::{PodName, ProxyConfig, Service, ServiceName};
use heddle_xds::{Backend, Caller, Refused, Signed};
use kube::Client;
use tokio::sync::{Semaphore, watch};

use crate::names::AUDIENCE;
use crate::token::Tokens;
use crate::traffic::Traffic;
use crate::world::{Key, Ledger};

/// The control plane as its proxies see it.
pub(crate) struct Discovery {
    client: Client,
    authority: Arc<Authority>,
    /// How long a workload's certificate is valid.
    certificate_ttl: Duration,
    ledger: Ledger,
    configs: Mutex<Configs>,
    tokens: Mutex<Tokens>,
    reviews: Semaphore,
    traffic: Traffic,
}

/// The configurations of the connected proxies.
struct Configs {
    compiled: Arc<Compiled>,
    services: Services,
    proxies: HashMap<PodName, watch::Sender<Option<Arc<ProxyConfig>>>>,
}

type Services = Arc<BTreeMap<ServiceName, Arc<Service>>>;

/// Token reviews at a time. A mesh that comes back at once asks for many, and the API server has others to serve.
const REVIEWS: usize = 32;

// === impl Discovery ===

impl Discovery {
    pub(crate) fn new(
        client: Client,
        authority: Arc<Authority>,
        certificate_ttl: Duration,
        ledger: Ledger,
        traffic: Traffic,
    ) -> Self {
        Self {
            client,
            authority,
            certificate_ttl,
            ledger,
            configs: Mutex::new(Configs::empty()),
            tokens: Mutex::default(),
            reviews: Semaphore::new(REVIEWS),
            traffic,
        }
    }

    /// Gives every connected proxy its part of the mesh, when that differs from what it was given last.
    pub(crate) fn publish(&self, compiled: Arc<Compiled>) {
        lock(&self.configs).publish(compiled);
    }

    /// What the proxy of `pod` should have; `None` when it is not connected or not in the mesh.
    pub(crate) fn target(&self, pod: &PodName) -> Option<Arc<ProxyConfig>> {
        lock(&self.configs).proxies.get(pod)?.borrow().clone()
    }

    async fn review(&self, token: &str) -> Result<Reviewed, Refused> {
        if let Some(reviewed) = lock(&self.tokens).get(token, Instant::now()) {
            return Ok(reviewed);
        }
        let busy = |_| Refused::Unavailable("it is ending".to_owned());
        let _permit = self.reviews.acquire().await.map_err(busy)?;
        let reviewed = review_token(&self.client, token, AUDIENCE).await.map_err(|error| {
            tracing::warn!(%error, "a token cannot be reviewed");
            Refused::Unavailable("the Kubernetes API does not review tokens now".to_owned())
        })?;
        let wrong = || format!("it is not a valid token of a pod's ServiceAccount for the audience `{AUDIENCE}`");
        let reviewed = reviewed.ok_or_else(|| Refused::Unauthenticated(wrong()))?;
        lock(&self.tokens).insert(token, reviewed.clone(), Instant::now(), SystemTime::now());
        Ok(reviewed)
    }
}

impl Backend for Discovery {
    async fn authenticate(&self, token: &str) -> Result<Caller, Refused> {
        let reviewed = self.review(token).await?;
        let pod = PodName::new(reviewed.namespace, reviewed.pod_name);
        // A pod that was just made may not be known here yet; its proxy comes again.
        let unknown = || Refused::Unavailable(format!("the pod {pod} is not known yet"));
        let entry = self.ledger.get(&Key::of_pod(&pod)).filter(|entry| entry.uid == reviewed.pod_uid);
        if entry.ok_or_else(unknown)?.service_account != reviewed.service_account {
            let account = reviewed.service_account;
            return Err(Refused::Denied(format!("the pod {pod} does not run as the ServiceAccount `{account}`")));
        }
        Ok(Caller { pod, service_account: reviewed.service_account.into() })
    }

    fn config(&self, caller: &Caller) -> watch::Receiver<Option<Arc<ProxyConfig>>> {
        lock(&self.configs).subscribe(&caller.pod)
    }

    fn sign(&self, caller: &Caller, csr: &[u8]) -> Result<Signed, Refused> {
        let Caller { pod, service_account } = caller;
        let config = lock(&self.configs).compiled.mesh.proxy_config(pod);
        let settings = config.and_then(|config| config.settings);
        let settings = settings.ok_or_else(|| Refused::Unavailable(format!("the pod {pod} is not in the mesh")))?;
        if settings.identity.service_account() != Some((&pod.namespace, service_account)) {
            let identity = &settings.identity;
            return Err(Refused::Denied(format!("`{service_account}` cannot be certified as `{identity}`")));
        }
        let names = Names::of_pod(settings.identity.clone(), pod, &settings.cluster_domain);
        let chain = self
            .authority
            .issue(csr, &names, self.certificate_ttl, SystemTime::now())
            .map_err(|error| Refused::Invalid(error.to_string()))?;
        Ok(Signed { chain, bundle: self.authority.bundle().clone() })
    }

    fn report(&self, caller: &Caller, report: Report) {
        self.traffic.report(&caller.pod, report);
    }
}

// === impl Configs ===

impl Configs {
    fn empty() -> Self {
        let compiled = Arc::new(compile(&ResourceSet::default()));
        Self { compiled, services: Services::default(), proxies: HashMap::new() }
    }

    fn publish(&mut self, compiled: Arc<Compiled>) {
        self.services = share(&self.services, compiled.mesh.services());
        self.compiled = compiled;
        let mut proxies = std::mem::take(&mut self.proxies);
        proxies.retain(|pod, sender| {
            let config = self.config(pod);
            // A pod that left the mesh is disconnected; one that has not joined it yet waits.
            let left = config.is_none() && sender.borrow().is_some();
            sender.send_if_modified(|current| {
                let changed = !left && *current != config;
                if changed {
                    *current = config;
                }
                changed
            });
            !left && sender.receiver_count() > 0
        });
        self.proxies = proxies;
    }

    fn subscribe(&mut self, pod: &PodName) -> watch::Receiver<Option<Arc<ProxyConfig>>> {
        match self.proxies.get(pod) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = watch::channel(self.config(pod));
                self.proxies.insert(pod.clone(), sender);
                receiver
            }
        }
    }

    fn config(&self, pod: &PodName) -> Option<Arc<ProxyConfig>> {
        let config = self.compiled.mesh.proxy_config(pod)?;
        Some(Arc::new(ProxyConfig { services: self.services.clone(), ..config }))
    }
}

/// The new Services, in the memory of the old ones where they are equal: what every proxy is told is then compared by
/// pointers, and not once for each of them.
fn share(old: &Services, new: &BTreeMap<ServiceName, Arc<Service>>) -> Services {
    let shared = new.iter().map(|(name, service)| {
        let known = old.get(name).filter(|known| *known == service);
        (name.clone(), known.unwrap_or(service).clone())
    });
    let shared: BTreeMap<_, _> = shared.collect();
    if shared == **old { old.clone() } else { Arc::new(shared) }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole after every step, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use heddle_cluster::{Change, Event, Kind, State};
    use serde_json::{Value, json};

    use super::*;
    use crate::world::World;

    /// An API server that says of every token that it is `reviewed`.
    fn client(reviewed: Value) -> Client {
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let answer = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {},
                "status": reviewed });
            let body = kube::client::Body::from(answer.to_string().into_bytes());
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(body)))
        });
        Client::new(service, "default")
    }

    fn reviewed(account: &str, pod_uid: &str, audiences: &[&str]) -> Value {
        json!({
            "authenticated": true,
            "audiences": audiences,
            "user": {
                "username": format!("system:serviceaccount:shop:{account}"),
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["web-1"],
                    "authentication.kubernetes.io/pod-uid": [pod_uid],
                },
            },
        })
    }

    /// Knows the pod `shop/web-1` with the uid `1`, which runs as `web`.
    fn discovery(reviewed: Value) -> Discovery {
        const PODS: Kind = Kind::new("", "v1", "Pod", "pods");
        let mut world = World::new(&[PODS], Traffic::new(Instant::now()));
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": "shop", "name": "web-1", "uid": "1" },
            "spec": { "serviceAccountName": "web", "containers": [] },
        });
        world.apply(Event { kind: PODS, changes: vec![Change::Applied(pod)], state: State::Synced });
        let authority = Authority::create("cluster.local", SystemTime::now()).unwrap();
        Discovery::new(client(reviewed), Arc::new(authority), Duration::from_secs(60), world.ledger, world.traffic)
    }

    #[tokio::test]
    async fn a_token_speaks_for_the_pod_that_it_is_bound_to() {
        let caller = discovery(reviewed("web", "1", &["heddle"])).authenticate("token").await.unwrap();
        assert_eq!(caller, Caller { pod: PodName::new("shop", "web-1"), service_account: "web".into() });
    }

    #[tokio::test]
    async fn a_token_for_others_proves_nothing() {
        for status in [reviewed("web", "1", &["vault"]), reviewed("web", "1", &[]), json!({ "authenticated": false })] {
            let refused = discovery(status.clone()).authenticate("token").await.unwrap_err();
            assert!(matches!(refused, Refused::Unauthenticated(_)), "{status}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_token_of_no_pod_proves_nothing() {
        let mut status = reviewed("web", "1", &["heddle"]);
        status["user"]["extra"] = json!({});
        let refused = discovery(status).authenticate("token").await.unwrap_err();
        assert!(matches!(refused, Refused::Unauthenticated(_)), "{refused}");
    }

    #[tokio::test]
    async fn a_token_of_an_earlier_pod_of_that_name_is_refused() {
        let refused = discovery(reviewed("web", "0", &["heddle"])).authenticate("token").await.unwrap_err();
        assert!(matches!(refused, Refused::Unavailable(_)), "{refused}");
    }

    #[tokio::test]
    async fn a_token_of_another_account_than_the_pods_is_refused() {
        let refused = discovery(reviewed("admin", "1", &["heddle"])).authenticate("token").await.unwrap_err();
        assert!(matches!(refused, Refused::Denied(_)), "{refused}");
    }
}
