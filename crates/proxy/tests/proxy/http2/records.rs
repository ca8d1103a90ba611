//! What is told of requests: lines of the access log, and spans.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::peer::{Call, Pair, ask, get, grpc, grpc_head, trailers};
use crate::collector::Collector;
use crate::mesh::address;
use crate::tracing::{export, pair_of, tracing};

/// Answers a call of gRPC, which fails where its method is called so, and any other request.
async fn answer(mut call: Call) {
    if !call.request.headers().contains_key("grpc-timeout") {
        call.respond.send_response(Response::new(()), true).unwrap();
        return;
    }
    let code = if call.request.uri().path().ends_with("/Fail") { 13 } else { 0 };
    let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
    stream.send_trailers(trailers(code)).unwrap();
}

async fn next(lines: &mut Receiver<String>) -> Value {
    serde_json::from_str(&lines.recv().await.unwrap()).unwrap()
}

#[tokio::test]
async fn calls_of_grpc_are_logged_with_the_decision_and_their_status() {
    let pair = Pair::new(answer).await;
    pair.set(&json!({ "accessLog": "all" }));
    let mut client = pair.client.proxy().access_log().unwrap();
    let mut server = pair.server.proxy().access_log().unwrap();
    let connection = pair.connect().await;
    for (method, code, outcome) in [("Buy", 0, "success"), ("Fail", 13, "failure")] {
        ask(&connection, grpc(&format!("/shop.Books/{method}")), "m").await;
        for lines in [&mut client, &mut server] {
            let line = next(lines).await;
            assert_eq!((&line["protocol"], &line["method"]), (&json!("HTTP/2"), &json!("POST")));
            assert_eq!(line["path"], format!("/shop.Books/{method}"));
            assert_eq!((&line["status"], &line["grpcStatus"]), (&json!(200), &json!(code)), "{line}");
            assert_eq!(line["outcome"], outcome, "{line}");
            if line["side"] == "server" {
                assert_eq!((&line["decision"], &line["rule"]["name"]), (&json!("allowed"), &json!("all")));
            }
        }
    }
    pair.server.configure_with(json!({ "accessLog": "denied" }), json!({ "mode": "enforce" }), json!([]));
    ask(&connection, grpc("/shop.Books/Buy"), "m").await;
    let line = next(&mut server).await;
    assert_eq!((&line["decision"], &line["reason"]), (&json!("denied"), &json!("no-target")));
    assert_eq!((&line["outcome"], &line["grpcStatus"]), (&json!("denied"), &json!(7)), "{line}");
    let line = next(&mut client).await;
    assert_eq!((&line["outcome"], &line["grpcStatus"]), (&json!("denied"), &json!(7)), "{line}");
    ask(&connection, get("/books"), "").await;
    let line = next(&mut server).await;
    assert_eq!((&line["status"], &line["grpcStatus"]), (&json!(403), &Value::Null), "{line}");
}

#[tokio::test]
async fn the_access_log_is_switched_while_a_connection_is_open() {
    let pair = Pair::new(answer).await;
    let mut lines = pair.server.proxy().access_log().unwrap();
    let connection = pair.connect().await;
    for (path, log) in [("/off", "off"), ("/all", "all"), ("/denied", "denied"), ("/again", "all")] {
        pair.set(&json!({ "accessLog": log }));
        assert_eq!(ask(&connection, get(path), "").await.status, 200);
    }
    assert_eq!(next(&mut lines).await["path"], "/all");
    assert_eq!(next(&mut lines).await["path"], "/again");
}

fn a_trace_goes_on_through_both_proxies(request: Request<()>) -> (Value, HeaderMap) {
    let collector = Collector::start(address());
    let received = Arc::new(Mutex::new(HeaderMap::new()));
    let heard = received.clone();
    let pair = collector.runtime.block_on(Pair::new(move |call: Call| {
        *heard.lock().unwrap() = call.request.headers().clone();
        answer(call)
    }));
    pair.set(&tracing(collector.grpc, "grpc", 0));
    export(&pair.client, &collector);
    export(&pair.server, &collector);
    let (mut parts, ()) = request.into_parts();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    parts.headers.insert("traceparent", parent.parse().unwrap());
    parts.headers.insert("tracestate", "vendor=1".parse().unwrap());
    let answered = collector.runtime.block_on(async {
        let connection = pair.connect().await;
        ask(&connection, Request::from_parts(parts, ()), "").await
    });
    assert_eq!(answered.status, 200);
    let [client, server] = pair_of(&collector);
    assert_eq!(client.trace_id(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(client.parent(), "b7ad6b7169203331");
    assert_eq!((server.says("network.protocol.version"), server.says("heddle.decision")), ("2", "allowed"));
    let received = received.lock().unwrap().clone();
    let newest = format!("00-{}-{}-01", server.trace_id(), server.id());
    assert_eq!(received["traceparent"], newest);
    assert_eq!(received["tracestate"], "vendor=1");
    (json!(server.attributes), received)
}

#[test]
fn a_request_of_http2_continues_its_trace_through_both_proxies() {
    let (attributes, _) = a_trace_goes_on_through_both_proxies(get("/books?q=1"));
    assert_eq!((&attributes["url.path"], &attributes["http.request.method"]), (&json!("/books"), &json!("GET")));
}

#[test]
fn a_call_of_grpc_continues_its_trace_and_its_span_has_its_status() {
    let (attributes, received) = a_trace_goes_on_through_both_proxies(grpc("/shop.Books/Fail"));
    assert_eq!((&attributes["rpc.system"], &attributes["rpc.grpc.status_code"]), (&json!("grpc"), &json!("13")));
    assert_eq!(attributes["error.type"], "13");
    assert_eq!(received["grpc-timeout"], "20S", "all else goes on as it is");
}
