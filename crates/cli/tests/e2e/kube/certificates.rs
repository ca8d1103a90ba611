//! The authorities of a cluster, and whom they certify.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// An authority whose certificate is `NAME.crt`.
struct Authority(Issuer<'static, KeyPair>);

/// Writes, as `NAME.crt` and `NAME.key`, what an API server at `address` needs and whom it knows; and `sa.key` and
/// `sa.pub`, for the tokens of ServiceAccounts.
pub(super) fn write(dir: &Path, address: &str) {
    let (cluster, front_proxy) = (Authority::new(dir, "ca"), Authority::new(dir, "front-proxy-ca"));
    let issue = |authority: &Authority, file: &str, subject: &[(DnType, &str)]| {
        authority.issue(dir, file, subject, address);
    };
    issue(&cluster, "apiserver", &[(DnType::CommonName, "kube-apiserver")]);
    issue(&cluster, "admin", &[(DnType::OrganizationName, "system:masters"), (DnType::CommonName, "admin")]);
    // A client that the cluster knows, and that is not its front proxy though it has its name.
    issue(&cluster, "impostor", &[(DnType::CommonName, "front-proxy-client")]);
    issue(&front_proxy, "front-proxy-client", &[(DnType::CommonName, "front-proxy-client")]);
    issue(&front_proxy, "unlisted", &[(DnType::CommonName, "somebody")]);
    let tokens = KeyPair::generate().expect("a key");
    std::fs::write(dir.join("sa.key"), tokens.serialize_pem()).expect("written");
    std::fs::write(dir.join("sa.pub"), tokens.public_key_pem()).expect("written");
}

// === impl Authority ===

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.join(format!("{name}.crt")), certificate.pem()).expect("written");
        Self(Issuer::new(params, key))
    }

    fn issue(&self, dir: &Path, file: &str, subject: &[(DnType, &str)], address: &str) {
        let names = vec![address.to_owned(), "kubernetes.default.svc".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        std::fs::write(dir.join(format!("{file}.crt")), certificate.pem()).expect("written");
        std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).expect("written");
    }
}
