//! The names in a certificate: what an authority puts there, and what a peer's certificate proves.

use heddle_policy::{InvalidSpiffeId, Peer, PodName, SpiffeId};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a certificate says of its holder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// The only URI name.
    pub identity: SpiffeId,
    /// The DNS names: of a pod, or those under which the Kubernetes API server calls the control plane.
    pub dns: Vec<String>,
}

/// Why a certificate proves no identity, or not the one that is needed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Untrusted {
    #[error("the peer sent no certificate")]
    NoCertificate,
    #[error("the peer's certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("the peer's certificate has {0} URI names; an X.509 SVID has exactly one")]
    UriNames(usize),
    #[error("the URI name `{uri}` of the peer's certificate names no workload: {reason}")]
    NotSpiffe { uri: String, reason: InvalidSpiffeId },
    #[error("the peer's certificate names the trust domain `{0}` and no workload in it")]
    NoPath(SpiffeId),
    #[error("the peer is `{found}`, which is outside the trust domain `{trust_domain}`")]
    TrustDomain { found: SpiffeId, trust_domain: String },
    #[error("the peer is `{found}`, but `{expected}` was expected")]
    Identity { found: SpiffeId, expected: SpiffeId },
    #[error("this workload has no certificate and no trust bundle yet, so it can trust nobody")]
    NoCredentials,
}

/// The identity of the control plane: the ServiceAccount `heddle-control` in `heddle-system`.
pub fn control_plane_id(trust_domain: &str) -> Result<SpiffeId, InvalidSpiffeId> {
    SpiffeId::of_service_account(trust_domain, "heddle-system", "heddle-control")
}

/// What a peer's certificates, its own first, say of it. They must have been verified: this only reads them.
///
/// The pod is the DNS name `<pod>.<namespace>.pod.<cluster domain>`, when there is one.
pub fn peer_of(chain: &[CertificateDer<'_>]) -> Result<Peer, Untrusted> {
    let leaf = chain.first().ok_or(Untrusted::NoCertificate)?;
    let (uris, dns) = subject_alternative_names(leaf).map_err(Untrusted::Unreadable)?;
    let [uri] = &uris[..] else { return Err(Untrusted::UriNames(uris.len())) };
    let identity: SpiffeId = uri.parse().map_err(|reason| Untrusted::NotSpiffe { uri: uri.clone(), reason })?;
    if identity.as_str().len() == "spiffe://".len() + identity.trust_domain().len() {
        return Err(Untrusted::NoPath(identity));
    }
    Ok(Peer { identity: Some(identity), pod: dns.iter().find_map(|name| pod_of(name)) })
}

/// The URI names and the DNS names of a certificate, as they are written: DNS labels longer than 63 characters are
/// common in pods' names.
pub(crate) fn subject_alternative_names(certificate: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let extension = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::Invalid(..) => return Err("one of its alternative names is malformed".to_owned()),
            _ => {}
        }
    }
    Ok((uris, dns))
}

/// The last `.pod.` counts: a pod's name may have dots, so that an earlier one may be its owner's choice.
fn pod_of(name: &str) -> Option<PodName> {
    let (pod, _cluster_domain) = name.rsplit_once(".pod.")?;
    let (name, namespace) = pod.rsplit_once('.')?;
    (!name.is_empty() && !namespace.is_empty()).then(|| PodName::new(namespace, name))
}

// === impl Names ===

impl Names {
    /// The names of a pod: its identity, and its name as `<pod>.<namespace>.pod.<cluster domain>`.
    pub fn of_pod(identity: SpiffeId, pod: &PodName, cluster_domain: &str) -> Self {
        let dns = format!("{}.{}.pod.{cluster_domain}", pod.name, pod.namespace);
        Self { identity, dns: vec![dns] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_dns_name_is_read_from_its_end() {
        let cases = [
            ("web-1.shop.pod.cluster.local", Some(PodName::new("shop", "web-1"))),
            ("a.b.shop.pod.mesh.example", Some(PodName::new("shop", "a.b"))),
            ("victim.shop.pod.x.attacker.pod.cluster.local", Some(PodName::new("attacker", "victim.shop.pod.x"))),
            ("web.shop.svc.cluster.local", None),
            (".shop.pod.cluster.local", None),
            ("shop.pod.cluster.local", None),
        ];
        for (name, pod) in cases {
            assert_eq!(pod_of(name), pod, "{name}");
        }
    }
}
