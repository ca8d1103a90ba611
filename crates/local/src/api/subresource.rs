//! Subresources that are created: binding and eviction of pods.

use http::StatusCode;
use serde_json::{Value, json};

use super::error::{Answer, Failure};
use super::object::{map_at, text};
use super::write::{Write, read_value};

impl Write<'_> {
    pub(crate) async fn create_subresource(&mut self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        match (self.call.resource.plural.as_str(), self.call.place.subresource.as_str()) {
            ("pods", "binding") => self.bind(body).await,
            ("serviceaccounts", "token") => self.request_token(body),
            _ => Err(Failure::method_not_allowed()),
        }
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
