//! Every server of HTTP/2 that the workload has sent to, as one worker knows them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use heddle_policy::{Endpoint, SpiffeId};

use super::ALPN;
use super::server::{Server, Way};
use crate::dial::Dialer;
use crate::tls::Connector;
use crate::worker::Shared;

/// The servers by address, and the identity expected of them; none where they are reached in plaintext.
#[derive(Default)]
pub(crate) struct Servers(RefCell<HashMap<Key, Rc<Server>>>);

type Key = (SocketAddr, Option<SpiffeId>);

impl Servers {
    /// The proxy of an endpoint's pod; the endpoint itself if it has none.
    pub(crate) fn of(&self, endpoint: &Endpoint, shared: &Shared, dialer: Dialer) -> Rc<Server> {
        let identity = endpoint.identity.clone();
        let address = match identity {
            Some(_) => SocketAddr::new(endpoint.address.ip(), shared.options.mesh_port),
            None => endpoint.address,
        };
        let way = || match identity.clone() {
            Some(identity) => Way::Mesh(Connector::new(address, identity, &shared.store, dialer, ALPN)),
            None => Way::Plain(address, dialer),
        };
        let (key, panics) = ((address, endpoint.identity.clone()), &shared.meter.panics);
        self.0.borrow_mut().entry(key).or_insert_with(|| Server::new(way(), panics)).clone()
    }

    /// Lets go of servers that are gone. Requests under way to them end as they would.
    pub(crate) fn retain(&self, known: impl Fn(SocketAddr, Option<&SpiffeId>) -> bool) {
        self.0.borrow_mut().retain(|(address, identity), _| known(*address, identity.as_ref()));
    }
}
