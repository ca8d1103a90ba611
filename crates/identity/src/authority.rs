//! The mesh's own certificate authority.

use std::fmt;
use std::time::{Duration, SystemTime};

use heddle_policy::{InvalidSpiffeId, SpiffeId};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::explain::readable;
use crate::tls::provider;
use crate::{Bundle, Credentials, InvalidBundle, InvalidSvid, KeyAndCsr, Names};

/// A root and its key: whoever holds this can be anybody in the trust domain.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The root that issues, and after it others that are still believed.
    bundle: Bundle,
    trust_domain: String,
    valid_from: SystemTime,
    valid_until: SystemTime,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("`{trust_domain}` cannot be a trust domain: {reason}")]
    TrustDomain { trust_domain: String, reason: InvalidSpiffeId },
    #[error("the root certificate is unusable: {0}")]
    Bundle(#[from] InvalidBundle),
    #[error("the root certificate is not one of an authority (basic constraints lack `CA`)")]
    NotAnAuthority,
    #[error("the root certificate names no trust domain; its only URI name must be `spiffe://<trust domain>`")]
    NoTrustDomain,
    #[error("the root's private key is unusable: {0}")]
    Key(String),
    #[error("the private key is not the one of the root certificate")]
    Mismatch,
    #[error("a root cannot be made: {0}")]
    Make(rcgen::Error),
}

/// Why a certificate is not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the certificate signing request is refused: {0}")]
    Csr(String),
    #[error("`{identity}` is outside the authority's trust domain `{trust_domain}`")]
    TrustDomain { identity: SpiffeId, trust_domain: String },
    #[error("`{0}` cannot be a DNS name in a certificate")]
    DnsName(String),
    #[error("the root is valid from {from} until {until}, and it is {now} by this machine's clock")]
    RootNotValid { from: String, until: String, now: String },
    #[error("the certificate cannot be made: {0}")]
    Make(String),
}

/// How long a root is valid.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far certificates are dated back, so that a peer whose clock is behind can use them at once.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// The largest certificate signing request that is looked at, in bytes.
const MAX_CSR: usize = 16 * 1024;

// === impl Authority ===

impl Authority {
    /// Makes a new root: self-signed, ECDSA P-256, valid for ten years.
    pub fn create(trust_domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let invalid = |reason| AuthorityError::TrustDomain { trust_domain: trust_domain.to_owned(), reason };
        let uri: SpiffeId = format!("spiffe://{trust_domain}").parse().map_err(invalid)?;
        if uri.trust_domain() != trust_domain {
            return Err(invalid(InvalidSpiffeId::TrustDomain));
        }
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // Two roots of a trust domain must not be taken for one another while one replaces the other.
        let serial = serial().map_err(AuthorityError::Make)?;
        let name = format!("Heddle root {}", hex(&serial.to_bytes()[..4]));
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial);
        params.subject_alt_names = vec![SanType::URI(ia5(uri.as_str()).map_err(AuthorityError::Make)?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + ROOT_LIFETIME).into();
        let root = params.self_signed(&key).map_err(AuthorityError::Make)?;
        Self::new(Bundle::from_der(vec![root.der().clone()])?, key)
    }

    /// Loads a root and its key. Further certificates after the root are believed, and issue nothing.
    pub fn from_pem(roots: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        Self::new(Bundle::from_pem(roots)?, key)
    }

    fn new(bundle: Bundle, key: KeyPair) -> Result<Self, AuthorityError> {
        let root = &bundle.roots()[0];
        let unreadable = |reason: String| InvalidBundle::Unreadable { number: 1, reason };
        let (_, parsed) = X509Certificate::from_der(root).map_err(|error| unreadable(error.to_string()))?;
        if !parsed.is_ca() {
            return Err(AuthorityError::NotAnAuthority);
        }
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(AuthorityError::Mismatch);
        }
        let trust_domain = bundle.trust_domain().ok_or(AuthorityError::NoTrustDomain)?.to_owned();
        let (valid_from, valid_until) = (parsed.validity().not_before, parsed.validity().not_after);
        let issuer = Issuer::from_ca_cert_der(root, key).map_err(|error| unreadable(error.to_string()))?;
        let (valid_from, valid_until) = (system_time(valid_from), system_time(valid_until));
        Ok(Self { issuer, bundle, trust_domain, valid_from, valid_until })
    }

    /// The roots to be believed; as PEM, the first half of what [`from_pem`](Self::from_pem) takes.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The private key in PEM (PKCS #8). A secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Certifies the public key of a certificate signing request (PKCS #10 in DER, ECDSA P-256) for `names`.
    ///
    /// The request's signature proves that its sender holds the key. Nothing else of it counts: not its subject, its
    /// names or its extensions. The certificate is valid for `ttl` from `now`, and some time before it: as long as
    /// `ttl`, but at most 5 minutes. It does not outlive the root.
    pub fn issue(
        &self,
        csr: &[u8],
        names: &Names,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        if csr.len() > MAX_CSR {
            return Err(IssueError::Csr(format!("it has {} bytes, more than {MAX_CSR}", csr.len())));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
            .map_err(|error| IssueError::Csr(error.to_string()))?;
        if request.params.is_ca != IsCa::NoCa && request.params.is_ca != IsCa::ExplicitNoCa {
            return Err(IssueError::Csr("it asks to be an authority".to_owned()));
        }
        let key = request.public_key;
        if *key.algorithm() != PKCS_ECDSA_P256_SHA256 {
            return Err(IssueError::Csr("its key is not an ECDSA key on the curve P-256".to_owned()));
        }
        let params = self.leaf(names, ttl, now)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(|error| IssueError::Make(error.to_string()))?;
        Ok(vec![leaf.der().clone()])
    }

    /// Credentials with a key made here: for the control plane itself.
    pub fn credentials(&self, names: &Names, ttl: Duration, now: SystemTime) -> Result<Credentials, IssueError> {
        let make = |error: InvalidSvid| IssueError::Make(error.to_string());
        let key = KeyAndCsr::generate().map_err(make)?;
        let chain = self.issue(key.csr(), names, ttl, now)?;
        Ok(Credentials { svid: key.certified(chain, now).map_err(make)?, bundle: self.bundle.clone() })
    }

    fn leaf(&self, names: &Names, ttl: Duration, now: SystemTime) -> Result<CertificateParams, IssueError> {
        if names.identity.trust_domain() != self.trust_domain {
            let (identity, trust_domain) = (names.identity.clone(), self.trust_domain.clone());
            return Err(IssueError::TrustDomain { identity, trust_domain });
        }
        if now < self.valid_from || now >= self.valid_until {
            let [from, until, now] = [self.valid_from, self.valid_until, now].map(readable);
            return Err(IssueError::RootNotValid { from, until, now });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Heddle");
        params.serial_number = Some(serial().map_err(|error| IssueError::Make(error.to_string()))?);
        params.subject_alt_names = alternative_names(names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - ttl.min(BACKDATE)).max(self.valid_from).into();
        params.not_after = now.checked_add(ttl).map_or(self.valid_until, |end| end.min(self.valid_until)).into();
        Ok(params)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

fn alternative_names(names: &Names) -> Result<Vec<SanType>, IssueError> {
    let uri = ia5(names.identity.as_str()).map_err(|error| IssueError::Make(error.to_string()))?;
    let dns = names.dns.iter().map(|name| match ia5(name) {
        Ok(name) if !name.as_str().is_empty() => Ok(SanType::DnsName(name)),
        _ => Err(IssueError::DnsName(name.clone())),
    });
    std::iter::once(Ok(SanType::URI(uri))).chain(dns).collect()
}

fn ia5(text: &str) -> Result<Ia5String, rcgen::Error> {
    Ia5String::try_from(text)
}

/// 126 random bits, positive and without a leading zero byte (RFC 5280, 4.1.2.2).
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    provider().secure_random.fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn system_time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
