//! The server's half of delta xDS: what a client has, what it should have, and the one response between them.
//!
//! At most one response is on its way. Whatever changes until it is answered goes into the next one, so that nothing
//! queues: a slow client gets fewer, larger changes.

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tonic::Status;

use crate::encode::{Encoding, Possession};
use crate::{Snapshot, TYPE_URL};

/// The state of one stream.
pub(crate) struct Delta {
    client: Possession,
    /// What the client should have.
    target: Option<Encoding>,
    in_flight: Option<InFlight>,
    /// The revision that the client refused last. It is not sent again on this stream.
    refused: Option<Arc<str>>,
    responses: u64,
}

/// A response without an answer.
struct InFlight {
    nonce: String,
    /// What the client has once it accepts.
    encoding: Encoding,
}

/// What a client's message means.
#[derive(PartialEq, Debug)]
pub(crate) enum Heard {
    Ack(Snapshot),
    Nack(Snapshot, String),
    /// Nothing that changes anything, such as an answer to an older response.
    Nothing,
}

/// What to do about the difference between client and target.
#[derive(Debug)]
pub(crate) enum Next {
    Send(Snapshot, DeltaDiscoveryResponse),
    /// There is none: the client has the target.
    UpToDate(Snapshot),
    /// There is none: the client has refused the target.
    Refused(Snapshot),
    /// Nothing can be said yet.
    Wait,
}

impl Delta {
    /// Begins with the first request of a stream.
    pub(crate) fn subscribe(request: &DeltaDiscoveryRequest) -> Result<Self, Status> {
        check(request)?;
        let client = Possession::told(request.initial_resource_versions.iter());
        Ok(Self { client, target: None, in_flight: None, refused: None, responses: 0 })
    }

    /// Sets what the client should have.
    pub(crate) fn aim(&mut self, target: Encoding) {
        self.target = Some(target);
    }

    /// Takes the client's next message.
    pub(crate) fn hear(&mut self, request: &DeltaDiscoveryRequest) -> Result<Heard, Status> {
        check(request)?;
        let Some(answered) = self.in_flight.take_if(|response| response.nonce == request.response_nonce) else {
            return Ok(Heard::Nothing);
        };
        let snapshot = answered.encoding.snapshot.clone();
        Ok(match &request.error_detail {
            None => {
                self.client = Possession::Acknowledged(answered.encoding);
                Heard::Ack(snapshot)
            }
            Some(error) => {
                self.refused = Some(snapshot.revision.clone());
                Heard::Nack(snapshot, error.message.clone())
            }
        })
    }

    /// The response that brings the client to the target, unless one is on its way.
    pub(crate) fn next(&mut self) -> Next {
        let Some(target) = self.target.as_ref().filter(|_| self.in_flight.is_none()) else {
            return Next::Wait;
        };
        let (resources, removed_resources) = self.client.difference(target);
        let snapshot = target.snapshot.clone();
        if resources.is_empty() && removed_resources.is_empty() {
            // From now on the streams of a mesh hold one encoding, and no list of their own.
            self.client = Possession::Acknowledged(target.clone());
            return Next::UpToDate(snapshot);
        }
        if self.refused.as_ref() == Some(&snapshot.revision) {
            return Next::Refused(snapshot);
        }
        self.responses += 1;
        let nonce = self.responses.to_string();
        self.in_flight = Some(InFlight { nonce: nonce.clone(), encoding: target.clone() });
        let response = DeltaDiscoveryResponse {
            system_version_info: snapshot.revision.to_string(),
            resources,
            type_url: TYPE_URL.to_owned(),
            removed_resources,
            nonce,
            ..Default::default()
        };
        Next::Send(snapshot, response)
    }
}

/// A proxy subscribes to all that is for it, and to nothing else.
fn check(request: &DeltaDiscoveryRequest) -> Result<(), Status> {
    if request.type_url != TYPE_URL {
        let message = format!("resources of type `{}` are not served here; `{TYPE_URL}` are", request.type_url);
        return Err(Status::invalid_argument(message));
    }
    match request.resource_names_subscribe.iter().find(|name| *name != "*") {
        Some(name) => Err(Status::invalid_argument(format!("subscribe to `*`, not to `{name}`"))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
