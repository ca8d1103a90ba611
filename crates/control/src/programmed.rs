//! `Programmed`: whether the proxies that a resource concerns do what it says, by their own word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_policy::{Origin, PodName, ProxyConfig};
use heddle_xds::{Connected, Proxies};

use crate::discovery::Discovery;
use crate::world::Key;

/// What keeps resources from taking effect, by resource. One that is not here is in effect everywhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Delays(BTreeMap<Key, Delay>);

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Delay {
    /// Proxies that have been told and have not answered.
    pub(crate) pending: usize,
    /// A proxy that refused, and why.
    pub(crate) rejected: Option<(PodName, String)>,
}

/// A resource at one of its versions.
type Versioned = (Key, Arc<str>);

impl Delays {
    pub(crate) fn of(proxies: &Proxies, discovery: &Discovery) -> Self {
        let mut delays = Self::default();
        for (pod, proxy) in proxies {
            if let Some(target) = discovery.target(pod) {
                delays.add(pod, proxy, &target);
            }
        }
        delays
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Delay> {
        self.0.get(key)
    }

    fn add(&mut self, pod: &PodName, proxy: &Connected, target: &Arc<ProxyConfig>) {
        let acked = proxy.acked.as_ref().map(|acked| &acked.config);
        if acked.is_some_and(|acked| acked == target) {
            return;
        }
        let has = acked.map(|acked| resources(acked)).unwrap_or_default();
        let rejected = rejection(proxy);
        for (key, _) in resources(target).difference(&has) {
            let delay = self.0.entry(key.clone()).or_default();
            match rejected {
                Some(message) => delay.rejected = Some((pod.clone(), message.to_owned())),
                None => delay.pending += 1,
            }
        }
    }
}

/// Why a proxy does not run what it was sent last, when it said so.
pub(crate) fn rejection(proxy: &Connected) -> Option<&str> {
    let (sent, nack) = (proxy.sent.as_ref()?, proxy.last_nack.as_ref()?);
    let accepted = proxy.acked.as_ref().is_some_and(|acked| acked.revision == sent.revision);
    (nack.revision == sent.revision && !accepted).then_some(&nack.message)
}

/// The resources that a configuration was made of.
fn resources(config: &ProxyConfig) -> BTreeSet<Versioned> {
    let access = config.inbound.authorizations.iter().flat_map(|authorization| {
        let matches = authorization.http.iter().flatten().map(|rule| &rule.origin);
        let sources = authorization.sources.iter().map(|source| &source.origin);
        std::iter::once(&authorization.origin).chain(sources).chain(matches)
    });
    let ports = config.services.values().flat_map(|service| &service.ports);
    let splits = ports.flat_map(|port| &port.splits).flat_map(|split| {
        let matches = split.matches.iter().flatten().map(|rule| &rule.origin);
        std::iter::once(&split.origin).chain(matches)
    });
    access.chain(splits).map(versioned).collect()
}

fn versioned(origin: &Origin) -> Versioned {
    (Key::from(origin), origin.at.clone())
}
