//! Who makes a request.

use serde_json::{Map, Value, json};

/// An authenticated caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// Further facts, such as the pod a ServiceAccount token is bound to.
    pub extra: Map<String, Value>,
}

/// May do everything, whatever RBAC says.
pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

impl User {
    /// A user of the group that may do everything.
    pub fn admin(name: &str) -> Self {
        User { name: name.to_owned(), groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()], ..User::default() }
    }

    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS)
    }

    /// `authentication.k8s.io/v1` UserInfo.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = Value::Object(self.extra.clone());
        }
        info
    }
}
