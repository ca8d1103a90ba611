//! A client's connection over time.

use std::rc::Rc;

use heddle_policy::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::io::{Conn, Upstream};
use crate::meter::Meter;
use crate::record::Record;
use crate::tasks::{Activity, Panics, Tasks};
use crate::upstream::Lease;

/// Forwards everything to one server, or nothing.
struct To(Option<std::net::SocketAddr>);

impl Handler for To {
    type Plan = ();

    const SETTLES_PATHS: bool = false;

    fn record(&self, _: &Request<'_, '_>) -> Option<Box<Record>> {
        None
    }

    fn decide(&mut self, _: &Request<'_, '_>, _: Option<&mut Record>) -> Result<(), Refusal> {
        self.0.map(drop).ok_or(Refusal::Answer(Reason::NoEndpoint))
    }

    async fn connect(&mut self, (): &()) -> Result<Lease, Reason> {
        let stream = TcpStream::connect(self.0.unwrap()).await.unwrap();
        let pod = heddle_policy::PodName::new("shop", "web");
        let side = heddle_policy::telemetry::Side::Client;
        let edge =
            heddle_policy::telemetry::Edge { side, pod, peer: None, peer_pod: None, service: None, backend: None };
        let counters = Meter::default().counters(edge, None);
        Ok(Lease { conn: Conn::new(Upstream::Plain(stream)), counters, load: None, home: None })
    }

    async fn revoked(&self, (): &(), _: &[u8]) -> Reason {
        std::future::pending().await
    }

    fn malformed(&mut self, _: Reason) {}
}

/// What a client hears that sends `bytes` and then waits for the end, by a clock that jumps to the next timer.
async fn heard(bytes: &str, handler: To) -> String {
    heard_by(Rc::default(), bytes, handler).await
}

async fn heard_by(tasks: Rc<Tasks>, bytes: &str, handler: To) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    LocalSet::new()
        .run_until(async {
            tokio::time::pause();
            tasks.spawn(|activity: Rc<Activity>| async move {
                let mut handler = handler;
                serve(&mut Conn::new(server), &mut handler, &activity).await;
            });
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            text
        })
        .await
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

/// A server that answers its first connection with `text`, on the runtime whose clock jumps.
async fn application(text: String) -> To {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().ok();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
    });
    To(address)
}

#[tokio::test]
async fn who_sends_a_request_before_it_knows_of_the_end_is_answered_and_told() {
    let tasks: Rc<Tasks> = Rc::default();
    tasks.drain().await;
    let to = application("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned()).await;
    let text = heard_by(tasks, "GET / HTTP/1.1\r\nHost: web\r\n\r\n", to).await;
    assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
}

#[tokio::test]
async fn interim_responses_go_on_one_by_one() {
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    let to = application("HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n".repeat(1000) + last).await;
    let text = heard("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", to).await;
    assert_eq!(text.matches("HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n").count(), 1000);
    assert!(text.ends_with(last), "{text}");
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
    let panics = Panics::default();
    let tasks = Tasks::new(panics.clone());
    LocalSet::new()
        .run_until(async {
            let (done, finished) = tokio::sync::oneshot::channel();
            tasks.spawn(|_| async { panic!("a bug in the handling of one connection") });
            tasks.spawn(|_| async { done.send(()).unwrap() });
            finished.await.unwrap();
            tasks.drain().await;
        })
        .await;
    assert_eq!(panics.count(), 1);
}
