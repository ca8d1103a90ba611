//! Keeps a pod's volumes, tokens and mesh files as their sources are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::PostParams;

use super::context::Context;
use super::mesh;
use super::sources::Sources;
use super::volumes::{self, Contents, File, Files, TokenClaim, token_claims};

/// What a pod's files are made from, and when they were.
pub(super) struct Keeper {
    pod: Arc<Context>,
    meshed: bool,
    tokens: BTreeMap<TokenClaim, Token>,
}

struct Token {
    value: String,
    /// When four fifths of its life are over.
    renew_at: Timestamp,
}

/// Files are looked at this often even when nothing was heard of their sources.
const INTERVAL: Duration = Duration::from_secs(30);
/// Without the API the files stay as they are, and this long passes before it is asked again.
const RETRY: Duration = Duration::from_secs(5);

impl Keeper {
    pub(super) fn new(pod: Arc<Context>, meshed: bool) -> Self {
        Self { pod, meshed, tokens: BTreeMap::new() }
    }

    /// Refreshes the files for ever.
    pub(super) async fn keep(mut self) {
        let mut changes = self.pod.shared.changes.subscribe();
        let mut pod = self.pod.pod.subscribe();
        loop {
            let pause = match self.refresh().await {
                Ok(()) => INTERVAL,
                Err(error) => {
                    tracing::warn!(pod = self.pod.name(), error, "a pod's volumes are not up to date");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = changes.changed() => if changed.is_err() { return },
                changed = pod.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Makes all files as they should be now. The error is a sentence for an event.
    pub(super) async fn refresh(&mut self) -> Result<(), String> {
        self.renew_tokens().await?;
        let pod = self.pod.pod();
        let client = &self.pod.shared.client;
        let sources =
            Sources::load(client, &pod).await.map_err(|error| format!("cannot read the pod's sources: {error}"))?;
        let tokens = self.tokens.iter().map(|(claim, token)| (claim.clone(), token.value.clone())).collect();
        let place = self.pod.place();
        let api_ca = &self.pod.shared.config.api_ca;
        let contents = Contents { pod: &pod, place: &place, sources: &sources, tokens: &tokens, api_ca };
        let directory = self.pod.volumes_dir();
        for (index, volume) in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).enumerate() {
            if let Some(claim) = &volume.persistent_volume_claim {
                self.find_claim(&claim.claim_name).await?;
            }
            let files =
                contents.of_volume(volume, &format!("spec.volumes[{index}]")).map_err(|error| error.to_string())?;
            let path = directory.join(&volume.name);
            let written = match files {
                Some(files) => volumes::publish(&path, &files),
                None => std::fs::create_dir_all(&path),
            };
            written.map_err(|error| format!("cannot write the volume `{}`: {error}", volume.name))?;
        }
        if self.meshed { self.refresh_mesh().await } else { Ok(()) }
    }

    /// A claim must exist; there is no need to bind it to anything.
    async fn find_claim(&self, name: &str) -> Result<(), String> {
        let claims =
            Api::<core::PersistentVolumeClaim>::namespaced(self.pod.shared.client.clone(), &self.pod.namespace());
        match claims.get_opt(name).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("the PersistentVolumeClaim `{name}` does not exist")),
            Err(error) => Err(format!("cannot read the PersistentVolumeClaim `{name}`: {error}")),
        }
    }

    async fn refresh_mesh(&self) -> Result<(), String> {
        let ca = mesh::trust_bundle(&self.pod.shared.client).await;
        let ca = ca.map_err(|error| format!("cannot read the mesh's certificate authority: {error}"))?;
        let ca =
            ca.ok_or("waiting for the control plane: ConfigMap heddle-system/heddle-trust-bundle does not exist yet")?;
        let token = self.tokens.get(&mesh::token_claim()).map(|token| token.value.clone()).unwrap_or_default();
        let files = [("ca.crt", ca), ("token", token)];
        let files: Files =
            files.map(|(name, text)| (name.to_owned(), File { bytes: text.into_bytes(), mode: 0o600 })).into();
        volumes::publish(&self.pod.dir.join("mesh"), &files)
            .map_err(|error| format!("cannot write the proxy's files: {error}"))
    }

    /// Gets the tokens that the pod needs and does not have, or whose time is running out.
    async fn renew_tokens(&mut self) -> Result<(), String> {
        let mut claims = token_claims(&self.pod.pod());
        if self.meshed {
            claims.insert(mesh::token_claim());
        }
        for claim in claims {
            if self.tokens.get(&claim).is_some_and(|token| token.renew_at > Timestamp::now()) {
                continue;
            }
            let account = self.pod.spec().service_account_name.unwrap_or_else(|| "default".to_owned());
            let token = self.request_token(&account, &claim).await;
            let token =
                token.map_err(|error| format!("cannot get a token of the ServiceAccount `{account}`: {error}"))?;
            self.tokens.insert(claim, token);
        }
        Ok(())
    }

    async fn request_token(&self, account: &str, claim: &TokenClaim) -> Result<Token, kube::Error> {
        let pod = self.pod.pod();
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: claim.audience.iter().cloned().collect(),
                expiration_seconds: Some(claim.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            },
            ..TokenRequest::default()
        };
        let api = Api::<core::ServiceAccount>::namespaced(self.pod.shared.client.clone(), &self.pod.namespace());
        let granted: TokenRequest = api.create_subresource("token", account, &PostParams::default(), &request).await?;
        let now = Timestamp::now();
        let Some(status) = granted.status else { return Ok(Token { value: String::new(), renew_at: now }) };
        let life = status.expiration_timestamp.0.duration_since(now).max(jiff::SignedDuration::from_secs(10));
        Ok(Token { value: status.token, renew_at: now + life * 4 / 5 })
    }
}
