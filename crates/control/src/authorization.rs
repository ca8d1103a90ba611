//! What a user may read: Kubernetes decides, by its own rules, and is asked each time anew (delegated authorization).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heddle_cluster::{AccessReview, review_access};
use heddle_metrics::{Attributes, Refusal};
use kube::Client;
use tracing::warn;

use crate::discovery::lock;
use crate::front_proxy::User;

/// Asks the API server, and remembers its answers for a moment.
#[derive(Clone)]
pub(crate) struct Authorizer {
    client: Client,
    answers: Arc<Mutex<HashMap<Question, (bool, Instant)>>>,
}

/// What somebody wants to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Access {
    pub(crate) group: &'static str,
    pub(crate) attributes: Attributes,
}

type Question = (User, Access);

/// How long an answer is believed, as other aggregated APIs do.
const BELIEVED: Duration = Duration::from_secs(10);

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers that are remembered.
const REMEMBERED: usize = 4096;

impl Authorizer {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, answers: Arc::default() }
    }

    /// # Errors
    ///
    /// The user may not, or nobody can say: then the answer is no.
    pub(crate) async fn check(&self, user: &User, access: Access) -> Result<(), Refusal> {
        let question = (user.clone(), access);
        let known = lock(&self.answers).get(&question).filter(|(_, until)| *until > Instant::now()).copied();
        let is_allowed = match known {
            Some((is_allowed, _)) => is_allowed,
            None => self.ask(question.clone()).await?,
        };
        if is_allowed { Ok(()) } else { Err(question.1.forbidden(user)) }
    }

    async fn ask(&self, question: Question) -> Result<bool, Refusal> {
        let review = question.1.review(&question.0);
        let asked = tokio::time::timeout(PATIENCE, review_access(&self.client, review)).await;
        let is_allowed = match asked {
            Ok(Ok(is_allowed)) => is_allowed,
            Ok(Err(error)) => return Err(unavailable(&error.to_string())),
            Err(_) => return Err(unavailable("it took too long")),
        };
        let mut answers = lock(&self.answers);
        let now = Instant::now();
        if answers.len() >= REMEMBERED {
            answers.retain(|_, (_, until)| *until > now);
        }
        if answers.len() < REMEMBERED {
            answers.insert(question, (is_allowed, now + BELIEVED));
        }
        Ok(is_allowed)
    }
}

fn unavailable(error: &str) -> Refusal {
    warn!(error, "the Kubernetes API does not say who may read");
    let message = "the Kubernetes API does not say whether you may read this".to_owned();
    Refusal { code: 503, reason: "ServiceUnavailable", message }
}

impl Access {
    pub(crate) fn to_metrics(attributes: Attributes) -> Self {
        Self { group: heddle_smi::metrics::GROUP, attributes }
    }

    fn review(&self, user: &User) -> AccessReview {
        let Attributes { version, verb, resource, subresource, namespace, name } = self.attributes.clone();
        AccessReview {
            user: user.name.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            group: self.group.to_owned(),
            version,
            verb: verb.to_owned(),
            resource,
            subresource: subresource.to_owned(),
            namespace,
            name,
        }
    }

    /// In the words of the API server.
    fn forbidden(&self, user: &User) -> Refusal {
        let Self { group, attributes } = self;
        let Attributes { verb, resource, subresource, namespace, name, .. } = attributes;
        let full = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
        let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let place = match namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let message = format!(
            "{resource}.{group}{named} is forbidden: User \"{}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {place}",
            user.name
        );
        Refusal { code: 403, reason: "Forbidden", message }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    /// An API server that allows one user, and counts how often it is asked.
    fn authorizer(asked: Arc<AtomicUsize>) -> Authorizer {
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            asked.fetch_add(1, Ordering::Relaxed);
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap();
                review["status"] = json!({ "allowed": review["spec"]["user"] == "reader" });
                let body = kube::client::Body::from(review.to_string().into_bytes());
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            }
        });
        Authorizer::new(Client::new(service, "default"))
    }

    fn edges() -> Access {
        let path = "/apis/metrics.smi-spec.io/v1alpha1/namespaces/shop/pods/web/edges";
        Access::to_metrics(heddle_metrics::attributes(path).unwrap().unwrap())
    }

    fn user(name: &str) -> User {
        User { name: name.to_owned(), ..User::default() }
    }

    #[tokio::test]
    async fn the_api_server_decides_and_is_asked_once_a_while() {
        let asked = Arc::new(AtomicUsize::new(0));
        let authorizer = authorizer(asked.clone());
        for _ in 0..3 {
            authorizer.check(&user("reader"), edges()).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let refusal = authorizer.check(&user("stranger"), edges()).await.unwrap_err();
        assert_eq!(
            (refusal.code, refusal.message.as_str()),
            (
                403,
                "pods.metrics.smi-spec.io \"web\" is forbidden: User \"stranger\" cannot get resource \"pods/edges\" in API group \"metrics.smi-spec.io\" in the namespace \"shop\""
            )
        );
    }

    #[tokio::test]
    async fn without_an_answer_nobody_may() {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| {
            let response = http::Response::builder().status(500).body(kube::client::Body::empty());
            std::future::ready(response)
        });
        let authorizer = Authorizer::new(Client::new(service, "default"));
        let refusal = authorizer.check(&user("reader"), edges()).await.unwrap_err();
        assert_eq!((refusal.code, refusal.reason), (503, "ServiceUnavailable"));
    }
}
