//! Every server of HTTP/2 that a worker has sent to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use heddle_identity::Store;
use heddle_policy::{Endpoint, SpiffeId};

use super::ALPN;
use super::server::{Server, Way};
use crate::dial::Dialer;
use crate::tls::Connector;

/// The servers by address, and the identity expected of them; none where they are reached in plaintext.
#[derive(Default)]
pub(crate) struct Servers(RefCell<HashMap<Key, Rc<Server>>>);

type Key = (SocketAddr, Option<SpiffeId>);

impl Servers {
    /// The application, or another server that is reached in plaintext.
    pub(crate) fn plain(&self, address: SocketAddr, dialer: Dialer) -> Rc<Server> {
        let mut servers = self.0.borrow_mut();
        servers.entry((address, None)).or_insert_with(|| Server::new(Way::Plain(address, dialer))).clone()
    }

    /// The proxy of an endpoint's pod; the endpoint itself if it has none.
    pub(crate) fn of(&self, endpoint: &Endpoint, mesh_port: u16, store: &Store, dialer: Dialer) -> Rc<Server> {
        let Some(identity) = &endpoint.identity else { return self.plain(endpoint.address, dialer) };
        let address = SocketAddr::new(endpoint.address.ip(), mesh_port);
        let connector = || Connector::new(address, identity.clone(), store, dialer, ALPN);
        let mut servers = self.0.borrow_mut();
        let server = servers.entry((address, Some(identity.clone())));
        server.or_insert_with(|| Server::new(Way::Mesh(connector()))).clone()
    }

    /// Lets go of servers that are gone. Requests under way to them end as they would.
    pub(crate) fn retain(&self, known: impl Fn(SocketAddr, Option<&SpiffeId>) -> bool) {
        self.0.borrow_mut().retain(|(address, identity), _| known(*address, identity.as_ref()));
    }
}
