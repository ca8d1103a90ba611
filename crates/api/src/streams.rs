//! Log, exec, attach and port-forward: requests that the kubelet answers.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{StatusCode, header};
use serde_json::Value;

use super::error::{Answer, Failure};
use super::node::{ContainerRef, ExecOptions, LogOptions, Node, NodeError};
use super::object::{self, items, text};
use super::server::{Call, Server};
use super::{spdy, websocket};

/// Subresources of pods that are streams.
pub(crate) const STREAMS: &[&str] = &["log", "exec", "attach", "portforward"];

fn node_failure(error: NodeError) -> Failure {
    match error {
        NodeError::NotFound(why) => Failure::new(StatusCode::NOT_FOUND, "NotFound", why),
        NodeError::NotRunning(why) => Failure::bad_request(why),
        NodeError::Failed(why) => Failure::internal(why),
    }
}

impl Server {
    /// Answers a streaming subresource; `parts` carry the connection's upgrade.
    pub(crate) async fn stream(&self, call: &Call, parts: Parts) -> Answer<Response> {
        let pod = self.find(call)?;
        let node = self.node().ok_or_else(|| Failure::unavailable("no kubelet runs pods here yet; try again"))?;
        let target = container(call, &pod.value)?;
        match call.place.subresource.as_str() {
            "log" => logs(call, node, target).await,
            "portforward" => port_forward(call, node, target, parts).await,
            _ => exec(call, node, target, parts).await,
        }
    }
}

/// The container that the query names, or the pod's default one.
fn container(call: &Call, pod: &Value) -> Answer<ContainerRef> {
    let named = call.query.get("container");
    let all = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
    let names: Vec<&str> = all.iter().flat_map(|list| items(pod, list)).map(|c| text(c, "/name")).collect();
    let main: Vec<&str> = items(pod, "/spec/containers").iter().map(|c| text(c, "/name")).collect();
    let annotated = text(pod, "/metadata/annotations/kubectl.kubernetes.io~1default-container");
    let chosen = match (named, main.as_slice()) {
        ("", _) if call.place.subresource == "portforward" => main.first().copied().unwrap_or_default(),
        ("", [only]) => only,
        ("", _) if names.contains(&annotated) => annotated,
        ("", main) => {
            let message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                object::name(pod),
                main.join(" ")
            );
            return Err(Failure::bad_request(message));
        }
        (named, _) if names.contains(&named) => named,
        (named, _) => {
            let message = format!("container {named} is not valid for pod {}", object::name(pod));
            return Err(Failure::bad_request(message));
        }
    };
    Ok(ContainerRef {
        namespace: object::namespace(pod).to_owned(),
        pod: object::name(pod).to_owned(),
        uid: object::uid(pod).to_owned(),
        container: chosen.to_owned(),
    })
}

async fn logs(call: &Call, node: Arc<dyn Node>, target: ContainerRef) -> Answer<Response> {
    let query = &call.query;
    let since = match (query.number("sinceSeconds")?, query.get("sinceTime")) {
        (Some(seconds), _) => {
            let seconds = jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            jiff::Timestamp::now().checked_sub(seconds).ok()
        }
        (None, "") => None,
        (None, time) => Some(time.parse().map_err(|_| Failure::bad_request("sinceTime: not an RFC 3339 time"))?),
    };
    let options = LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: query.number("tailLines")?,
        since,
        limit_bytes: query.number("limitBytes")?,
    };
    let stream = node.logs(target, options).await.map_err(node_failure)?;
    Ok(([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream)).into_response())
}

async fn exec(call: &Call, node: Arc<dyn Node>, target: ContainerRef, mut parts: Parts) -> Answer<Response> {
    let attach = call.place.subresource == "attach";
    let query = &call.query;
    let options = ExecOptions {
        command: query.all("command"),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout") || (attach && query.get("stdout").is_empty()),
        stderr: query.flag("stderr"),
        tty: query.flag("tty"),
    };
    if options.command.is_empty() && !attach {
        return Err(Failure::bad_request("you must specify at least one command for the container"));
    }
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let upgrade = Upgrade::of(&mut parts, websocket::EXEC_PROTOCOLS).await?;
    let exec = node.exec(target, options.clone()).await.map_err(node_failure)?;
    match upgrade {
        Upgrade::WebSocket(socket) => Ok(websocket::exec(socket, exec, options)),
        Upgrade::Spdy(connection) => spdy::exec(connection, &parts.headers, exec, options),
    }
}

async fn port_forward(call: &Call, node: Arc<dyn Node>, target: ContainerRef, mut parts: Parts) -> Answer<Response> {
    let upgrade = Upgrade::of(&mut parts, websocket::PORT_PROTOCOLS).await?;
    match upgrade {
        Upgrade::WebSocket(socket) if websocket::is_tunnel(&socket) => {
            Ok(spdy::tunneled_port_forward(socket, node, target))
        }
        Upgrade::WebSocket(socket) => {
            let ports = call.query.all("ports").join(",");
            let ports: Result<Vec<u16>, _> = ports.split(',').map(str::parse).collect();
            let ports = ports.map_err(|_| Failure::bad_request("ports: one or more port numbers are needed"))?;
            Ok(websocket::port_forward(socket, node, target, ports))
        }
        Upgrade::Spdy(connection) => spdy::port_forward(connection, &parts.headers, node, target),
    }
}

/// What the connection becomes.
enum Upgrade {
    WebSocket(WebSocketUpgrade),
    Spdy(hyper::upgrade::OnUpgrade),
}

impl Upgrade {
    async fn of(parts: &mut Parts, protocols: &[&'static str]) -> Answer<Self> {
        let wanted = parts.headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        if wanted.eq_ignore_ascii_case("spdy/3.1") {
            let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
            return upgrade
                .map(Upgrade::Spdy)
                .ok_or_else(|| Failure::bad_request("this connection cannot be upgraded"));
        }
        let socket = WebSocketUpgrade::from_request_parts(parts, &()).await;
        let socket = socket.map_err(|e| Failure::bad_request(format!("Upgrade request required: {e}")))?;
        Ok(Upgrade::WebSocket(socket.protocols(protocols.iter().copied())))
    }
}
