//! Framing at every boundary of reads, and time.

use std::rc::Rc;
use std::time::Duration;

use heddle_policy::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::body::{Body, InvalidBody};
use super::*;
use crate::io::{Conn, Upstream};
use crate::meter::Meter;
use crate::options::Options;
use crate::tasks::{Activity, Tasks};
use crate::upstream::Lease;
use crate::worker::Shared;

/// The bytes that a chunked body takes of `text`, fed in pieces of `step`.
fn accept(text: &str, step: usize) -> Result<(usize, bool), InvalidBody> {
    let (mut body, mut taken) = (Body::CHUNKED, 0);
    for piece in text.as_bytes().chunks(step) {
        taken += body.accept(piece)?;
    }
    Ok((taken, body.is_done()))
}

#[test]
fn chunks_end_where_they_say_however_they_arrive() {
    let message = "4;name=\"v\"\r\nWiki\r\n00a\r\n0123456789\r\n0\r\nExpires: never\r\nX:\r\n\r\n";
    for step in 1..message.len() {
        assert_eq!(accept(&format!("{message}GET /"), step), Ok((message.len(), true)), "in pieces of {step}");
        assert_eq!(accept(&message[..message.len() - 1], step), Ok((message.len() - 1, false)));
    }
}

#[test]
fn chunks_that_could_be_read_differently_are_refused() {
    let long = format!("1;{}\r\n", "x".repeat(crate::limits::CHUNK_LINE_BYTES + 1));
    let trailers = format!("0\r\nX: {}\r\n", "x".repeat(crate::limits::TRAILER_BYTES));
    let bad = ["\r\n", "g\r\n", " 1\r\n", "1 \r\n", "1\n", "1\ra", "1\r\na\n", "1\r\nab", "0\r\n\n", "0\r\n X: 1\r\n"];
    for text in bad.into_iter().chain([&*long, &trailers, "0\r\nX Y: 1\r\n", "0\r\n: 1\r\n", "1234567890123456\r\n"]) {
        for step in [1, text.len()] {
            assert_eq!(accept(text, step), Err(InvalidBody), "{text:?}");
        }
    }
}

/// Forwards everything to one server, or nothing.
struct To(Option<std::net::SocketAddr>);

impl Handler for To {
    type Plan = ();

    fn decide(&mut self, _: &Request<'_, '_>) -> Result<(), Refusal> {
        self.0.map(drop).ok_or(Refusal::Answer(Reason::NoEndpoint))
    }

    async fn connect(&mut self, (): &()) -> Result<Lease, Reason> {
        let stream = TcpStream::connect(self.0.unwrap()).await.unwrap();
        let pod = heddle_policy::PodName::new("shop", "web");
        let side = heddle_policy::telemetry::Side::Client;
        let edge =
            heddle_policy::telemetry::Edge { side, pod, peer: None, peer_pod: None, service: None, backend: None };
        let counters = Meter::default().counters(edge);
        Ok(Lease { conn: Conn::new(Upstream::Plain(stream)), counters, load: None, home: None })
    }

    fn malformed(&mut self, _: Reason) {}
}

/// What a client hears that sends `bytes` and then waits for the end, by a clock that jumps to the next timer.
async fn heard(bytes: &str, handler: To) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let tasks: Rc<Tasks> = Rc::default();
    LocalSet::new()
        .run_until(async {
            tokio::time::pause();
            tasks.spawn(shared(), |activity: Rc<Activity>| async move {
                let mut handler = handler;
                serve(&mut Conn::new(server), &mut handler, &activity).await;
            });
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            text
        })
        .await
}

fn shared() -> std::sync::Arc<Shared> {
    let options = Options {
        pod_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        mesh_port: 0,
        mark: None,
        workers: 1,
        drain: Duration::ZERO,
        listen: Vec::new(),
        admin: Vec::new(),
    };
    Shared::new(options, Vec::new(), heddle_identity::Store::empty())
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_gets_408() {
    let text = heard("GET / HTTP/1.1\r\nHost: we", To(None)).await;
    assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\nx-heddle-reason: request-timeout\r\n"), "{text}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_gets_its_client_504() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let text = heard(request, To(silent.local_addr().ok())).await;
    assert!(text.starts_with("HTTP/1.1 504 Gateway Timeout\r\nx-heddle-reason: upstream-timeout\r\n"), "{text}");
}

#[tokio::test]
async fn a_server_that_closes_without_an_answer_gets_its_client_502() {
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closing.local_addr().ok();
    tokio::spawn(async move {
        let (mut stream, _) = closing.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    });
    let text = heard("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", To(address)).await;
    assert!(text.starts_with("HTTP/1.1 502 Bad Gateway\r\nx-heddle-reason: upstream-reset\r\n"), "{text}");
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_and_is_counted() {
    let (shared, tasks): (_, Rc<Tasks>) = (shared(), Rc::default());
    LocalSet::new()
        .run_until(async {
            let (done, finished) = tokio::sync::oneshot::channel();
            tasks.spawn(shared.clone(), |_| async { panic!("a bug in the handling of one connection") });
            tasks.spawn(shared.clone(), |_| async { done.send(()).unwrap() });
            finished.await.unwrap();
            tasks.drain().await;
        })
        .await;
    assert_eq!(shared.meter.panics.load(std::sync::atomic::Ordering::Relaxed), 1);
}
