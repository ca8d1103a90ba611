//! The keys of the API server: a cluster authority, a front-proxy authority, and the key that signs tokens.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// Certificates are backdated by this much, for clocks that differ.
const BACKDATE: Duration = Duration::hours(1);
const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
/// Leaf certificates are made anew at each start.
const LEAF_LIFETIME: Duration = Duration::days(365);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot use {path}: {source}; check that you may read and write it")]
    File { path: String, source: std::io::Error },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{path} is not a key that this can use; remove the file to have a new one made")]
    Key { path: String },
}

/// An authority that signs certificates.
pub(crate) struct Authority {
    pub pem: String,
    pub der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(crate) struct Leaf {
    pub certificate_pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

pub(crate) struct Pki {
    /// Signs the server's and clients' certificates.
    pub cluster: Authority,
    /// Signs the certificate with which the server calls aggregated APIs.
    pub front_proxy: Authority,
    pub token_key: EcdsaKeyPair,
}

impl Leaf {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

impl Pki {
    /// Reads the keys in `dir`, making those that are missing; without a directory they live in memory.
    pub(crate) fn open(dir: Option<&Path>) -> Result<Self, PkiError> {
        if let Some(dir) = dir {
            fs::create_dir_all(dir).map_err(|source| PkiError::File { path: dir.display().to_string(), source })?;
        }
        Ok(Pki {
            cluster: authority(dir, "ca", "heddle-cluster")?,
            front_proxy: authority(dir, "front-proxy-ca", "heddle-front-proxy")?,
            token_key: token_key(dir)?,
        })
    }

    /// The server's own certificate for these names and addresses.
    pub(crate) fn server_leaf(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Leaf, PkiError> {
        let mut params = leaf_params("kube-apiserver", &[], ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        self.cluster.issue(params)
    }

    /// A client's certificate: the user is the common name, groups are organizations.
    pub(crate) fn client_leaf(&self, user: &str, groups: &[&str]) -> Result<Leaf, PkiError> {
        self.cluster.issue(leaf_params(user, groups, ExtendedKeyUsagePurpose::ClientAuth))
    }

    pub(crate) fn front_proxy_leaf(&self) -> Result<Leaf, PkiError> {
        self.front_proxy.issue(leaf_params("front-proxy-client", &[], ExtendedKeyUsagePurpose::ClientAuth))
    }
}

impl Authority {
    fn issue(&self, params: CertificateParams) -> Result<Leaf, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            der: certificate.der().clone(),
            key_der: key.serialize_der(),
        })
    }
}

fn leaf_params(name: &str, groups: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    set_lifetime(&mut params, LEAF_LIFETIME);
    params
}

fn set_lifetime(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + lifetime;
}

fn authority(dir: Option<&Path>, file: &str, name: &str) -> Result<Authority, PkiError> {
    let kept = |extension: &str| dir.map(|d| d.join(format!("{file}.{extension}")));
    if let (Some(certificate), Some(key)) = (read(kept("crt"))?, read(kept("key"))?) {
        let key = KeyPair::from_pem(&key)?;
        let der = rustls_pemfile::certs(&mut certificate.as_bytes()).flatten().next();
        let der = der.ok_or_else(|| PkiError::Key { path: format!("{file}.crt") })?;
        return Ok(Authority { issuer: Issuer::from_ca_cert_pem(&certificate, key)?, pem: certificate, der });
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_lifetime(&mut params, AUTHORITY_LIFETIME);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    keep(kept("key"), &key.serialize_pem())?;
    keep(kept("crt"), &certificate.pem())?;
    Ok(Authority { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) })
}

fn token_key(dir: Option<&Path>) -> Result<EcdsaKeyPair, PkiError> {
    let path = dir.map(|d| d.join("tokens.key"));
    let unusable = || PkiError::Key { path: "tokens.key".to_owned() };
    let base64 = base64::engine::general_purpose::STANDARD;
    if let Some(kept) = read(path.clone())? {
        let der = base64.decode(kept.trim()).map_err(|_| unusable())?;
        return EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(|_| unusable());
    }
    let made =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(|_| unusable())?;
    keep(path, &base64.encode(made.as_ref()))?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref()).map_err(|_| unusable())
}

fn read(path: Option<std::path::PathBuf>) -> Result<Option<String>, PkiError> {
    let Some(path) = path else { return Ok(None) };
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.display().to_string(), source }),
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)
}

fn keep(path: Option<std::path::PathBuf>, text: &str) -> Result<(), PkiError> {
    let Some(path) = path else { return Ok(()) };
    write_private(&path, text).map_err(|source| PkiError::File { path: path.display().to_string(), source })
}

/// A certificate verifier's roots.
pub(crate) fn roots(authority: &Authority) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates([authority.der.clone()]);
    debug_assert_eq!(ignored, 0, "the authority's own certificate parses");
    Arc::new(roots)
}
