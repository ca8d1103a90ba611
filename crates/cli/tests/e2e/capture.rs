//! The ways in which traffic comes to the proxies.

use crate::mesh::{Mesh, eventually};

/// `nobody`, of whom no machine expects much.
const NOBODY: u32 = 65534;

#[test]
fn without_namespaces_the_same_policy_holds() {
    let Some(mesh) = Mesh::bookstore_without_namespaces() else { return };
    eventually("the buyer is served", || mesh.status_for("bookbuyer") == "200");
    eventually("the thief is denied", || mesh.status_for("bookthief") == "403");
}

#[test]
fn a_user_without_rights_has_the_same_mesh() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!(
            "not tested, as only root can become another user; every other test runs without rights here"
        );
    }
    let Some(mesh) = Mesh::bookstore_of(NOBODY) else { return };
    eventually("the buyer is served", || mesh.status_for("bookbuyer") == "200");
    eventually("the thief is denied", || mesh.status_for("bookthief") == "403");
}
