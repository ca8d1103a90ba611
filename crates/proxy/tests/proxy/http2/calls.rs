//! What arrives, and what comes back.

use bytes::Bytes;
use heddle_policy::telemetry::Side;
use http::{HeaderMap, Request, Response};

use super::peer::{Answer, Call, Pair, ask, get, grpc, grpc_head, receive, trailers};
use crate::mesh::eventually;

/// Answers a call of gRPC with what it got, and what it saw of the request in a header.
async fn echo(mut call: Call) {
    let mut received = Vec::new();
    while let Some(bytes) = receive(&mut call.body).await {
        received.extend_from_slice(&bytes);
    }
    let mut head = grpc_head();
    let names: Vec<&str> = call.request.headers().keys().map(|name| name.as_str()).collect();
    head.headers_mut().insert("x-saw", names.join(" ").parse().unwrap());
    head.headers_mut().insert("x-target", call.request.uri().to_string().parse().unwrap());
    let mut stream = call.respond.send_response(head, false).unwrap();
    stream.send_data(received.into(), false).unwrap();
    let mut end = trailers(0);
    end.insert("x-checksum", "1".parse().unwrap());
    stream.send_trailers(end).unwrap();
}

#[tokio::test]
async fn a_unary_call_passes_with_its_trailers_and_timeout() {
    let pair = Pair::new(echo).await;
    let client = pair.connect().await;
    for _ in 0..3 {
        let answer = ask(&client, grpc("/shop.Books/Buy"), "\0\0\0\0\x01x").await;
        assert_eq!((answer.status, answer.text()), (200, "\0\0\0\0\x01x"));
        assert_eq!(answer.header("x-saw"), "content-type te grpc-timeout");
        assert_eq!(answer.header("x-target"), "http://web.shop/shop.Books/Buy");
        assert_eq!(answer.trailers["grpc-status"], "0");
        assert_eq!(answer.trailers["x-checksum"], "1");
    }
    eventually("both sides count the calls", || {
        pair.client.total(Side::Client, |totals| totals.requests.success) == 3
            && pair.server.total(Side::Server, |totals| totals.requests.success) == 3
            && pair.server.total(Side::Server, |totals| totals.latency.count()) == 3
            && pair.server.total(Side::Server, |totals| totals.bytes_received) == 18
    });
    assert_eq!(pair.app.connections(), 1, "requests share a connection");
}

#[tokio::test]
async fn http2_without_grpc_passes_with_and_without_bodies() {
    let pair = Pair::new(|mut call: Call| async move {
        let head = Response::builder().status(201).header("x-method", call.request.method().as_str()).body(()).unwrap();
        let mut stream = call.respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from(call.request.uri().path().to_owned()), true).unwrap();
    })
    .await;
    let client = pair.connect().await;
    let answer = ask(&client, get("/a/../b"), "").await;
    assert_eq!((answer.status, answer.header("x-method"), answer.text()), (201, "GET", "/b"), "as it was judged");
    let put = Request::put("http://web.shop/put").body(()).unwrap();
    assert_eq!(ask(&client, put, "body").await.text(), "/put");
}

#[tokio::test]
async fn a_hundred_messages_pass_in_turn_on_one_stream() {
    let pair = Pair::new(|mut call: Call| async move {
        let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
        while let Some(message) = receive(&mut call.body).await {
            stream.send_data(message, false).unwrap();
        }
        let end = call.body.trailers().await.unwrap().unwrap_or_default();
        stream
            .send_trailers(
                end.into_iter()
                    .filter_map(|(name, value)| Some((name?, value)))
                    .chain(trailers(0).into_iter().filter_map(|(name, value)| Some((name?, value))))
                    .collect(),
            )
            .unwrap();
    })
    .await;
    let mut client = pair.connect().await;
    let (response, mut stream) = client.send_request(grpc("/shop.Books/Chat"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    for number in 0..100_u8 {
        let message = Bytes::from(vec![number; 1 + usize::from(number)]);
        stream.send_data(message.clone(), false).unwrap();
        let mut echoed = Vec::new();
        while echoed.len() < message.len() {
            echoed.extend_from_slice(&receive(&mut body).await.unwrap());
        }
        assert_eq!(echoed, message);
    }
    let end = HeaderMap::from_iter([("x-end".parse().unwrap(), "client".parse().unwrap())]);
    stream.send_trailers(end).unwrap();
    assert_eq!(receive(&mut body).await, None);
    let end = body.trailers().await.unwrap().unwrap();
    assert_eq!((end["grpc-status"].as_bytes(), end["x-end"].as_bytes()), (&b"0"[..], &b"client"[..]));
}

#[tokio::test]
async fn an_answer_may_be_trailers_only_and_may_come_before_the_requests_end() {
    let pair = Pair::new(|mut call: Call| async move {
        let mut head = grpc_head();
        head.headers_mut().extend(trailers(5));
        call.respond.send_response(head, true).unwrap();
    })
    .await;
    let mut client = pair.connect().await;
    let (response, _unfinished) = client.send_request(grpc("/shop.Books/Buy"), false).unwrap();
    let answer = Answer::of(response.await.unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "5"));
    eventually("NOT_FOUND is no failure of the server", || {
        pair.client.total(Side::Client, |totals| totals.requests.success) == 1
    });
}

#[tokio::test]
async fn a_call_fails_by_the_status_in_its_trailers() {
    let pair = Pair::new(|mut call: Call| async move {
        let mut stream = call.respond.send_response(grpc_head(), false).unwrap();
        let code = call.request.uri().path()[1..].parse().unwrap();
        stream.send_trailers(trailers(code)).unwrap();
    })
    .await;
    let client = pair.connect().await;
    for code in 0..=16 {
        let answer = ask(&client, grpc(&format!("/{code}")), "m").await;
        assert_eq!(answer.trailers["grpc-status"], code.to_string());
    }
    eventually("both sides count by the trailers", || {
        let counts = |side, pod: &crate::mesh::Pod| {
            (pod.total(side, |totals| totals.requests.success), pod.total(side, |totals| totals.requests.failure))
        };
        counts(Side::Client, &pair.client) == (11, 6) && counts(Side::Server, &pair.server) == (11, 6)
    });
}

#[tokio::test]
async fn interim_answers_pass() {
    let pair = Pair::new(|mut call: Call| async move {
        call.respond
            .send_informational(Response::builder().status(103).header("x-early", "1").body(()).unwrap())
            .unwrap();
        call.respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let mut client = pair.connect().await;
    let (mut response, _) = client.send_request(get("/"), true).unwrap();
    let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), interim.headers()["x-early"].as_bytes()), (103, &b"1"[..]));
    assert_eq!(response.await.unwrap().status(), 200);
}
