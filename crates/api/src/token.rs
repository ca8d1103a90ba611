//! ServiceAccount tokens: JWTs signed with ES256, bound to an audience, a time and, mostly, a pod.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::object;
use super::server::Server;
use super::user::{AUTHENTICATED, User};

/// Who issues the tokens, and the audience of tokens for the API itself.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A token's claims.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub aud: Vec<String>,
    /// Seconds since 1970, as all times here.
    pub exp: i64,
    pub iat: i64,
    pub nbf: i64,
    pub iss: String,
    pub jti: String,
    pub sub: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

/// The objects a token is valid for: it ends with any of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub namespace: String,
    pub serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<Reference>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub name: String,
    pub uid: String,
}

/// Why a token is refused; said in TokenReview, never to an anonymous caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidToken {
    #[error("the token is not a JWT of this server")]
    Malformed,
    #[error("the token's signature is not by this server's key")]
    Signature,
    #[error("the token has expired or is not valid yet")]
    Time,
    #[error("the token is for other audiences")]
    Audience,
    #[error("the object the token is bound to is gone")]
    Unbound,
}

/// The token in its compact form.
pub(crate) fn sign(key: &EcdsaKeyPair, claims: &Claims) -> Option<String> {
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": key_id(key)});
    let payload = serde_json::to_string(claims).ok()?;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
}

fn key_id(key: &EcdsaKeyPair) -> String {
    use sha2::Digest as _;
    URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(key.public_key().as_ref()))
}

fn verify(key: &EcdsaKeyPair, token: &str) -> Result<Claims, InvalidToken> {
    let (signed, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(InvalidToken::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidToken::Malformed);
    let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| InvalidToken::Malformed)?;
    if header["alg"] != "ES256" {
        return Err(InvalidToken::Malformed);
    }
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
    public.verify(signed.as_bytes(), &decode(signature)?).map_err(|_| InvalidToken::Signature)?;
    let claims: Claims = serde_json::from_slice(&decode(payload)?).map_err(|_| InvalidToken::Malformed)?;
    let now = Timestamp::now().as_second();
    if claims.iss != ISSUER || now >= claims.exp || now < claims.nbf {
        return Err(InvalidToken::Time);
    }
    Ok(claims)
}

impl Server {
    /// Who the token is, and for which of the `audiences` it is good. Every object it is bound to must still exist.
    pub(crate) fn check_token(&self, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), InvalidToken> {
        let claims = verify(&self.pki.token_key, token)?;
        let good: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if good.is_empty() {
            return Err(InvalidToken::Audience);
        }
        let bound = &claims.kubernetes;
        self.check_bound("/serviceaccounts", &bound.namespace, &bound.serviceaccount)?;
        for (kind, namespace, reference) in [
            ("/pods", bound.namespace.as_str(), &bound.pod),
            ("/secrets", &bound.namespace, &bound.secret),
            ("/nodes", "", &bound.node),
        ] {
            if let Some(reference) = reference {
                self.check_bound(kind, namespace, reference)?;
            }
        }
        Ok((user(&claims), good))
    }

    fn check_bound(&self, kind: &str, namespace: &str, reference: &Reference) -> Result<(), InvalidToken> {
        let found = self.lookup(kind, namespace, &reference.name).ok_or(InvalidToken::Unbound)?;
        if object::uid(&found.value) == reference.uid { Ok(()) } else { Err(InvalidToken::Unbound) }
    }
}

fn user(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let mut extra = Map::new();
    let mut note = |key: &str, value: &str| extra.insert(format!("authentication.kubernetes.io/{key}"), json!([value]));
    note("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &bound.pod {
        note("pod-name", &pod.name);
        note("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        note("node-name", &node.name);
        note("node-uid", &node.uid);
    }
    User {
        name: claims.sub.clone(),
        uid: bound.serviceaccount.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", bound.namespace),
            AUTHENTICATED.to_owned(),
        ],
        extra,
    }
}
