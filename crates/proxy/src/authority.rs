//! `host:port`, as a client names where it wants to go.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::lookup_host;

use crate::snapshot::Snapshot;
use crate::view::Destination;

/// A host and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Authority {
    /// A name or an address, without brackets.
    host: String,
    port: u16,
}

impl Authority {
    /// `None` when the text has no host, no port and there is no default, or a port that is not a number.
    pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().ok()?,
            None => default_port?,
        };
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port })
    }

    /// Where it is in the mesh; `None` when it is outside.
    pub(crate) fn destination(&self, snapshot: &Snapshot) -> Option<Destination> {
        let destination = match self.host.parse::<IpAddr>() {
            Ok(ip) => {
                let address = SocketAddr::new(ip, self.port);
                let known = snapshot.at_address(address).is_some() || snapshot.pod_at(address).is_some();
                return known.then_some(Destination::Address(address));
            }
            Err(_) => Destination::Service(snapshot.service_named(&self.host)?, self.port),
        };
        Some(destination)
    }

    /// The first address of the host, by the system's resolver.
    pub(crate) async fn resolve(&self) -> io::Result<SocketAddr> {
        let mut addresses = lookup_host((self.host.as_str(), self.port)).await?;
        addresses.next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
