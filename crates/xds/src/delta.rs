//! The server's half of delta xDS: what a client has, what it should have, and the one response between them.
//!
//! At most one response is on its way. Whatever changes until it is answered goes into the next one, so that nothing
//! queues: a slow client gets fewer, larger changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::Any;
use heddle_policy::{Piece, ProxyConfig};
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::{Snapshot, TYPE_URL};

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Delta {
    /// What the client has, by its own word: the names and versions it came with, then what it acknowledged.
    client: BTreeMap<Arc<str>, Version>,
    /// What it should have.
    target: Option<Snapshot>,
    /// The pieces of the target.
    pieces: BTreeMap<Arc<str>, (Piece, Version)>,
    in_flight: Option<InFlight>,
    /// The revision that the client refused last. It is not sent again on this stream.
    refused: Option<Arc<str>>,
    responses: u64,
}

/// A hash of a piece's JSON.
type Version = u64;

/// A response without an answer.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    snapshot: Snapshot,
    /// What the client has once it accepts.
    versions: BTreeMap<Arc<str>, Version>,
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
    /// Nothing can be said yet.
    Wait,
}

impl Delta {
    /// Begins with the first request of a stream.
    pub(crate) fn subscribe(request: &DeltaDiscoveryRequest) -> Result<Self, Status> {
        check(request)?;
        let known = request.initial_resource_versions.iter();
        // A version that is not one of ours stands for nothing we would send.
        let client = known.map(|(name, version)| (name.as_str().into(), parse(version).unwrap_or(0))).collect();
        Ok(Self { client, target: None, pieces: BTreeMap::new(), in_flight: None, refused: None, responses: 0 })
    }

    /// Sets what the client should have.
    pub(crate) fn aim(&mut self, config: &Arc<ProxyConfig>) {
        let before = std::mem::take(&mut self.pieces);
        for (name, piece) in config.pieces() {
            let version = match before.get(name.as_str()) {
                Some((known, version)) if *known == piece => *version,
                _ => version_of(&json(&piece)),
            };
            self.pieces.insert(name.into(), (piece, version));
        }
        self.target = Some(Snapshot { revision: revision(&self.pieces), config: config.clone() });
    }

    /// Takes the client's next message.
    pub(crate) fn hear(&mut self, request: &DeltaDiscoveryRequest) -> Result<Heard, Status> {
        check(request)?;
        let Some(answered) = self.in_flight.take_if(|response| response.nonce == request.response_nonce) else {
            return Ok(Heard::Nothing);
        };
        Ok(match &request.error_detail {
            None => {
                self.client = answered.versions;
                Heard::Ack(answered.snapshot)
            }
            Some(error) => {
                self.refused = Some(answered.snapshot.revision.clone());
                Heard::Nack(answered.snapshot, error.message.clone())
            }
        })
    }

    /// The response that brings the client to the target, unless one is on its way.
    pub(crate) fn next(&mut self) -> Next {
        let Some(target) = self.target.clone().filter(|_| self.in_flight.is_none()) else {
            return Next::Wait;
        };
        let changed = self.pieces.iter().filter(|(name, (_, version))| self.client.get(*name) != Some(version));
        let resources: Vec<_> = changed.map(|(name, (piece, version))| resource(name, piece, *version)).collect();
        let gone = self.client.keys().filter(|name| !self.pieces.contains_key(*name));
        let removed_resources: Vec<_> = gone.map(|name| name.to_string()).collect();
        if resources.is_empty() && removed_resources.is_empty() {
            return Next::UpToDate(target);
        }
        if self.refused.as_ref() == Some(&target.revision) {
            return Next::Wait;
        }
        self.responses += 1;
        let nonce = self.responses.to_string();
        let versions = self.pieces.iter().map(|(name, (_, version))| (name.clone(), *version)).collect();
        self.in_flight = Some(InFlight { nonce: nonce.clone(), snapshot: target.clone(), versions });
        let response = DeltaDiscoveryResponse {
            system_version_info: target.revision.to_string(),
            resources,
            type_url: TYPE_URL.to_owned(),
            removed_resources,
            nonce,
            ..Default::default()
        };
        Next::Send(target, response)
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

fn resource(name: &str, piece: &Piece, version: Version) -> Resource {
    let value = Any { type_url: TYPE_URL.to_owned(), value: json(piece) };
    Resource { name: name.to_owned(), version: written(version), resource: Some(value), ..Default::default() }
}

fn json(piece: &Piece) -> Vec<u8> {
    serde_json::to_vec(piece).expect("a piece has string keys and no serializer of its own that fails")
}

fn version_of(bytes: &[u8]) -> Version {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    hash.iter().take(8).fold(0, |version, byte| version << 8 | Version::from(*byte))
}

fn revision(pieces: &BTreeMap<Arc<str>, (Piece, Version)>) -> Arc<str> {
    let mut hash = Sha256::new();
    for (name, (_, version)) in pieces {
        hash.update(name.as_bytes());
        hash.update(version.to_be_bytes());
    }
    written(version_of(&hash.finalize())).into()
}

fn written(version: Version) -> String {
    format!("{version:016x}")
}

fn parse(version: &str) -> Option<Version> {
    Version::from_str_radix(version, 16).ok()
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
