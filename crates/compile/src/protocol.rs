//! What ports speak: from `appProtocol`, then the port's name; and what is known of a container port behind Services.

use std::collections::{BTreeMap, BTreeSet};

use heddle_policy::{InboundPort, Protocol};

use crate::facts::Transport;
use crate::workloads::{Member, Target};
use crate::{Problem, ProblemReason};

/// What an `appProtocol` says; `None` when it is not one of those known here.
pub(crate) fn of_app_protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_lowercase().as_str() {
        "http" | "kubernetes.io/ws" | "grpc-web" => Some(Protocol::Http),
        "http2" | "h2c" | "kubernetes.io/h2c" | "grpc" => Some(Protocol::Http2),
        "tcp" | "tls" | "https" | "kubernetes.io/wss" => Some(Protocol::Tcp),
        _ => None,
    }
}

/// What the name of a port says by its part before the first `-`.
pub(crate) fn of_name(name: &str) -> Protocol {
    match name.split('-').next().unwrap_or_default() {
        "http" => Protocol::Http,
        "grpc" if name.starts_with("grpc-web") => Protocol::Http,
        "http2" | "h2c" | "grpc" => Protocol::Http2,
        "tcp" | "tls" | "https" => Protocol::Tcp,
        _ => Protocol::Detect,
    }
}

/// What is said of the container ports of a workload. Where two disagree nobody is believed: the proxy finds out.
pub(crate) fn inbound_ports(member: &Member<'_>, problems: &mut Vec<Problem>) -> Vec<InboundPort> {
    let mut said: BTreeMap<u16, Vec<Protocol>> = BTreeMap::new();
    let targets = || member.targets.iter().filter(|target| target.port.transport == Transport::Tcp);
    for target in targets() {
        said.entry(target.container_port).or_default().push(target.port.protocol);
    }
    for port in member.workload.ports.iter().filter(|port| port.transport == Transport::Tcp) {
        said.entry(port.port).or_default().push(of_name(port.name.as_deref().unwrap_or_default()));
    }
    let mut ports = Vec::new();
    for (port, mut protocols) in said {
        protocols.retain(|protocol| *protocol != Protocol::Detect);
        match protocols.iter().copied().reduce(both) {
            None => {}
            Some(Protocol::Detect) => {
                let target = targets().find(|target| target.container_port == port);
                problems.extend(target.map(|target| conflict(target, &protocols)));
            }
            Some(protocol) => ports.push(InboundPort { port, protocol }),
        }
    }
    ports
}

/// What a port speaks of which both is said.
fn both(one: Protocol, other: Protocol) -> Protocol {
    match (one, other) {
        _ if one == other => one,
        // HTTP includes HTTP/2 with prior knowledge.
        (Protocol::Http | Protocol::Http2, Protocol::Http | Protocol::Http2) => Protocol::Http,
        _ => Protocol::Detect,
    }
}

fn conflict(target: &Target<'_>, protocols: &[Protocol]) -> Problem {
    let names: BTreeSet<String> = protocols.iter().map(|protocol| format!("{protocol:?}").to_lowercase()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let message = format!(
        "container port {} is said to speak {}, by Services or by port names: the proxy detects it",
        target.container_port,
        names.join(" and ")
    );
    Problem::warning(target.service.at("spec.ports"), ProblemReason::ProtocolConflict, message)
        .hint("give the port the same `appProtocol`, or the same prefix of its name, everywhere")
}
