//! Configurations as they travel: each piece with its JSON and the hash of it.
//!
//! The services and pods of a mesh are the same for all of its proxies, and most of what they know. They are encoded
//! once for all, and the streams share the result.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::service::discovery::v3::Resource;
use envoy_types::pb::google::protobuf::Any;
use heddle_policy::{Piece, PodName, ProxyConfig, Service, ServiceName};
use sha2::{Digest, Sha256};

use crate::{Snapshot, TYPE_URL};

/// A hash of a piece's JSON.
pub(crate) type Version = u64;

/// One configuration, encoded.
#[derive(Clone, Debug)]
pub(crate) struct Encoding {
    pub(crate) snapshot: Snapshot,
    own: Pieces,
    common: Arc<Pieces>,
}

/// By name.
type Pieces = BTreeMap<Arc<str>, Arc<Encoded>>;

struct Encoded {
    piece: Piece,
    json: Vec<u8>,
    version: Version,
}

/// Encodes configurations, and remembers the common part of the last one.
#[derive(Default)]
pub(crate) struct Encoder(Mutex<Common>);

#[derive(Default)]
struct Common {
    services: Arc<BTreeMap<ServiceName, Arc<Service>>>,
    pods: Arc<BTreeMap<PodName, Arc<heddle_policy::Endpoint>>>,
    pieces: Arc<Pieces>,
    hash: Version,
}

/// What a client has.
pub(crate) enum Possession {
    /// By its own word: the names and versions with which it came.
    Told(BTreeMap<String, Version>),
    /// All of what it acknowledged.
    Acknowledged(Encoding),
}

// === impl Encoder ===

impl Encoder {
    pub(crate) fn encode(&self, config: &Arc<ProxyConfig>) -> Encoding {
        let own: Pieces = config
            .pieces()
            .take_while(|(_, piece)| !is_common(piece))
            .map(|(name, piece)| (name.into(), Encoded::new(piece)))
            .collect();
        // What a panic left behind is whole: it is replaced at once.
        let mut common = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !(Arc::ptr_eq(&common.services, &config.services) && Arc::ptr_eq(&common.pods, &config.pods)) {
            *common = common.next(config);
        }
        let revision = written(hash_of(&own, common.hash)).into();
        Encoding { snapshot: Snapshot { revision, config: config.clone() }, own, common: common.pieces.clone() }
    }
}

impl Common {
    fn next(&self, config: &ProxyConfig) -> Self {
        let encoded = |(name, piece): (String, Piece)| {
            let known = self.pieces.get(name.as_str()).filter(|known| known.piece == piece);
            let encoded = known.cloned().unwrap_or_else(|| Encoded::new(piece));
            (Arc::from(name), encoded)
        };
        let pieces: Pieces = config.pieces().skip_while(|(_, piece)| !is_common(piece)).map(encoded).collect();
        let hash = hash_of(&pieces, 0);
        Self { services: config.services.clone(), pods: config.pods.clone(), pieces: pieces.into(), hash }
    }
}

/// [`ProxyConfig::pieces`] gives these last.
fn is_common(piece: &Piece) -> bool {
    matches!(piece, Piece::Service(_) | Piece::Pod(_))
}

// === impl Encoded ===

impl Encoded {
    fn new(piece: Piece) -> Arc<Self> {
        let json = serde_json::to_vec(&piece).expect("a piece has string keys, and nothing in it fails to serialize");
        let version = first_bytes(Sha256::digest(&json).into());
        Arc::new(Self { piece, json, version })
    }

    fn resource(&self, name: &str) -> Resource {
        let value = Any { type_url: TYPE_URL.to_owned(), value: self.json.clone() };
        let version = written(self.version);
        Resource { name: name.to_owned(), version, resource: Some(value), ..Default::default() }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(self.version))
    }
}

// === impl Possession ===

impl Possession {
    /// A version that is not one of ours stands for nothing we would send.
    pub(crate) fn told<'a>(versions: impl Iterator<Item = (&'a String, &'a String)>) -> Self {
        let parse = |version: &str| Version::from_str_radix(version, 16).unwrap_or(0);
        Self::Told(versions.map(|(name, version)| (name.clone(), parse(version))).collect())
    }

    /// What to set and what to remove, so that the client has `target`.
    pub(crate) fn difference(&self, target: &Encoding) -> (Vec<Resource>, Vec<String>) {
        let same = matches!(self, Self::Acknowledged(known) if Arc::ptr_eq(&known.common, &target.common));
        let common = Some(&*target.common).filter(|_| !same).into_iter().flatten();
        let wanted = target.own.iter().chain(common);
        let changed = wanted.filter(|(name, encoded)| self.version(name) != Some(encoded.version));
        let resources = changed.map(|(name, encoded)| encoded.resource(name)).collect();
        let is_gone = |name: &&str| !target.own.contains_key(*name) && !target.common.contains_key(*name);
        let removed = match self {
            Self::Told(versions) => owned(versions.keys().map(String::as_str).filter(is_gone)),
            Self::Acknowledged(known) => {
                let common = Some(&*known.common).filter(|_| !same).into_iter().flatten();
                owned(known.own.iter().chain(common).map(|(name, _)| &**name).filter(is_gone))
            }
        };
        (resources, removed)
    }

    fn version(&self, name: &str) -> Option<Version> {
        match self {
            Self::Told(versions) => versions.get(name).copied(),
            Self::Acknowledged(known) => {
                known.own.get(name).or_else(|| known.common.get(name)).map(|encoded| encoded.version)
            }
        }
    }
}

fn owned<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

fn hash_of(pieces: &Pieces, before: Version) -> Version {
    let mut hash = Sha256::new();
    hash.update(before.to_be_bytes());
    for (name, encoded) in pieces {
        hash.update(name.as_bytes());
        hash.update(encoded.version.to_be_bytes());
    }
    first_bytes(hash.finalize().into())
}

fn first_bytes(hash: [u8; 32]) -> Version {
    hash.iter().take(8).fold(0, |version, byte| version << 8 | Version::from(*byte))
}

fn written(version: Version) -> String {
    format!("{version:016x}")
}
