//! The client's half of delta xDS: a configuration, and how one response changes it as a whole or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::rpc;
use heddle_policy::{Piece, ProxyConfig};
use tonic::Code;

use crate::{TYPE_URL, Validate};

/// The last good configuration, and the versions of its pieces.
#[derive(Default)]
pub(crate) struct Applied {
    config: Arc<ProxyConfig>,
    versions: HashMap<String, String>,
}

/// The longest refusal that is sent, in bytes.
const MAX_REFUSAL: usize = 4096;

impl Applied {
    /// The configuration after `response`, which takes effect here too; or why it is refused, and nothing changes.
    pub(crate) fn apply(
        &mut self,
        response: &DeltaDiscoveryResponse,
        validate: &Validate,
    ) -> Result<Arc<ProxyConfig>, String> {
        let mut config = ProxyConfig::clone(&self.config);
        let mut versions = self.versions.clone();
        for resource in &response.resources {
            config.insert(piece_of(resource).map_err(|reason| format!("resource `{}`: {reason}", resource.name))?);
            versions.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            config.remove(name);
            versions.remove(name);
        }
        validate(&config)?;
        *self = Self { config: Arc::new(config), versions };
        Ok(self.config.clone())
    }

    /// The first message of a stream: what is here already need not be sent again.
    pub(crate) fn subscription(&self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: TYPE_URL.to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            initial_resource_versions: self.versions.clone(),
            ..Default::default()
        }
    }
}

/// The answer to a response: an acknowledgement, or a refusal with its reason.
pub(crate) fn answer(response: &DeltaDiscoveryResponse, refusal: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = refusal.map(|reason| rpc::Status {
        code: Code::InvalidArgument.into(),
        message: reason[..reason.floor_char_boundary(MAX_REFUSAL)].to_owned(),
        ..Default::default()
    });
    DeltaDiscoveryRequest {
        type_url: TYPE_URL.to_owned(),
        response_nonce: response.nonce.clone(),
        error_detail,
        ..Default::default()
    }
}

fn piece_of(resource: &Resource) -> Result<Piece, String> {
    let value = resource.resource.as_ref().ok_or("it is empty")?;
    if value.type_url != TYPE_URL {
        return Err(format!("its type is `{}`; `{TYPE_URL}` was asked for", value.type_url));
    }
    let piece = serde_json::from_slice(&value.value).map_err(|error| error.to_string())?;
    let name = name_of(&piece);
    if name != resource.name {
        return Err(format!("it holds `{name}`"));
    }
    Ok(piece)
}

/// As [`ProxyConfig::pieces`] names it.
fn name_of(piece: &Piece) -> String {
    match piece {
        Piece::Settings(_) => "settings".to_owned(),
        Piece::Inbound(_) => "inbound".to_owned(),
        Piece::Service(service) => format!("service/{}", service.name),
        Piece::Pod(pod) => format!("pod/{}", pod.pod),
    }
}
