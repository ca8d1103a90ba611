//! Who can talk to whom: whole handshakes between the configurations of this crate, in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use heddle_identity::{
    Authority, Bundle, Credentials, Names, Store, client, control_plane_id, explain, mutual_client, mutual_server,
    peer_of, server,
};
use heddle_policy::{Peer, PodName, SpiffeId};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection};

const HOUR: Duration = Duration::from_secs(3600);

fn id(name: &str) -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", "shop", name).unwrap()
}

fn authority() -> Authority {
    Authority::create("cluster.local", SystemTime::now()).unwrap()
}

fn issued(authority: &Authority, name: &str, now: SystemTime) -> Credentials {
    let pod = PodName::new("shop", format!("{name}-1"));
    authority.credentials(&Names::of_pod(id(name), &pod, "cluster.local"), HOUR, now).unwrap()
}

fn store(authority: &Authority, name: &str) -> Store {
    issued(authority, name, SystemTime::now()).into()
}

/// Brings both ends as far as they come. An error is that of the end which refused, with its side.
fn handshake(
    client: ClientConfig,
    server: ServerConfig,
) -> Result<(ClientConnection, ServerConnection), (&'static str, String)> {
    let name = ServerName::try_from("is.of.no.account").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|error| ("server", told(error)))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|error| ("client", told(error)))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// As it comes out of an asynchronous connection.
fn told(error: rustls::Error) -> String {
    explain(&io::Error::new(io::ErrorKind::InvalidData, error))
}

fn refusal(client: ClientConfig, server: ServerConfig) -> (&'static str, String) {
    handshake(client, server).map(drop).unwrap_err()
}

/// A certificate that the mesh's root signed, and that says what no authority of ours would say.
fn forged(authority: &Authority, uris: &[&str]) -> Arc<SingleCertAndKey> {
    let root_key = KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&authority.bundle().to_pem(), root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Arc::new(CertifiedKey::from_der(vec![leaf], key, &aws_lc_rs::default_provider()).unwrap().into())
}

#[test]
fn two_workloads_learn_each_others_identity_and_pod() {
    let authority = authority();
    let (buyer, web) = (store(&authority, "buyer"), store(&authority, "web"));
    let (client, server) = handshake(mutual_client(&buyer, id("web")), mutual_server(&web)).unwrap();
    let peer = |name| Peer { identity: Some(id(name)), pod: Some(PodName::new("shop", format!("{name}-1"))) };
    assert_eq!(peer_of(server.peer_certificates().unwrap()), Ok(peer("buyer")));
    assert_eq!(peer_of(client.peer_certificates().unwrap()), Ok(peer("web")));
}

#[test]
fn the_key_exchange_is_hybrid_post_quantum_over_tls13() {
    let authority = authority();
    let (buyer, web) = (store(&authority, "buyer"), store(&authority, "web"));
    let (client, _) = handshake(mutual_client(&buyer, id("web")), mutual_server(&web)).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn a_server_of_another_identity_is_refused() {
    let authority = authority();
    let (buyer, web) = (store(&authority, "buyer"), store(&authority, "web"));
    let (side, why) = refusal(mutual_client(&buyer, id("db")), mutual_server(&web));
    assert_eq!(side, "client");
    assert!(why.contains("is `spiffe://cluster.local/ns/shop/sa/web`, but `spiffe://cluster.local/ns/shop/sa/db` was"));
}

#[test]
fn a_certificate_of_another_root_is_refused_by_both_ends() {
    let (ours, theirs) = (authority(), authority());
    let (buyer, web) = (store(&ours, "buyer"), store(&theirs, "web"));
    let (side, why) = refusal(mutual_client(&buyer, id("web")), mutual_server(&web));
    assert_eq!((side, why.starts_with("no root of the trust bundle")), ("client", true), "{why}");

    // A client that believes everybody still has to prove itself.
    let mut reckless = client(theirs.bundle().clone(), id("web"));
    reckless.client_auth_cert_resolver = Arc::new(buyer);
    let (side, why) = refusal(reckless, mutual_server(&web));
    assert_eq!((side, why.starts_with("no root of the trust bundle")), ("server", true), "{why}");
}

#[test]
fn certificates_without_exactly_one_workload_of_the_trust_domain_are_refused_by_both_ends() {
    let authority = authority();
    let (buyer, web) = (store(&authority, "buyer"), store(&authority, "web"));
    let (ours, theirs) = ("spiffe://cluster.local/ns/shop/sa/web", "spiffe://elsewhere/ns/shop/sa/web");
    let cases: [(&[&str], &str); 6] = [
        (&[theirs], "outside the trust domain `cluster.local`"),
        (&[ours, theirs], "has 2 URI names"),
        (&[ours, ours], "has 2 URI names"),
        (&[], "has 0 URI names"),
        (&["https://cluster.local/ns/shop/sa/web"], "names no workload"),
        (&["spiffe://cluster.local"], "names the trust domain `spiffe://cluster.local` and no workload"),
    ];
    for (uris, reason) in cases {
        let forged = forged(&authority, uris);
        let mut server = mutual_server(&web);
        server.cert_resolver = forged.clone();
        let (side, why) = refusal(mutual_client(&buyer, id("web")), server);
        assert_eq!((side, why.contains(reason)), ("client", true), "{uris:?}: {why}");

        let mut client = mutual_client(&buyer, id("web"));
        client.client_auth_cert_resolver = forged;
        let (side, why) = refusal(client, mutual_server(&web));
        assert_eq!((side, why.contains(reason)), ("server", true), "{uris:?}: {why}");
    }
}

#[test]
fn a_client_without_certificate_is_refused() {
    let authority = authority();
    let web = store(&authority, "web");
    let (side, why) = refusal(client(authority.bundle().clone(), id("web")), mutual_server(&web));
    assert_eq!((side, why.as_str()), ("server", "the peer sent no certificate"));
}

#[test]
fn expired_and_not_yet_valid_certificates_are_refused_with_both_clocks() {
    let root_made = SystemTime::now() - 3 * HOUR;
    let authority = Authority::create("cluster.local", root_made).unwrap();
    let buyer = store(&authority, "buyer");
    let cases = [
        (issued(&authority, "web", SystemTime::now() - 2 * HOUR), "the peer's certificate expired at "),
        (issued(&authority, "web", SystemTime::now() + 2 * HOUR), "the peer's certificate is valid from "),
    ];
    for (credentials, reason) in cases {
        let (side, why) = refusal(mutual_client(&buyer, id("web")), mutual_server(&credentials.into()));
        assert_eq!((side, why.starts_with(reason)), ("client", true), "{why}");
        assert!(why.ends_with(" by this machine's clock"), "{why}");
    }
}

#[test]
fn a_peer_whose_clock_is_four_minutes_behind_can_use_a_new_certificate() {
    let authority = authority();
    let ahead = SystemTime::now() + Duration::from_secs(4 * 60);
    let (buyer, web) = (store(&authority, "buyer"), issued(&authority, "web", ahead));
    handshake(mutual_client(&buyer, id("web")), mutual_server(&web.into())).unwrap();
}

#[test]
fn rotation_is_seen_by_the_next_handshake_of_the_same_configuration() {
    let (old, new) = (authority(), authority());
    let (buyer, web) = (store(&old, "buyer"), store(&old, "web"));
    let (client, server) = (mutual_client(&buyer, id("web")), mutual_server(&web));
    let serving = |client: &ClientConnection| client.peer_certificates().unwrap()[0].clone();
    let before = serving(&handshake(client.clone(), server.clone()).unwrap().0);

    web.replace(issued(&old, "web", SystemTime::now()));
    let after = serving(&handshake(client.clone(), server.clone()).unwrap().0);
    assert_ne!(before, after);

    // Trust rotates as well.
    web.replace(issued(&new, "web", SystemTime::now()));
    refusal(client.clone(), server.clone());
    buyer.replace(issued(&new, "buyer", SystemTime::now()));
    handshake(client, server).unwrap();
}

#[test]
fn without_credentials_every_handshake_fails() {
    let authority = authority();
    let web = store(&authority, "web");
    let (side, why) = refusal(mutual_client(&Store::empty(), id("web")), mutual_server(&web));
    assert_eq!((side, why.contains("no certificate and no trust bundle yet")), ("client", true), "{why}");
    let (side, why) = refusal(mutual_client(&web, id("web")), mutual_server(&Store::empty()));
    assert_eq!((side, why.contains("no server certificate chain resolved")), ("server", true), "{why}");
}

#[test]
fn during_a_change_of_roots_a_bundle_of_both_believes_both() {
    let (old, new) = (authority(), authority());
    let both = Bundle::from_pem(&(old.bundle().to_pem() + &new.bundle().to_pem())).unwrap();
    let buyer = store(&old, "buyer");
    buyer.replace(Credentials { bundle: both.clone(), ..issued(&old, "buyer", SystemTime::now()) });
    let web = Store::from(Credentials { bundle: both, ..issued(&new, "web", SystemTime::now()) });
    handshake(mutual_client(&buyer, id("web")), mutual_server(&web)).unwrap();
}

#[test]
fn the_control_plane_proves_itself_to_clients_without_certificate() {
    let authority = authority();
    let expected = control_plane_id("cluster.local").unwrap();
    let names = Names { identity: expected.clone(), dns: vec!["heddle-control.heddle-system.svc".to_owned()] };
    let control = Store::from(authority.credentials(&names, HOUR, SystemTime::now()).unwrap());
    handshake(client(authority.bundle().clone(), expected.clone()), server(&control)).unwrap();

    // A workload of the mesh cannot stand in for it.
    let (side, why) = refusal(client(authority.bundle().clone(), expected), server(&store(&authority, "web")));
    assert_eq!((side, why.contains("was expected")), ("client", true), "{why}");
}

#[test]
fn a_second_handshake_proves_everything_again() {
    let authority = authority();
    let (buyer, web) = (store(&authority, "buyer"), store(&authority, "web"));
    let (client, server) = (mutual_client(&buyer, id("web")), mutual_server(&web));
    for _ in 0..2 {
        let (client, _) = handshake(client.clone(), server.clone()).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
