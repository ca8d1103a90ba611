//! What an authority issues, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use heddle_identity::{Authority, AuthorityError, Bundle, InvalidBundle, IssueError, KeyAndCsr, Names, Svid, peer_of};
use heddle_policy::{Peer, PodName, SpiffeId};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn web() -> Names {
    let identity = SpiffeId::of_service_account("cluster.local", "shop", "web").unwrap();
    Names::of_pod(identity, &PodName::new("shop", "web-1"), "cluster.local")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> Authority {
    Authority::create("cluster.local", now()).unwrap()
}

/// Seconds from [`now`] to the beginning and the end of a certificate's validity.
fn validity(certificate: &X509Certificate<'_>) -> (i64, i64) {
    let validity = certificate.validity();
    (validity.not_before.timestamp() - 1_800_000_000, validity.not_after.timestamp() - 1_800_000_000)
}

#[test]
fn a_leaf_has_one_identity_one_pod_both_purposes_and_a_backdated_day() {
    let authority = authority();
    let chain = authority.issue(KeyAndCsr::generate().unwrap().csr(), &web(), DAY, now()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(validity(&leaf), (-300, 86_400));
    assert!(!leaf.is_ca());
    assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let identity = web().identity;
    assert_eq!(peer_of(&chain), Ok(Peer { identity: Some(identity), pod: Some(PodName::new("shop", "web-1")) }));

    let again = authority.issue(KeyAndCsr::generate().unwrap().csr(), &web(), DAY, now()).unwrap();
    let (_, again) = X509Certificate::from_der(&again[0]).unwrap();
    assert_ne!(leaf.raw_serial(), again.raw_serial());
}

#[test]
fn a_short_certificate_is_backdated_no_longer_than_it_lives_and_none_outlives_the_root() {
    let authority = authority();
    let ends = |ttl, now| {
        let chain = authority.issue(KeyAndCsr::generate().unwrap().csr(), &web(), ttl, now).unwrap();
        validity(&X509Certificate::from_der(&chain[0]).unwrap().1)
    };
    assert_eq!(ends(Duration::from_secs(30), now()), (-30, 30));
    let ten_years = 10 * 365 * 86_400;
    assert_eq!(ends(20 * 365 * DAY, now()), (-300, ten_years));
    assert_eq!(ends(Duration::MAX, now()), (-300, ten_years));
}

#[test]
fn a_pod_name_longer_than_a_dns_label_is_kept() {
    let pod = PodName::new("shop", "a".repeat(120));
    let names = Names::of_pod(web().identity, &pod, "cluster.local");
    let chain = authority().issue(KeyAndCsr::generate().unwrap().csr(), &names, DAY, now()).unwrap();
    assert_eq!(peer_of(&chain).unwrap().pod, Some(pod));
}

#[test]
fn names_in_a_request_are_ignored() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["victim.shop.pod.cluster.local".to_owned()]).unwrap();
    let victim = SanType::URI("spiffe://cluster.local/ns/shop/sa/victim".try_into().unwrap());
    params.subject_alt_names.push(victim);
    let csr = params.serialize_request(&key).unwrap();
    let chain = authority().issue(csr.der(), &web(), DAY, now()).unwrap();
    let names = peer_of(&chain).unwrap();
    assert_eq!(names.identity, Some(web().identity));
    assert_eq!(names.pod, Some(PodName::new("shop", "web-1")));
}

#[test]
fn requests_that_prove_no_p256_key_are_refused() {
    let authority = authority();
    let refusal = |csr: &[u8]| match authority.issue(csr, &web(), DAY, now()) {
        Err(IssueError::Csr(reason)) => reason,
        other => panic!("{other:?}"),
    };
    refusal(b"");
    refusal(b"not a request");
    assert!(refusal(&vec![0; 20_000]).contains("20000 bytes"));

    let mut tampered = KeyAndCsr::generate().unwrap().csr().to_vec();
    *tampered.last_mut().unwrap() ^= 1;
    assert!(refusal(&tampered).contains("signature"));

    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let csr = CertificateParams::default().serialize_request(&p384).unwrap();
    assert!(refusal(csr.der()).contains("P-256"));

    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap();
    assert!(authority.issue(csr.der(), &web(), DAY, now()).is_err_and(|error| error.to_string().contains("authority")));
}

#[test]
fn an_identity_outside_the_trust_domain_is_not_issued() {
    let elsewhere = Names { identity: "spiffe://elsewhere/ns/shop/sa/web".parse().unwrap(), dns: Vec::new() };
    let error = authority().issue(KeyAndCsr::generate().unwrap().csr(), &elsewhere, DAY, now()).unwrap_err();
    assert!(error.to_string().ends_with("is outside the authority's trust domain `cluster.local`"));
}

#[test]
fn an_expired_root_issues_nothing_and_says_the_time() {
    let late = now() + 11 * 365 * DAY;
    let error = authority().issue(KeyAndCsr::generate().unwrap().csr(), &web(), DAY, late).unwrap_err();
    assert!(matches!(&error, IssueError::RootNotValid { .. }));
    assert!(error.to_string().contains("Jan 12 08:00:00 2037"), "{error}");
}

#[test]
fn a_root_is_the_same_after_it_was_stored() {
    let made = authority();
    let loaded = Authority::from_pem(&made.bundle().to_pem(), &made.key_pem()).unwrap();
    assert_eq!(loaded.bundle(), made.bundle());
    assert_eq!(loaded.trust_domain(), "cluster.local");
    loaded.credentials(&web(), DAY, now()).unwrap();
    let (_, root) = X509Certificate::from_der(&made.bundle().roots()[0]).unwrap();
    assert!(root.is_ca());
    assert_eq!(validity(&root), (-300, 10 * 365 * 86_400));
}

#[test]
fn a_root_that_does_not_fit_is_refused() {
    let (one, two) = (authority(), authority());
    let load = |roots: &str, key: &str| Authority::from_pem(roots, key).map(drop).unwrap_err();
    assert!(matches!(load(&one.bundle().to_pem(), &two.key_pem()), AuthorityError::Mismatch));
    assert!(matches!(load("", &one.key_pem()), AuthorityError::Bundle(InvalidBundle::Empty)));
    assert!(matches!(load(&one.bundle().to_pem(), "no key"), AuthorityError::Key(_)));

    let key = KeyPair::generate().unwrap();
    let plain = CertificateParams::default().self_signed(&key).unwrap();
    assert!(matches!(load(&plain.pem(), &key.serialize_pem()), AuthorityError::NotAnAuthority));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let nameless = params.self_signed(&key).unwrap();
    assert!(matches!(load(&nameless.pem(), &key.serialize_pem()), AuthorityError::NoTrustDomain));
    assert!(matches!(Authority::create("Not A Domain", now()), Err(AuthorityError::TrustDomain { .. })));
    assert!(matches!(Authority::create("a/b", now()), Err(AuthorityError::TrustDomain { .. })));
}

#[test]
fn a_bundle_says_which_of_its_certificates_is_bad() {
    let good = authority().bundle().to_pem();
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = Bundle::from_pem(&format!("a comment\n{good}{bad}")).unwrap_err();
    assert!(matches!(error, InvalidBundle::Unreadable { number: 2, .. }), "{error}");

    let elsewhere = Authority::create("elsewhere", now()).unwrap().bundle().to_pem();
    let error = Bundle::from_pem(&(good + &elsewhere)).unwrap_err();
    assert_eq!(error, InvalidBundle::TrustDomains("cluster.local".into(), "elsewhere".into()));
}

#[test]
fn a_certificate_is_to_be_replaced_after_two_thirds_of_its_time() {
    let svid = authority().credentials(&web(), Duration::from_secs(30), now()).unwrap().svid;
    assert_eq!(svid.expires_at(), now() + Duration::from_secs(30));
    assert_eq!(svid.rotate_at(), now() + Duration::from_secs(20));
}

#[test]
fn a_certificate_with_the_wrong_key_is_refused() {
    let authority = authority();
    let chain = authority.issue(KeyAndCsr::generate().unwrap().csr(), &web(), DAY, now()).unwrap();
    let error = KeyAndCsr::generate().unwrap().certified(chain, now()).unwrap_err();
    assert!(error.to_string().contains("not the one that the certificate certifies"));
    assert!(Svid::from_pem("", "", now()).is_err());
}

#[test]
fn debug_output_holds_no_key() {
    let authority = authority();
    let credentials = authority.credentials(&web(), DAY, now()).unwrap();
    let text = format!("{authority:?} {credentials:?} {:?}", KeyAndCsr::generate().unwrap());
    assert!(text.contains("shop") && !text.contains("key"), "{text}");
}
