//! Bodies move no faster than they are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::Builder;
use http::Response;

use super::peer::{Call, Pair, ask, get, grpc, receive, send_all};

const BODY: usize = 32 * 1024 * 1024;

/// What may be under way: the windows of a client, two proxies and a server, and what waits to be written.
const UNDER_WAY: usize = 4 * 1024 * 1024;

#[tokio::test]
async fn what_a_slow_reader_has_not_taken_stays_with_the_sender() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let pair = Pair::new(move |mut call: Call| {
        let taken = counter.clone();
        async move {
            while let Some(bytes) = receive(&mut call.body).await {
                taken.fetch_add(bytes.len(), Ordering::SeqCst);
                // Everyone else has a turn before the next bytes.
                tokio::task::yield_now().await;
            }
            call.respond.send_response(Response::new(()), true).unwrap();
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, mut stream) = client.send_request(grpc("/shop.Books/Upload"), false).unwrap();
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    for sent in (0..BODY).step_by(chunk.len()) {
        send_all(&mut stream, chunk.clone()).await.unwrap();
        let under_way = sent + chunk.len() - taken.load(Ordering::SeqCst);
        assert!(under_way <= UNDER_WAY, "{under_way} bytes are under way");
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    assert_eq!(taken.load(Ordering::SeqCst), BODY);
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_no_other() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let pair = Pair::new(move |mut call: Call| {
        let sent = counter.clone();
        async move {
            let mut stream = call.respond.send_response(Response::new(()), false).unwrap();
            let chunk = Bytes::from_static(&[7; 16 * 1024]);
            let chunks = if call.request.uri().path() == "/large" { BODY / chunk.len() } else { 1 };
            for _ in 0..chunks {
                if send_all(&mut stream, chunk.clone()).await.is_err() {
                    return;
                }
                sent.fetch_add(chunk.len(), Ordering::SeqCst);
            }
            stream.send_data(Bytes::new(), true).unwrap();
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, _) = client.send_request(get("/large"), true).unwrap();
    let mut unread = response.await.unwrap().into_body();
    for _ in 0..200 {
        assert_eq!(ask(&pair.connect().await, get("/small"), "").await.body.len(), 16 * 1024);
    }
    assert!(sent.load(Ordering::SeqCst) < UNDER_WAY + 200 * 16 * 1024);
    let mut received = 0;
    while let Some(bytes) = receive(&mut unread).await {
        received += bytes.len();
    }
    assert_eq!(received, BODY);
}

#[tokio::test]
async fn many_small_messages_that_are_not_read_yet_end_no_connection() {
    let release = Arc::new(tokio::sync::Notify::new());
    let released = release.clone();
    let mut settings = Builder::new();
    // The proxies are to be tested, not the patience of the application.
    settings.data_frame_budget(usize::MAX / 2).initial_connection_window_size(4 * 1024 * 1024);
    let pair = Pair::with(settings, usize::MAX, move |mut call: Call| {
        let released = released.clone();
        async move {
            if call.request.uri().path() == "/held" {
                released.notified().await;
            }
            let mut count = 0;
            while let Some(bytes) = receive(&mut call.body).await {
                count += bytes.len();
            }
            let head = Response::builder().header("x-count", count.to_string()).body(()).unwrap();
            call.respond.send_response(head, true).unwrap();
        }
    })
    .await;
    let mut client = pair.connect().await;
    let (response, mut stream) = client.send_request(grpc("/held"), false).unwrap();
    let sending = async {
        for _ in 0..200_000 {
            send_all(&mut stream, Bytes::from_static(b"12345678")).await.unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    };
    let others = async {
        for _ in 0..100 {
            assert_eq!(ask(&pair.connect().await, grpc("/"), "12345678").await.header("x-count"), "8");
        }
        release.notify_one();
    };
    tokio::join!(sending, others);
    assert_eq!(response.await.unwrap().headers()["x-count"], "1600000");
}
