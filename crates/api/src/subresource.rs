//! Subresources that are created: binding and eviction of pods.

use http::StatusCode;
use serde_json::{Value, json};

use super::body::read_value;
use super::delete::DeleteOptions;
use super::error::{Answer, Failure};
use super::object::{integer, map_at, text};
use super::selector::label_selector_matches;
use super::write::Write;

impl Write<'_> {
    pub(crate) async fn create_subresource(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        match (self.call.resource.plural.as_str(), self.call.place.subresource.as_str()) {
            ("pods", "binding") => self.bind(body).await,
            ("pods", "eviction") => self.evict(body).await,
            ("serviceaccounts", "token") => self.request_token(body),
            _ => Err(Failure::method_not_allowed()),
        }
    }

    /// Deletes a pod, unless a disruption budget forbids it now.
    async fn evict(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        let eviction = read_value(&self.call.headers, body)?;
        let pod = self.server.find(self.call)?;
        let (budgets, _) = self.server.store.list("policy/poddisruptionbudgets", Some(&self.call.place.namespace));
        let covers = |budget: &Value| {
            label_selector_matches(&budget["spec"]["selector"], &pod.value["metadata"]["labels"])
                && integer(budget, "/status/disruptionsAllowed").unwrap_or_default() <= 0
        };
        if let Some(budget) = budgets.iter().find(|b| covers(&b.value)) {
            let mut failure = Failure::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
            );
            let message = format!("The disruption budget {} allows no disruption now", budget.key.name);
            failure.details = json!({"causes": [{"reason": "DisruptionBudget", "message": message}]});
            return Err(failure);
        }
        let name = self.call.place.name.clone();
        let options = DeleteOptions::of(self.call, &eviction["deleteOptions"])?;
        self.dry_run |= options.dry_run;
        self.delete_one(&name, &options).await?;
        Ok((
            StatusCode::CREATED,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        ))
    }

    /// Gives a pod its node.
    async fn bind(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        let binding = read_value(&self.call.headers, body)?;
        let node = text(&binding, "/target/name").to_owned();
        if node.is_empty() {
            return Err(Failure::bad_request("target.name: Required value"));
        }
        let (resource, name) = (self.call.resource.clone(), self.call.place.name.clone());
        self.change(true, |_, pod| {
            if !text(pod, "/spec/nodeName").is_empty() {
                let why = format!("pod {name} is already assigned to node {:?}", text(pod, "/spec/nodeName"));
                return Err(Failure::conflict(&resource, &name, &why));
            }
            let mut bound = pod.clone();
            map_at(&mut bound, "spec").insert("nodeName".to_owned(), json!(node));
            Ok(bound)
        })
        .await?;
        Ok((
            StatusCode::CREATED,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        ))
    }
}
