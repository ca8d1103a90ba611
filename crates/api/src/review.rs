//! Reviews: TokenRequest, TokenReview, SubjectAccessReview and their like. They are answered, not stored.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::body::read_value;
use super::error::{Answer, Cause, Failure};
use super::object::{self, integer, items, text};
use super::rbac::Attributes;
use super::token::{Bound, Claims, ISSUER, Reference, sign};
use super::user::User;
use super::write::Write;

/// Shortest and longest life of a token, in seconds.
const TOKEN_LIFE: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

impl Write<'_> {
    /// Answers a review of a create-only type.
    pub(crate) fn review(&self, mut value: Value) -> Answer<(StatusCode, Value)> {
        self.check_review(&value["spec"])?;
        let status = match self.call.resource.plural.as_str() {
            "tokenreviews" => self.token_review(&value),
            "selfsubjectreviews" => json!({"userInfo": self.call.user.info()}),
            "selfsubjectrulesreviews" => self.rules_review(&value),
            "selfsubjectaccessreviews" => self.access_review(&self.call.user.clone(), &value["spec"]),
            "subjectaccessreviews" | "localsubjectaccessreviews" => {
                if self.call.resource.namespaced
                    && text(&value, "/spec/resourceAttributes/namespace") != self.call.place.namespace
                {
                    let cause = Cause::invalid(
                        "spec.resourceAttributes.namespace",
                        &value["spec"]["resourceAttributes"]["namespace"],
                        "must match metadata.namespace",
                    );
                    return Err(Failure::invalid(&self.call.resource, "", &[cause]));
                }
                self.access_review(&reviewed_user(&value["spec"]), &value["spec"])
            }
            _ => return Err(Failure::method_not_allowed()),
        };
        value["status"] = status;
        Ok((StatusCode::CREATED, value))
    }

    /// A review must say what it asks about whom.
    fn check_review(&self, spec: &Value) -> Answer<()> {
        let plural = self.call.resource.plural.as_str();
        if plural == "tokenreviews" && text(spec, "/token").is_empty() {
            return Err(Failure::bad_request("token is required for TokenReview in authentication"));
        }
        let mut causes = Vec::new();
        if plural.ends_with("subjectaccessreviews")
            && spec["resourceAttributes"].is_null() == spec["nonResourceAttributes"].is_null()
        {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            causes.push(Cause::invalid("spec.resourceAttributes", &spec["resourceAttributes"], detail));
        }
        let somebody = !text(spec, "/user").is_empty() || !items(spec, "/groups").is_empty();
        if matches!(plural, "subjectaccessreviews" | "localsubjectaccessreviews") && !somebody {
            causes.push(Cause::invalid("spec.user", &json!(""), "at least one of user or group must be specified"));
        }
        if causes.is_empty() { Ok(()) } else { Err(Failure::invalid(&self.call.resource, "", &causes)) }
    }

    fn token_review(&self, review: &Value) -> Value {
        let asked: Vec<String> =
            items(review, "/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let audiences = if asked.is_empty() { vec![ISSUER.to_owned()] } else { asked };
        match self.server.check_token(text(review, "/spec/token"), &audiences) {
            Ok((user, good)) => json!({"authenticated": true, "user": user.info(), "audiences": good}),
            Err(error) => json!({"user": {}, "error": error.to_string()}),
        }
    }

    fn access_review(&self, user: &User, spec: &Value) -> Value {
        let attributes = attributes(spec);
        match self.server.is_allowed(user, &attributes) {
            true => json!({"allowed": true, "reason": "RBAC: allowed by a binding"}),
            false => json!({"allowed": false}),
        }
    }

    fn rules_review(&self, review: &Value) -> Value {
        let user = &self.call.user;
        let everything = json!([
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
            {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ]);
        let rules = match user.is_master() {
            true => everything.as_array().cloned().unwrap_or_default(),
            false => self.server.rules(user, text(review, "/spec/namespace")),
        };
        let (paths, resources): (Vec<Value>, Vec<Value>) =
            rules.into_iter().partition(|r| r.get("nonResourceURLs").is_some());
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    /// A token for the ServiceAccount of the path.
    pub(crate) fn request_token(&self, body: &[u8]) -> Answer<(StatusCode, Value)> {
        let mut request = read_value(&self.call.headers, body)?;
        let account = self.server.find(self.call)?;
        let audiences: Vec<String> =
            items(&request, "/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
        let seconds = integer(&request, "/spec/expirationSeconds").unwrap_or(3600);
        if !TOKEN_LIFE.contains(&seconds) {
            let cause = Cause::invalid(
                "spec.expirationSeconds",
                &json!(seconds),
                "may not specify a duration less than 10 minutes or larger than 2^32 seconds",
            );
            return Err(Failure::invalid(&self.call.resource, &self.call.place.name, &[cause]));
        }
        let now = Timestamp::now();
        let namespace = &self.call.place.namespace;
        let claims = Claims {
            aud: audiences.clone(),
            exp: now.as_second() + seconds,
            iat: now.as_second(),
            nbf: now.as_second(),
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{namespace}:{}", account.key.name),
            kubernetes: self.bound(&request["spec"]["boundObjectRef"], reference(&account.value))?,
        };
        let token = sign(&self.server.pki.token_key, &claims)
            .ok_or_else(|| Failure::internal("the token could not be signed"))?;
        let end = now + SignedDuration::from_secs(seconds);
        request["kind"] = json!("TokenRequest");
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        request["metadata"] =
            json!({"name": account.key.name, "namespace": namespace, "creationTimestamp": object::time(now)});
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = json!(seconds);
        request["status"] = json!({"token": token, "expirationTimestamp": object::time(end)});
        Ok((StatusCode::CREATED, request))
    }

    /// The objects the token shall end with: the account, and the pod or Secret it is asked for.
    fn bound(&self, asked: &Value, serviceaccount: Reference) -> Answer<Bound> {
        let namespace = self.call.place.namespace.clone();
        let mut bound = Bound { namespace: namespace.clone(), serviceaccount, pod: None, node: None, secret: None };
        let name = text(asked, "/name");
        let plural = match text(asked, "/kind") {
            "" => return Ok(bound),
            "Pod" => "pods",
            "Secret" => "secrets",
            other => {
                return Err(Failure::bad_request(format!(
                    "cannot bind token for serviceaccount to object of kind {other}"
                )));
            }
        };
        let registry = self.server.registry();
        let resource = registry.builtin_type("", plural).ok_or_else(Failure::no_such_path)?;
        let found = self
            .server
            .lookup(&resource.storage(), &namespace, name)
            .ok_or_else(|| Failure::not_found(&resource, name))?;
        let uid = text(asked, "/uid");
        if !uid.is_empty() && uid != object::uid(&found.value) {
            let why = format!("the UID in the bound object reference ({uid}) does not match the UID in record");
            return Err(Failure::conflict(&resource, name, &why));
        }
        if plural == "secrets" {
            bound.secret = Some(reference(&found.value));
            return Ok(bound);
        }
        if text(&found.value, "/spec/serviceAccountName") != bound.serviceaccount.name {
            let message = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                bound.serviceaccount.name
            );
            return Err(Failure::bad_request(message));
        }
        bound.pod = Some(reference(&found.value));
        let node = self.server.lookup("/nodes", "", text(&found.value, "/spec/nodeName"));
        bound.node = node.map(|n| reference(&n.value));
        Ok(bound)
    }
}

fn reference(value: &Value) -> Reference {
    Reference { name: object::name(value).to_owned(), uid: object::uid(value).to_owned() }
}

fn reviewed_user(spec: &Value) -> User {
    User {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: items(spec, "/groups").iter().filter_map(|g| g.as_str().map(str::to_owned)).collect(),
        extra: spec["extra"].as_object().cloned().unwrap_or_else(Map::new),
    }
}

fn attributes(spec: &Value) -> Attributes {
    let resource = &spec["resourceAttributes"];
    if let Value::Object(path) = &spec["nonResourceAttributes"] {
        let field = |name: &str| path.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        return Attributes { verb: field("verb"), path: Some(field("path")), ..Attributes::default() };
    }
    let subresource = text(resource, "/subresource");
    let plural = text(resource, "/resource");
    Attributes {
        verb: text(resource, "/verb").to_owned(),
        group: text(resource, "/group").to_owned(),
        resource: if subresource.is_empty() { plural.to_owned() } else { format!("{plural}/{subresource}") },
        namespace: text(resource, "/namespace").to_owned(),
        name: text(resource, "/name").to_owned(),
        path: None,
    }
}
