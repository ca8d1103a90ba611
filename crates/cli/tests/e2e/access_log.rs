//! The access log of a running mesh.

use serde_json::Value;

use crate::mesh::{Mesh, eventually};

/// The lines of JSON among the logs of the stores' proxies.
fn lines(mesh: &Mesh) -> Vec<Value> {
    let logs = mesh.kubectl(&["logs", "-n", "bookstore", "-l", "app=bookstore", "-c", "heddle-proxy", "--tail=200"]);
    logs.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn kubectl_annotate_switches_it_on_and_a_line_names_the_rule() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    assert_eq!(mesh.status_for("bookbuyer"), "200", "`up` has returned, so that the very first request is served");
    assert!(lines(&mesh).is_empty(), "it is off by default");
    let annotate = ["annotate", "pods", "-n", "bookstore", "-l", "app=bookstore", "--overwrite"];
    mesh.kubectl(&[&annotate[..], &["heddle.dev/access-log=denied"]].concat());
    let mut denied = Value::Null;
    eventually("a denied request is told", || {
        mesh.status_for("bookthief");
        denied = lines(&mesh).pop().unwrap_or_default();
        !denied.is_null()
    });
    assert_eq!(
        (&denied["decision"], &denied["outcome"], &denied["status"]),
        (&"denied".into(), &"denied".into(), &403.into())
    );
    assert_eq!(denied["source"]["identity"], "spiffe://cluster.local/ns/bookthief/sa/bookthief");
    assert_eq!((&denied["rule"]["kind"], &denied["rule"]["namespace"]), (&"TrafficTarget".into(), &"bookstore".into()));
    assert!(lines(&mesh).iter().all(|line| line["decision"] == "denied"), "nothing else is told");
    mesh.kubectl(&[&annotate[..], &["heddle.dev/access-log=all"]].concat());
    eventually("an allowed request is told with what allows it", || {
        mesh.status_for("bookbuyer");
        let allowed = |line: &Value| {
            line["decision"] == "allowed" && line["rule"]["name"] == "bookstore" && line["path"] == "/books-bought"
        };
        lines(&mesh).iter().any(allowed)
    });
}
