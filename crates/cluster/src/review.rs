//! Reviews: whose ServiceAccount token is this, and what may somebody do?

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

/// Whom a token speaks for: a pod and its ServiceAccount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reviewed {
    pub namespace: String,
    pub service_account: String,
    pub pod_name: String,
    pub pod_uid: String,
}

/// Asks the API server whom `token` speaks for. `None` when it is invalid, not meant for `audience`, or not bound to a
/// pod.
///
/// # Errors
///
/// The API server cannot be asked, or does not let us: then nothing is known of the token.
pub async fn review_token(client: &Client, token: &str, audience: &str) -> kube::Result<Option<Reviewed>> {
    let review = TokenReview {
        spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) },
        ..TokenReview::default()
    };
    let api: Api<TokenReview> = Api::all(client.clone());
    let reviewed = api.create(&PostParams::default(), &review).await?;
    Ok(reviewed.status.and_then(|status| bound_pod(status, audience)))
}

fn bound_pod(status: TokenReviewStatus, audience: &str) -> Option<Reviewed> {
    // An API server that does not know audiences leaves them out: its answer does not say whom the token is meant for.
    let meant_for_us = status.audiences.unwrap_or_default().iter().any(|meant| meant == audience);
    if status.authenticated != Some(true) || !meant_for_us {
        return None;
    }
    let user = status.user?;
    let (namespace, service_account) = user
        .username?
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')
        .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))?;
    let mut extra = user.extra.unwrap_or_default();
    let mut of_pod = |name: &str| extra.remove(&format!("authentication.kubernetes.io/{name}"))?.pop();
    Some(Reviewed { namespace, service_account, pod_name: of_pod("pod-name")?, pod_uid: of_pod("pod-uid")? })
}

/// What somebody wants to do with a resource. Fields that do not apply are empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessReview {
    pub user: String,
    pub groups: Vec<String>,
    /// What the API server's authentication said beside it.
    pub extra: BTreeMap<String, Vec<String>>,
    pub group: String,
    pub version: String,
    pub verb: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

/// Asks the API server whether somebody may do something (SubjectAccessReview).
///
/// # Errors
///
/// The API server cannot be asked, or does not let us: then nobody is known to be allowed.
pub async fn review_access(client: &Client, review: AccessReview) -> kube::Result<bool> {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let resource = ResourceAttributes {
        group: some(review.group),
        version: some(review.version),
        verb: some(review.verb),
        resource: some(review.resource),
        subresource: some(review.subresource),
        namespace: some(review.namespace),
        name: some(review.name),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: some(review.user),
        groups: Some(review.groups),
        extra: Some(review.extra),
        resource_attributes: Some(resource),
        ..SubjectAccessReviewSpec::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let asked = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answered = api.create(&PostParams::default(), &asked).await?;
    Ok(answered.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}
