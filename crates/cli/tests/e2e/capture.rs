//! The ways in which traffic comes to the proxies.

use crate::mesh::{Mesh, eventually};

#[test]
fn without_namespaces_the_same_policy_holds() {
    let mesh = Mesh::bookstore_without_namespaces();
    eventually("the buyer is served", || mesh.status_for("bookbuyer") == "200");
    eventually("the thief is denied", || mesh.status_for("bookthief") == "403");
}
