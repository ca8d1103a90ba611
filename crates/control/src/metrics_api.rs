//! Serves `metrics.smi-spec.io` to those whom Kubernetes lets read it.

use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use heddle_metrics::{Form, Refusal, attributes};
use heddle_smi::metrics::GROUP;
use serde_json::Value;

use crate::authorization::{Access, Authorizer};
use crate::front_proxy::User;
use crate::traffic::Traffic;

/// What the handler reads.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) traffic: Traffic,
    pub(crate) authorizer: Authorizer,
}

/// The routes of the API. Requests have been authenticated before.
pub(crate) fn router(sources: Sources) -> Router {
    let mut router = Router::new().route("/openapi/{*path}", axum::routing::get(serve));
    for path in [format!("/apis/{GROUP}"), format!("/apis/{GROUP}/{{*path}}")] {
        router = router.route(&path, axum::routing::any(serve));
    }
    router.with_state(sources)
}

async fn serve(
    State(sources): State<Sources>,
    Extension(user): Extension<User>,
    Query(parameters): Query<Vec<(String, String)>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if method != Method::GET {
        return refused(&Refusal::method_not_allowed("measures can be read, and nothing else"));
    }
    // A star is passed on as `%2A` by the API server; no name has anything else that it would encode.
    let path = uri.path().replace("%2A", "*");
    let answer = answer(&sources, &user, path, parameters, form(&headers)).await;
    answer.map_or_else(|refusal| refused(&refusal), |document| Json(document).into_response())
}

async fn answer(
    sources: &Sources,
    user: &User,
    path: String,
    parameters: Vec<(String, String)>,
    form: Form,
) -> Result<Value, Refusal> {
    if let Some(wanted) = attributes(&path)? {
        sources.authorizer.check(user, Access::to_metrics(wanted)).await?;
    }
    let traffic = sources.traffic.clone();
    // A long window over a large mesh takes a while.
    let asking = tokio::task::spawn_blocking(move || {
        traffic.answer(&heddle_metrics::Request { path: &path, parameters: &parameters, form })
    });
    asking.await.map_err(|_| internal())?
}

/// The first form in `Accept` that is served.
fn form(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let offers = accept.split(',').filter(|offer| offer.trim_start().starts_with("application/json"));
    let is_table =
        |offer: &str| offer.contains("as=Table") && offer.contains("g=meta.k8s.io") && offer.contains("v=v1");
    let beta = |offer: &str| offer.contains("v=v1beta1");
    match offers.into_iter().find(|offer| !beta(offer)) {
        Some(offer) if is_table(offer) => Form::Table,
        _ => Form::Object,
    }
}

pub(crate) fn refused(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, Json(refusal.status())).into_response()
}

fn internal() -> Refusal {
    Refusal { code: 500, reason: "InternalError", message: "the measures cannot be read".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_that_kubectl_asks_for_is_understood() {
        let asked = |accept: &str| form(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        let v1 = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let beta = "application/json;as=Table;v=v1beta1;g=meta.k8s.io";
        assert_eq!(asked(&format!("{v1},{beta},application/json")), Form::Table);
        for plain in ["application/json", "*/*", "", &format!("{beta},application/json")] {
            assert_eq!(asked(plain), Form::Object, "{plain}");
        }
    }
}
