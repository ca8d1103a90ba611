//! The records of the cluster's domain, by Kubernetes' DNS specification, and what they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::net::directory::Directory;

/// How long an answer may be kept, in seconds: as CoreDNS says for clusters.
const TTL: u32 = 5;
/// The zones that the cluster is the authority for.
const REVERSE_ZONES: [&str; 2] = ["244.10.in-addr.arpa.", "96.10.in-addr.arpa."];

/// Every name of the cluster's domain with its records. Names are in lower case and end with a dot.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    domain: String,
    records: BTreeMap<String, Vec<RData>>,
    /// Names that exist, with records or because names below them do.
    names: BTreeSet<String>,
}

/// What the zone says of a question.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Answer {
    /// The name exists; without records of the type the list is empty.
    Records(Vec<Record>),
    NoSuchName,
    /// The name is another server's.
    Elsewhere,
}

impl Zone {
    /// The zone of all Services in `directory`.
    pub(crate) fn new(domain: &str, directory: &Directory) -> Self {
        let domain = format!("{}.", domain.trim_end_matches('.').to_ascii_lowercase());
        let mut zone = Self { records: BTreeMap::new(), names: BTreeSet::new(), domain };
        for top in ["", "svc.", "pod."] {
            let name = format!("{top}{}", zone.domain);
            zone.names.insert(name);
        }
        for service in &directory.services {
            let slices: Vec<&EndpointSlice> = directory.slices_of(service).collect();
            zone.add_service(service, &slices);
        }
        zone
    }

    /// Answers a question for `name`.
    pub(crate) fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let text = name.to_ascii().to_ascii_lowercase();
        let text = if text.ends_with('.') { text } else { text + "." };
        let ours = |zone: &str| text == zone || text.ends_with(&format!(".{zone}"));
        if !ours(&self.domain) && !REVERSE_ZONES.into_iter().any(ours) {
            return Answer::Elsewhere;
        }
        if let Some(ip) = self.pod_address(&text) {
            let records = vec![Record::from_rdata(name.clone(), TTL, RData::A(A(ip)))];
            return Answer::Records(records.into_iter().filter(|_| wanted(kind, RecordType::A)).collect());
        }
        if !self.names.contains(&text) {
            return Answer::NoSuchName;
        }
        let found = self.records.get(&text).map(Vec::as_slice).unwrap_or_default();
        let matching =
            found.iter().filter(|data| wanted(kind, data.record_type()) || data.record_type() == RecordType::CNAME);
        Answer::Records(matching.map(|data| Record::from_rdata(name.clone(), TTL, data.clone())).collect())
    }

    /// The record that goes with an empty answer: how long it may be believed.
    pub(crate) fn authority(&self) -> Option<Record> {
        let zone = Name::from_ascii(&self.domain).ok()?;
        let server = Name::from_ascii(format!("ns.dns.{}", self.domain)).ok()?;
        let mailbox = Name::from_ascii(format!("hostmaster.{}", self.domain)).ok()?;
        Some(Record::from_rdata(zone, TTL, RData::SOA(SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL))))
    }

    /// The address in `1-2-3-4.<namespace>.pod.<domain>`.
    fn pod_address(&self, name: &str) -> Option<Ipv4Addr> {
        let (address, namespace) = name.strip_suffix(&format!(".pod.{}", self.domain))?.split_once('.')?;
        if namespace.contains('.') {
            return None;
        }
        address.replace('-', ".").parse().ok()
    }

    fn add_service(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let (Some(name), Some(namespace), Some(spec)) =
            (&service.metadata.name, &service.metadata.namespace, &service.spec)
        else {
            return;
        };
        let owner = format!("{name}.{namespace}.svc.{}", self.domain);
        self.add_name(&owner);
        if spec.type_.as_deref() == Some("ExternalName") {
            let target =
                spec.external_name.as_deref().map(|name| Name::from_ascii(format!("{}.", name.trim_end_matches('.'))));
            if let Some(Ok(target)) = target {
                self.add(&owner, RData::CNAME(CNAME(target)));
            }
            return;
        }
        match spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) {
            Some(ip) => {
                self.add(&owner, RData::A(A(ip)));
                self.add_reverse(ip, &owner);
                for port in spec.ports.iter().flatten() {
                    self.add_port(&owner, &owner, port.name.as_deref(), port.protocol.as_deref(), port.port);
                }
            }
            None => self.add_headless(&owner, slices, spec.ports.as_deref().unwrap_or_default()),
        }
    }

    /// A Service without an address of its own: each ready endpoint, together and by its own name.
    fn add_headless(&mut self, owner: &str, slices: &[&EndpointSlice], ports: &[ServicePort]) {
        for slice in slices {
            for endpoint in slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
                for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()) {
                    let label = endpoint.hostname.clone().unwrap_or_else(|| ip.to_string().replace('.', "-"));
                    let own = format!("{label}.{owner}");
                    self.add(owner, RData::A(A(ip)));
                    self.add(&own, RData::A(A(ip)));
                    if endpoint.hostname.is_some() {
                        self.add_reverse(ip, &own);
                    }
                    for port in slice.ports.iter().flatten() {
                        let number = port.port.unwrap_or_default();
                        self.add_port(owner, &own, port.name.as_deref(), port.protocol.as_deref(), number);
                    }
                }
            }
        }
        // A port's name exists with the Service, whether or not an endpoint stands behind it.
        for port in ports.iter().filter(|port| port.name.as_deref().is_some_and(|name| !name.is_empty())) {
            let name = port_name(owner, port.name.as_deref().unwrap_or_default(), port.protocol.as_deref());
            self.add_name(&name);
        }
    }

    /// An SRV record; only named ports have one.
    fn add_port(&mut self, owner: &str, target: &str, name: Option<&str>, protocol: Option<&str>, port: i32) {
        let (Some(name), Ok(port)) = (name.filter(|name| !name.is_empty()), u16::try_from(port)) else { return };
        if let Ok(target) = Name::from_ascii(target) {
            self.add(&port_name(owner, name, protocol), RData::SRV(SRV::new(0, 100, port, target)));
        }
    }

    fn add_reverse(&mut self, ip: Ipv4Addr, target: &str) {
        let [a, b, c, d] = ip.octets();
        if let Ok(target) = Name::from_ascii(target) {
            self.add(&format!("{d}.{c}.{b}.{a}.in-addr.arpa."), RData::PTR(PTR(target)));
        }
    }

    fn add(&mut self, name: &str, data: RData) {
        self.add_name(name);
        let records = self.records.entry(name.to_ascii_lowercase()).or_default();
        if !records.contains(&data) {
            records.push(data);
        }
    }

    /// Makes a name exist, and all names above it.
    fn add_name(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        let mut rest = name.as_str();
        while self.names.insert(rest.to_owned()) {
            match rest.split_once('.') {
                Some((_, above)) if !above.is_empty() => rest = above,
                _ => return,
            }
        }
    }
}

fn port_name(owner: &str, port: &str, protocol: Option<&str>) -> String {
    format!("_{port}._{}.{owner}", protocol.unwrap_or("TCP").to_ascii_lowercase())
}

fn wanted(asked: RecordType, kind: RecordType) -> bool {
    asked == kind || asked == RecordType::ANY
}

/// Kubernetes takes an endpoint that does not say as ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn zone() -> Zone {
        let services = json!([
            {"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.20",
                "ports": [{"name": "http", "port": 80}, {"port": 81}]}},
            {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}},
            {"metadata": {"name": "out", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "example.org"}},
        ]);
        let slices = json!([{"metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5433}], "endpoints": [
            {"addresses": ["10.244.0.5"], "hostname": "db-0"}, {"addresses": ["10.244.0.6"]},
            {"addresses": ["10.244.0.7"], "conditions": {"ready": false}},
        ]}]);
        let directory = Directory {
            services: serde_json::from_value(services).unwrap(),
            slices: serde_json::from_value(slices).unwrap(),
        };
        Zone::new("cluster.local", &directory)
    }

    fn check(name: &str, kind: RecordType, expected: &str) {
        let answer = match zone().answer(&Name::from_ascii(name).unwrap(), kind) {
            Answer::Records(records) => {
                records.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" | ")
            }
            other => format!("{other:?}"),
        };
        assert_eq!(answer, expected, "{name} {kind}");
    }

    #[test]
    fn a_service_has_its_address_under_its_name() {
        check("web.shop.svc.cluster.local.", RecordType::A, "10.96.0.20");
        check("Web.Shop.svc.cluster.LOCAL.", RecordType::A, "10.96.0.20");
        check("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV, "0 100 80 web.shop.svc.cluster.local.");
        check("20.0.96.10.in-addr.arpa.", RecordType::PTR, "web.shop.svc.cluster.local.");
    }

    #[test]
    fn a_headless_service_has_its_ready_endpoints() {
        check("db.shop.svc.cluster.local.", RecordType::A, "10.244.0.5 | 10.244.0.6");
        check("db-0.db.shop.svc.cluster.local.", RecordType::A, "10.244.0.5");
        check("10-244-0-6.db.shop.svc.cluster.local.", RecordType::A, "10.244.0.6");
        check("5.0.244.10.in-addr.arpa.", RecordType::PTR, "db-0.db.shop.svc.cluster.local.");
        let srv = "0 100 5433 db-0.db.shop.svc.cluster.local. | 0 100 5433 10-244-0-6.db.shop.svc.cluster.local.";
        check("_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV, srv);
    }

    #[test]
    fn an_external_name_is_an_alias() {
        check("out.shop.svc.cluster.local.", RecordType::A, "example.org.");
    }

    #[test]
    fn a_name_that_exists_without_the_type_is_no_error() {
        check("web.shop.svc.cluster.local.", RecordType::AAAA, "");
        check("shop.svc.cluster.local.", RecordType::A, "");
        check("cluster.local.", RecordType::A, "");
        check("_tcp.web.shop.svc.cluster.local.", RecordType::SRV, "");
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_and_a_foreign_one_passed_on() {
        check("nobody.shop.svc.cluster.local.", RecordType::A, "NoSuchName");
        check("web.shop.svc.cluster.local.shop.svc.cluster.local.", RecordType::A, "NoSuchName");
        check("9.9.244.10.in-addr.arpa.", RecordType::PTR, "NoSuchName");
        check("example.org.", RecordType::A, "Elsewhere");
        check("notcluster.local.", RecordType::A, "Elsewhere");
    }

    #[test]
    fn a_pod_has_its_address_in_its_name() {
        check("10-244-0-9.shop.pod.cluster.local.", RecordType::A, "10.244.0.9");
        check("10-244-0-9.shop.pod.cluster.local.", RecordType::AAAA, "");
        check("nothing.shop.pod.cluster.local.", RecordType::A, "NoSuchName");
    }
}
