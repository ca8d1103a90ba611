//! Traces of the bookstore, to a collector on the machine, outside of the cluster.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde_json::json;

use crate::collector::{Collector, Told};
use crate::mesh::{HEDDLE, Mesh, eventually};

/// The span of who begins the traces of this test.
const ROOT: &str = "b7ad6b7169203331";

/// An address of the machine that pods can reach, which is none of its loopback's. Nothing is sent.
fn machine_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn trace_to(mesh: &Mesh, collector: SocketAddr, protocol: &str, ratio: f64) {
    let tracing = json!({ "endpoint": format!("http://{collector}"), "protocol": protocol, "samplingRatio": ratio });
    let config = json!({
        "apiVersion": "heddle.dev/v1alpha1", "kind": "MeshConfig", "metadata": { "name": "default" },
        "spec": { "tracing": tracing },
    });
    mesh.apply(&config.to_string());
}

/// Buys a book by `curl` as the buyer, in a trace of the buyer's own.
fn buy(mesh: &Mesh, trace_id: &str) {
    let traceparent = format!("traceparent: 00-{trace_id}-{ROOT}-01");
    let url = "http://bookstore.bookstore:14001/buy-a-book/new";
    let curl = ["curl", "-sS", "-o", "/dev/null", "--max-time", "10", "-H", &traceparent, url];
    let exec = ["exec", "-n", "bookbuyer", "deploy/bookbuyer", "--"];
    mesh.command(HEDDLE, &[&exec[..], &curl].concat()).output().expect("heddle runs");
}

/// The spans of a purchase, from the buyer to the warehouse, of a trace that has come whole.
fn purchase<'a>(spans: &'a [Told], root: &Told) -> Option<[&'a Told; 4]> {
    let child =
        |parent: &Told| spans.iter().find(|told| told.trace_id() == parent.trace_id() && told.parent() == parent.id());
    let buyer = spans.iter().find(|told| told.id() == root.id())?;
    let store = child(buyer)?;
    let restock = child(store)?;
    Some([buyer, store, restock, child(restock)?])
}

/// Waits for a purchase whose trace begins as `begins` says, while `drive` goes on. All spans so far are in `spans`.
fn await_purchase<'a>(
    collector: &Collector,
    spans: &'a mut Vec<Told>,
    begins: impl Fn(&Told) -> bool,
    mut drive: impl FnMut(),
) -> [&'a Told; 4] {
    let find = |spans: &[Told]| spans.iter().position(|told| begins(told) && purchase(spans, told).is_some());
    let mut found = None;
    eventually("the spans of a purchase come", || {
        drive();
        spans.extend(collector.newest());
        found = find(spans);
        found.is_some()
    });
    let root = found.expect("it was found");
    purchase(spans, &spans[root]).expect("it is whole")
}

fn assert_chain([buyer, store, restock, warehouse]: [&Told; 4]) {
    let whole = [buyer, store, restock, warehouse];
    assert_eq!(whole.map(Told::is_client), [true, false, true, false]);
    assert_eq!((buyer.service(), warehouse.service()), ("bookbuyer", "bookwarehouse"));
    assert!(store.service().starts_with("bookstore-v") && store.service() == restock.service(), "{store:?}");
    assert_eq!(store.resource["k8s.deployment.name"], store.service());
    assert_eq!(store.resource["service.namespace"], "bookstore");
    for told in [buyer, store] {
        assert_eq!((told.says("http.request.method"), told.says("http.response.status_code")), ("GET", "200"));
        assert_eq!((told.says("server.address"), told.says("server.port")), ("bookstore.bookstore", "14001"));
    }
    assert_eq!(buyer.says("url.full"), "http://bookstore.bookstore:14001/buy-a-book/new");
    assert_eq!(buyer.says("heddle.service"), "bookstore/bookstore");
    assert!(buyer.says("heddle.backend").starts_with("bookstore/bookstore-v"), "{buyer:?}");
    assert_eq!((store.says("url.path"), store.says("heddle.decision")), ("/buy-a-book/new", "allowed"));
    let rule = "HTTPRouteGroup bookstore/bookstore spec.matches[1]";
    assert!(store.says("heddle.rule").starts_with(rule), "{store:?}");
    assert_eq!(store.says("heddle.peer.identity"), "spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer");
    assert_eq!((restock.says("http.request.method"), warehouse.says("url.path")), ("POST", "/restock-books"));
}

/// Where the mesh has just begun, not all that is asked is answered well.
fn is_served(told: &Told) -> bool {
    told.attributes.get("http.response.status_code").is_some_and(|status| status == "200")
}

fn is_denied(told: &Told) -> bool {
    told.attributes.get("heddle.decision").is_some_and(|decision| decision == "denied")
}

#[test]
fn a_purchase_is_one_trace_from_the_buyer_to_the_warehouse() {
    let Some(address) = machine_address() else {
        let missing = "an address that pods could reach";
        assert!(std::env::var_os("HEDDLE_REQUIRE_NETNS").is_none(), "this machine does not have {missing}");
        return eprintln!("not tested, as this machine does not have {missing}");
    };
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let collector = Collector::start(address);

    // Of the traces that begin in the mesh none is sampled, and the one that began before is continued.
    trace_to(&mesh, collector.grpc, "grpc", 0.0);
    let (mut spans, mut count) = (Vec::new(), 0u32);
    let ours = |told: &Told| told.trace_id().starts_with("5eed");
    let begins = |told: &Told| told.parent() == ROOT && is_served(told);
    let chain = await_purchase(&collector, &mut spans, begins, || {
        count += 1;
        buy(&mesh, &format!("5eed{count:028x}"));
    });
    assert_chain(chain);
    assert!(spans.iter().all(ours), "the bookstore's own requests are not sampled");

    // The other transport, and every trace: the buyer's program knows nothing of traces, and its proxy begins them.
    trace_to(&mesh, collector.http, "http", 1.0);
    let begins = |told: &Told| told.parent().is_empty() && told.service() == "bookbuyer" && is_served(told);
    let drive = || drop(mesh.status_for("bookthief"));
    assert_chain(await_purchase(&collector, &mut spans, begins, drive));

    eventually("a denied request is told", || {
        mesh.status_for("bookthief");
        spans.extend(collector.newest());
        spans.iter().any(is_denied)
    });
    let denied = spans.iter().find(|told| is_denied(told)).expect("it was found");
    assert!(!denied.is_client() && denied.service().starts_with("bookstore-v"), "{denied:?}");
    assert_eq!((denied.says("heddle.reason"), denied.says("http.response.status_code")), ("source-not-allowed", "403"));
    assert_eq!(denied.says("heddle.peer.identity"), "spiffe://cluster.local/ns/bookthief/sa/bookthief");
    assert!(denied.says("heddle.rule").starts_with("TrafficTarget bookstore/"), "{denied:?}");
}
