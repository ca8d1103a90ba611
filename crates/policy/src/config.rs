//! The configuration of one proxy, and the pieces in which it travels.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Endpoint, Inbound, PodName, Service, ServiceName, SpiffeId};

/// All that one proxy knows. A value of this type is one snapshot: a request is decided by one of them from its head
/// to its end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyConfig {
    /// Absent until the control plane has said who this proxy serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Arc<Settings>>,
    #[serde(default)]
    pub inbound: Arc<Inbound>,
    /// What the workload can call, by name. Shared by all proxies of a mesh, as `pods` is.
    #[serde(default, with = "by_name")]
    pub services: Arc<BTreeMap<ServiceName, Arc<Service>>>,
    /// Meshed pods behind no Service, by pod: who listens at an address that is dialled directly (T25). The port of
    /// their addresses is 0.
    #[serde(default, with = "by_pod")]
    pub pods: Arc<BTreeMap<PodName, Arc<Endpoint>>>,
}

/// Who the proxy serves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    pub pod: PodName,
    /// What owns the pod, such as `Deployment/bookstore-v1`; for metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<str>>,
    pub identity: SpiffeId,
    /// The DNS domain of Services, such as `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// Which requests and connections get a line in the access log.
    #[serde(default, skip_serializing_if = "AccessLog::is_off")]
    pub access_log: AccessLog,
    /// Absent: no spans are made, and headers of traces pass as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// What the access log tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessLog {
    #[default]
    Off,
    /// What policy denied, or would deny if it were enforced.
    Denied,
    /// Everything.
    All,
}

/// Where spans go, and how many are made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// The collector, as `http://HOST:PORT` or, for TLS, `https://HOST:PORT`; over HTTP with the path of its traces, or
    /// `/v1/traces` when it has none.
    pub endpoint: Arc<str>,
    pub protocol: OtlpProtocol,
    /// In PEM, the authorities that may certify the collector. Absent: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<Arc<str>>,
    /// How many of a million traces that begin at this proxy are sampled. One that began before keeps its decision.
    pub samples_per_million: u32,
}

/// The transports of OTLP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OtlpProtocol {
    #[default]
    Grpc,
    /// HTTP with bodies in protobuf.
    Http,
}

/// A part of a configuration that can change on its own: the unit of delta xDS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Piece {
    Settings(Arc<Settings>),
    Inbound(Arc<Inbound>),
    Service(Arc<Service>),
    Pod(Arc<Endpoint>),
}

// === impl AccessLog ===

impl AccessLog {
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// `off`, `denied` or `all`.
impl FromStr for AccessLog {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "off" => Ok(Self::Off),
            "denied" => Ok(Self::Denied),
            "all" => Ok(Self::All),
            _ => Err(()),
        }
    }
}

// === impl ProxyConfig ===

impl ProxyConfig {
    /// The pieces by their names: `settings`, `inbound`, `service/<namespace>/<name>`, `pod/<namespace>/<name>`.
    pub fn pieces(&self) -> impl Iterator<Item = (String, Piece)> {
        let settings = self.settings.iter().map(|settings| ("settings".to_owned(), Piece::Settings(settings.clone())));
        let inbound = std::iter::once(("inbound".to_owned(), Piece::Inbound(self.inbound.clone())));
        let services = self
            .services
            .values()
            .map(|service| (format!("service/{}", service.name), Piece::Service(service.clone())));
        let pods = self.pods.values().map(|pod| (format!("pod/{}", pod.pod), Piece::Pod(pod.clone())));
        settings.chain(inbound).chain(services).chain(pods)
    }

    /// Puts a piece in its place, in stead of the one with its name.
    pub fn insert(&mut self, piece: Piece) {
        match piece {
            Piece::Settings(settings) => self.settings = Some(settings),
            Piece::Inbound(inbound) => self.inbound = inbound,
            Piece::Service(service) => {
                Arc::make_mut(&mut self.services).insert(service.name.clone(), service);
            }
            Piece::Pod(pod) => {
                Arc::make_mut(&mut self.pods).insert(pod.pod.clone(), pod);
            }
        }
    }

    /// Removes the piece of this name; an unknown name changes nothing. `settings` and `inbound` fall back to their
    /// defaults, which admit nothing.
    pub fn remove(&mut self, name: &str) {
        match name.split_once('/') {
            None if name == "settings" => self.settings = None,
            None if name == "inbound" => self.inbound = Arc::default(),
            Some(("service", name)) => {
                let name = ServiceName::try_from(name.to_owned());
                name.map(|name| Arc::make_mut(&mut self.services).remove(&name)).ok();
            }
            Some(("pod", name)) => {
                let name = PodName::try_from(name.to_owned());
                name.map(|name| Arc::make_mut(&mut self.pods).remove(&name)).ok();
            }
            _ => {}
        }
    }
}

/// Maps whose values hold their own names travel as lists.
macro_rules! as_list {
    ($module:ident, $key:ty, $value:ty, $name:ident) => {
        mod $module {
            use super::*;

            type Map = Arc<BTreeMap<$key, Arc<$value>>>;

            pub(super) fn serialize<S: serde::Serializer>(map: &Map, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(map.values())
            }

            pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
                let list = Vec::<Arc<$value>>::deserialize(deserializer)?;
                Ok(Arc::new(list.into_iter().map(|value| (value.$name.clone(), value)).collect()))
            }
        }
    };
}

as_list!(by_name, ServiceName, Service, name);
as_list!(by_pod, PodName, Endpoint, pod);
