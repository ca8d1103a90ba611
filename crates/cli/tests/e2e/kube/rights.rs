//! Who may read: what RBAC grants, and nobody past the API server.

use std::path::Path;
use std::process::Command;

use heddle_local::net::NODE_IP;

use super::cluster::{Cluster, GROUP, server};
use crate::mesh::eventually;

pub(super) fn are_asked_for(cluster: &Cluster) {
    edges_are_granted_alone(cluster);
    viewers_see_their_namespace(cluster);
    let anonymous = status(cluster, &[&format!("{}{GROUP}/v1alpha1/namespaces/shop/pods", server())]);
    assert_eq!(anonymous, "403", "anonymous");
    for (certificate, what) in [(None, "no certificate"), (Some("unlisted"), "another name")] {
        assert_eq!(forge(cluster, certificate), "401", "{what}");
    }
    assert_eq!(forge(cluster, Some("impostor")), "000", "another authority's certificate ends the handshake");
    assert_eq!(forge(cluster, Some("front-proxy-client")), "200", "the API server itself is let in");
}

/// A ServiceAccount that may read edges of Deployments in its namespace reads nothing else.
fn edges_are_granted_alone(cluster: &Cluster) {
    for args in [
        &["create", "serviceaccount", "-n", "shop", "drawer"][..],
        &["create", "role", "-n", "shop", "drawer", "--verb=get", "--resource=deployments.metrics.smi-spec.io/edges"],
        &["create", "rolebinding", "-n", "shop", "drawer", "--role=drawer", "--serviceaccount=shop:drawer"],
    ] {
        cluster.kubectl(args);
    }
    cluster.add_user("drawer", "shop", "drawer");
    let edges = "/namespaces/shop/deployments/web-v1/edges";
    eventually("the right has taken effect", || ask(cluster, "drawer", edges).0);
    let others =
        ["/namespaces/shop/deployments/web-v1", "/namespaces/shop/deployments", "/pods", "/namespaces/shop/edges"];
    for path in others {
        let (is_allowed, said) = ask(cluster, "drawer", path);
        assert!(!is_allowed && said.contains("Forbidden"), "{path}: {said}");
    }
}

/// What the manifests grant to those who may view everything.
fn viewers_see_their_namespace(cluster: &Cluster) {
    let bind =
        ["create", "rolebinding", "-n", "shop", "viewer", "--clusterrole=heddle-view", "--serviceaccount=shop:viewer"];
    cluster.kubectl(&["create", "serviceaccount", "-n", "shop", "viewer"]);
    cluster.kubectl(&bind);
    cluster.add_user("viewer", "shop", "viewer");
    for path in ["/namespaces/shop/deployments/web-v1/edges", "/namespaces/shop/deployments"] {
        eventually("viewers may", || ask(cluster, "viewer", path).0);
    }
    assert!(!ask(cluster, "viewer", "/pods").0, "the binding is of one namespace");
}

/// Whether a user may get a path, and what kubectl says.
fn ask(cluster: &Cluster, user: &str, path: &str) -> (bool, String) {
    let path = format!("{GROUP}/v1alpha1{path}");
    let output = cluster.output(&mut cluster.command(user, Path::new("kubectl"), &["get", "--raw", &path]));
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The status with which the control plane answers a request that claims to come from an administrator, without the
/// API server between.
fn forge(cluster: &Cluster, certificate: Option<&str>) -> String {
    let url = format!("https://{NODE_IP}:15017{GROUP}/v1alpha1/pods");
    let claim = ["-H", "X-Remote-User: admin", "-H", "X-Remote-Group: system:masters"];
    let files = certificate.map(|name| [format!("{name}.crt"), format!("{name}.key")].map(|name| cluster.file(&name)));
    let files = files.map(|files| files.map(|file| file.display().to_string()));
    let proof = files.as_ref().map(|[cert, key]| vec!["--cert", cert.as_str(), "--key", key]).unwrap_or_default();
    status(cluster, &[&claim[..], &proof, &[&url]].concat())
}

/// The status that curl gets; `000` where there is no answer.
fn status(cluster: &Cluster, args: &[&str]) -> String {
    let mut curl = Command::new("curl");
    let output = cluster.output(curl.args(["-ks", "-o", "/dev/null", "-w", "%{http_code}"]).args(args));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
