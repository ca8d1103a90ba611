//! Who sends a request: a client certificate, a ServiceAccount token, or nobody (401).

use http::{HeaderMap, header};
use rustls::pki_types::CertificateDer;
use serde_json::{Map, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::error::{Answer, Failure};
use super::rbac::Attributes;
use super::server::Server;
use super::token::ISSUER;
use super::user::{AUTHENTICATED, User};

/// The verified certificate of a TLS client, as an extension of its requests.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate(pub CertificateDer<'static>);

impl Server {
    /// The sender, or who he asks to be taken for and may.
    pub(crate) fn authenticate(&self, request: &http::request::Parts) -> Answer<User> {
        let user = self.sender(request)?;
        self.impersonated(user, &request.headers)
    }

    fn sender(&self, request: &http::request::Parts) -> Answer<User> {
        if let Some(user) = request.extensions.get::<User>() {
            return Ok(user.clone());
        }
        if let Some(token) = bearer(&request.headers) {
            let checked = self.check_token(&token, &[ISSUER.to_owned()]);
            return checked.map(|(user, _)| user).map_err(|error| {
                tracing::debug!(%error, "a token was refused");
                Failure::unauthorized()
            });
        }
        let certificate = request.extensions.get::<ClientCertificate>().ok_or_else(Failure::unauthorized)?;
        certificate_user(&certificate.0).ok_or_else(Failure::unauthorized)
    }

    /// `Impersonate-User` and its like, each allowed by RBAC.
    fn impersonated(&self, user: User, headers: &HeaderMap) -> Answer<User> {
        let Some(name) = headers.get("impersonate-user").and_then(|v| v.to_str().ok()) else { return Ok(user) };
        let may = |resource: &str, name: &str| {
            let attributes = Attributes {
                verb: "impersonate".to_owned(),
                resource: resource.to_owned(),
                name: name.to_owned(),
                ..Attributes::default()
            };
            self.authorize(&user, &attributes)
        };
        may(if name.starts_with("system:serviceaccount:") { "serviceaccounts" } else { "users" }, name)?;
        let mut groups: Vec<String> = Vec::new();
        for group in headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()) {
            may("groups", group)?;
            groups.push(group.to_owned());
        }
        if let (true, Some(account)) = (groups.is_empty(), name.strip_prefix("system:serviceaccount:")) {
            let namespace = account.split(':').next().unwrap_or_default();
            groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        if name != "system:anonymous" && !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Ok(User { name: name.to_owned(), groups, ..User::default() })
    }
}

/// The token in `Authorization`, or in the WebSocket protocol by which browsers send it.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

fn certificate_user(der: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push(AUTHENTICATED.to_owned());
    let mut extra = Map::new();
    let id: String = {
        use sha2::Digest as _;
        sha2::Sha256::digest(der).iter().map(|b| format!("{b:02x}")).collect()
    };
    extra.insert("authentication.kubernetes.io/credential-id".to_owned(), json!([format!("X509SHA256={id}")]));
    Some(User { name, groups, extra, ..User::default() })
}
