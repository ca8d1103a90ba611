//! What a running proxy takes from files, and what it tells.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use heddle_policy::telemetry::{Counts, Outcome, Side};

use super::*;
use crate::{Entrance, Listen, Options};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that answers every request with one word.
async fn saying(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

/// A configuration in which `shop/web` is at `endpoint`.
fn config(endpoint: SocketAddr) -> String {
    format!(
        "settings: {{pod: shop/client, identity: \"spiffe://cluster.local/ns/shop/sa/client\", clusterDomain: cluster.local}}\n\
         services:\n  - name: shop/web\n    ports:\n      - port: 80\n        protocol: http\n        endpoints:\n          \
         - {{address: \"{endpoint}\", pod: shop/web-1}}\n"
    )
}

fn proxy() -> Proxy {
    let service = heddle_policy::ServiceName::new("shop", "web");
    let listen = Listen { address: SocketAddr::new(LOOPBACK, 0), entrance: Entrance::Service(service, 80) };
    let options = Options { listen: vec![listen], ..Options::example() };
    Proxy::start(options, Store::empty()).unwrap()
}

/// The totals of an edge that has answered one request.
fn counted() -> Vec<(Edge, Totals)> {
    let pod = PodName::new("shop", "client");
    let requests = Counts { success: 1, ..Counts::default() };
    let edge = Edge { side: Side::Client, pod, peer: None, peer_pod: None, service: None, backend: None };
    vec![(edge, Totals { requests, ..Totals::default() })]
}

async fn ask(client: &mut TcpStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1024];
    let count = client.read(&mut answer).await.unwrap();
    String::from_utf8(answer[..count].to_vec()).unwrap()
}

/// A file of its own in a directory of its own, which goes with it.
struct File(std::path::PathBuf);

impl File {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("heddle-proxy-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory.join("proxy.yaml"))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _nothing_more_can_be_done = std::fs::remove_dir_all(self.0.parent().unwrap_or(Path::new("/nonexistent")));
    }
}

#[tokio::test]
async fn a_changed_configuration_applies_to_connections_that_are_open() {
    let (file, proxy) = (File::new("change"), proxy());
    std::fs::write(&file.0, config(saying("one").await)).unwrap();
    let test = async {
        let mut client = TcpStream::connect(proxy.listening()[0].address).await.unwrap();
        while !ask(&mut client).await.ends_with("one") {}
        std::fs::write(&file.0, config(saying("two").await)).unwrap();
        loop {
            let answer = ask(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            if answer.ends_with("two") {
                return;
            }
        }
    };
    tokio::select! {
        result = supply_config(Some(file.0.clone()), &proxy) => panic!("{result:?}"),
        () = test => {}
    }
}

#[tokio::test]
async fn a_bad_configuration_leaves_the_last_good_one_and_is_told_with_its_place() {
    let (file, proxy) = (File::new("bad"), proxy());
    let good = config(saying("still").await);
    std::fs::write(&file.0, &good).unwrap();
    configure(&file.0, &proxy).unwrap();
    let mut client = TcpStream::connect(proxy.listening()[0].address).await.unwrap();
    for (text, line, what) in [
        (good.replace("port: 80", "port: 80000"), 5, "u16"),
        (good.replace("protocol:", "protokol:"), 6, "protokol"),
        (format!("{good}  - name: [\n"), 9, "string"),
    ] {
        std::fs::write(&file.0, text).unwrap();
        let error = format!("{:#}", configure(&file.0, &proxy).unwrap_err());
        assert!(error.contains(&format!("proxy.yaml:{line}:")) && error.contains(what), "{error}");
        assert!(ask(&mut client).await.ends_with("still"));
    }
    std::fs::remove_file(&file.0).unwrap();
    let error = format!("{:#}", configure(&file.0, &proxy).unwrap_err());
    assert!(error.contains("cannot read") && error.contains("proxy.yaml"), "{error}");
    assert!(ask(&mut client).await.ends_with("still"));
}

#[tokio::test]
async fn a_control_plane_that_begins_to_listen_is_told_how_old_the_past_is_by_now() {
    let (file, proxy) = (File::new("ages"), proxy());
    std::fs::write(&file.0, config(saying("old").await)).unwrap();
    configure(&file.0, &proxy).unwrap();
    let totals = file.0.with_file_name("totals.json");
    let now = SystemTime::now();
    let earlier = Ledger::begin().report(&PodName::new("shop", "client"), counted(), now);
    note(&totals, &Report { last: true, ..earlier }, now).unwrap();
    let ledger = Ledger::open(Some(&totals), now).unwrap();
    let (sender, mut reports) = watch::channel(None);
    let (_draining, drained) = oneshot::channel();
    let test = async {
        let age = |report: &Option<Arc<Report>>| report.as_ref().unwrap().history[0].age;
        reports.changed().await.unwrap();
        let first = age(&reports.borrow_and_update());
        while age(&reports.borrow()) < first + 2 {
            tokio::time::sleep(NOTE_INTERVAL / 10).await;
        }
        assert!(!reports.has_changed().unwrap(), "what ages is no news");
        let counters = proxy.shared.meter.counters(counted().remove(0).0, None);
        counters.request(Outcome::Success, 200);
        reports.changed().await.unwrap();
    };
    tokio::select! {
        () = send_reports(&proxy, ledger, Some(&totals), sender, drained) => panic!("it is not drained"),
        result = tokio::time::timeout(Duration::from_secs(20), test) => result.unwrap(),
    }
}
