//! gRPC and WebSocket through the mesh: split, allowed and denied as other requests are.

use serde_json::{Value, json};

use crate::mesh::{HEDDLE, Mesh, eventually};

/// What a client of the echo reports of a conversation.
fn talk(mesh: &Mesh, who: &str, protocol: &str, path: &str) -> Value {
    let (target, url) = (format!("deploy/{who}"), format!("http://echo.echo{path}"));
    let demo = ["heddle", "demo", protocol, "--messages", "3", &url];
    let printed = mesh.run(HEDDLE, &[&["exec", "-n", "echo", &target, "--"], &demo[..]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{protocol} printed {printed}"))
}

fn chat(mesh: &Mesh, who: &str) -> Value {
    talk(mesh, who, "grpc", "/echo.Echo/Chat")
}

fn weights(mesh: &Mesh, v1: u32, v2: u32) {
    let backends = json!([{"service": "echo-v1", "weight": v1}, {"service": "echo-v2", "weight": v2}]);
    let patch = json!({"spec": {"backends": backends}}).to_string();
    mesh.kubectl(&["patch", "trafficsplit", "-n", "echo", "echo", "--type", "merge", "-p", &patch]);
}

#[test]
fn grpc_and_websocket_are_split_allowed_and_denied_as_other_requests_are() {
    let Some(mesh) = Mesh::up("crates/cli/tests/fixtures/echo", &[]) else { return };
    for (identity, v1, v2) in [("echo-v1", 1, 0), ("echo-v2", 0, 1)] {
        weights(&mesh, v1, v2);
        eventually(&format!("gRPC goes to {identity}"), || chat(&mesh, "client")["identity"] == identity);
        let answer = chat(&mesh, "client");
        assert_eq!((&answer["saidBack"], &answer["grpcStatus"]), (&json!(3), &json!("0")), "{answer}");
        let answer = talk(&mesh, "client", "websocket", "/websocket");
        let expected = json!({"status": 101, "identity": identity, "saidBack": 3});
        assert_eq!(answer, expected);
    }

    let refused = chat(&mesh, "stranger");
    assert_eq!((&refused["grpcStatus"], &refused["reason"]), (&json!("7"), &json!("source-not-allowed")), "{refused}");
    let refused = talk(&mesh, "client", "grpc", "/echo.Echo/Secret");
    assert_eq!((&refused["grpcStatus"], &refused["saidBack"]), (&json!("7"), &json!(0)), "{refused}");
    let refused = talk(&mesh, "stranger", "websocket", "/websocket");
    assert_eq!(refused, json!({"status": 403, "reason": "source-not-allowed"}));
}
