//! TLS configurations: version 1.3 alone, hybrid post-quantum key exchange first, peers known by SPIFFE ID.
//!
//! Nothing is resumed: a resumed session would carry a peer's identity past the end of its certificate, and the few,
//! long connections of a mesh gain nothing from it. Callers set `alpn_protocols`.

use std::sync::{Arc, LazyLock};

use heddle_policy::SpiffeId;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::version::TLS13;

use crate::verify::{PeerVerifier, Trust};
use crate::{Bundle, Store};

/// For a workload's server: it proves itself from `store`, and clients must prove to be of its trust domain. Who
/// they are is [`peer_of`](crate::peer_of) of the connection's peer certificates.
pub fn mutual_server(store: &Store) -> ServerConfig {
    let verifier = PeerVerifier::new(Trust::Store(store.clone()), None);
    let config = server_builder().with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(store.clone()));
    without_resumption(config)
}

/// For a workload's client: it proves itself from `store`, and the server must prove to be `expected`. The server
/// name given to rustls is of no account, and is not sent.
pub fn mutual_client(store: &Store, expected: SpiffeId) -> ClientConfig {
    let verifier = PeerVerifier::new(Trust::Store(store.clone()), Some(expected));
    let config = client_builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(store.clone()));
    quiet(config)
}

/// For the control plane's server: it proves itself from `store`, and asks clients for no certificate. They prove
/// themselves by other means (a ServiceAccount token), or have nothing to prove.
pub fn server(store: &Store) -> ServerConfig {
    without_resumption(server_builder().with_no_client_auth().with_cert_resolver(Arc::new(store.clone())))
}

/// For a client without a certificate: the server must prove by `bundle` to be `expected`, usually
/// [`control_plane_id`](crate::control_plane_id).
pub fn client(bundle: Bundle, expected: SpiffeId) -> ClientConfig {
    let verifier = PeerVerifier::new(Trust::Bundle(bundle), Some(expected));
    quiet(client_builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The cryptography of the whole mesh. Foreign peers without ML-KEM can still agree on X25519 or P-256.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
        let kx_groups = vec![X25519MLKEM768, X25519, SECP256R1];
        Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
    });
    PROVIDER.clone()
}

fn server_builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites and key exchanges of TLS 1.3")
}

fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites and key exchanges of TLS 1.3")
}

fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn quiet(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}
