//! Every request is counted once by each side, whatever ends meanwhile; and what is missing is told.

use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::mesh::{HEDDLE, Mesh, Tally, eventually, kill, terminate};
use crate::traffic::{METRICS, kubectl_traffic, value};

const FIXTURE: &str = "crates/cli/tests/fixtures/counting";
const CONTROL: [&str; 3] = ["heddle", "control", "--listen"];
const CONNECTIONS: u64 = 8;
const REQUESTS: usize = 100_000;
/// In microseconds. A proxy notes what it counted twice a second, which `crates/proxy/src/report.rs` tests: what a
/// killed one lost is more only where the machine holds the note up, and what is stated covers that too.
const LONGEST_LOSS: u64 = 30_000_000;

/// A pod of the fixture.
struct Pod {
    name: String,
    ip: String,
}

/// A load from the network of a pod, which goes on when the pod's containers begin anew.
struct Generator {
    child: Child,
    log: NamedTempFile,
}

/// A request as who sent it saw it; times are in microseconds since 1970.
struct Sent {
    begun: u64,
    ended: u64,
    status: Option<u16>,
}

/// What the mesh says is missing of a pod; times are in microseconds since 1970.
#[derive(Debug)]
struct Loss {
    pod: String,
    cause: String,
    from: u64,
    until: u64,
}

/// A document of the API; nothing while the control plane is away.
fn get(mesh: &Mesh, path: &str) -> Option<Value> {
    let output = mesh.command("kubectl", &["get", "--raw", path]).output().expect("kubectl runs");
    output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// The successes that resources of one kind have counted of their edges with another.
fn successes(mesh: &Mesh, resource: &str, direction: &str, other: &str) -> u64 {
    let path = format!("{METRICS}/namespaces/counting/{resource}/edges?t=10m&direction={direction}");
    let Some(list) = get(mesh, &path) else { return 0 };
    let items = list["items"].as_array().expect("items").iter();
    let edges = items.filter(|item| item["edge"]["resource"]["name"] == other);
    edges.map(|edge| value(edge, "success_count")).sum()
}

/// What the client's side has counted, and what the server's.
fn sides(mesh: &Mesh) -> (u64, u64) {
    let client = successes(mesh, "deployments/client", "to", "server");
    (client, successes(mesh, "deployments/server", "from", "client"))
}

fn losses(mesh: &Mesh) -> Vec<Loss> {
    let Some(status) = get(mesh, "/apis/view.heddle.dev/v1alpha1/status/mesh") else { return Vec::new() };
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let micros = |value: &Value| {
        let time: k8s_openapi::jiff::Timestamp = text(value).parse().expect("a time");
        u64::try_from(time.as_microsecond()).expect("it is after 1970")
    };
    let loss = |loss: &Value| Loss {
        pod: text(&loss["pod"]),
        cause: text(&loss["cause"]),
        from: micros(&loss["from"]),
        until: micros(&loss["until"]),
    };
    status["lost"].as_array().expect("losses").iter().map(loss).collect()
}

/// Waits until it is told that counts of a pod are missing.
fn loss_of(mesh: &Mesh, pod: &Pod, cause: &str) -> Loss {
    let is_it = |loss: &Loss| loss.cause == cause && loss.pod.ends_with(&pod.name);
    let mut found = None;
    eventually(&format!("what is missing of {} is told", pod.name), || {
        found = losses(mesh).into_iter().find(is_it);
        found.is_some()
    });
    found.expect("it was found")
}

fn pods(mesh: &Mesh, app: &str) -> Vec<Pod> {
    let selector = format!("app={app}");
    let list = mesh.kubectl(&["get", "pod", "-n", "counting", "-l", &selector, "-o", "json"]);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let items = list["items"].as_array().expect("items").iter();
    items.map(|pod| Pod { name: text(&pod["metadata"]["name"]), ip: text(&pod["status"]["podIP"]) }).collect()
}

/// The process of a pod's proxy, once there is one.
fn proxy(mesh: &Mesh, pod: &Pod) -> i32 {
    let mut found = Vec::new();
    eventually("there is a proxy", || {
        found = mesh.processes(&["proxy", &format!("--pod-ip {} ", pod.ip)]);
        !found.is_empty()
    });
    found[0]
}

/// Asks a pod's proxy to end, and waits until the pod's container has begun anew with the next one.
fn renew_proxy(mesh: &Mesh, pod: &Pod) {
    let restarts = || {
        let field = "jsonpath={.status.containerStatuses[0].restartCount}";
        mesh.kubectl(&["get", "pod", "-n", "counting", &pod.name, "-o", field]).parse::<u32>().expect("a number")
    };
    let before = restarts();
    terminate(proxy(mesh, pod));
    eventually("the container was restarted", || restarts() > before);
    wait_until_ready(mesh);
}

fn wait_until_ready(mesh: &Mesh) {
    mesh.kubectl(&["wait", "-n", "counting", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
}

fn kill_control(mesh: &Mesh) {
    let control = mesh.processes(&CONTROL);
    assert!(!control.is_empty(), "the control plane is a process");
    control.into_iter().for_each(kill);
}

fn scale_control(mesh: &Mesh, replicas: u8) {
    mesh.kubectl(&["scale", "-n", "heddle-system", "deploy/heddle-control", &format!("--replicas={replicas}")]);
    eventually("it is so", || mesh.processes(&CONTROL).len() == usize::from(replicas));
}

/// Lets a pod end while nobody hears its last report.
fn delete_unheard(mesh: &Mesh, pod: &Pod) {
    scale_control(mesh, 0);
    mesh.kubectl(&["delete", "pod", "-n", "counting", &pod.name]);
    scale_control(mesh, 1);
}

#[test]
fn every_request_is_counted_once_by_each_side_while_proxies_and_control_plane_restart() {
    let Some(mesh) = Mesh::up(FIXTURE, &[]) else { return };
    let servers = pods(&mesh, "server");
    assert_eq!(servers.len(), 2);
    let mut answered = 0;
    for server in &servers {
        let url = "http://server.counting:14001/books-bought";
        let command =
            ["exec", "-n", "counting", "deploy/client", "--", "heddle", "demo", "load", "--requests=5000", url];
        let load = mesh.command(HEDDLE, &command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let load = load.expect("heddle exec runs");
        eventually("the load has begun", || sides(&mesh).1 > answered + 500);
        terminate(proxy(&mesh, server));
        kill_control(&mesh);
        answered += Tally::of(load).successes();
        // Between two loads: the client's containers begin anew with its proxy.
        renew_proxy(&mesh, &pods(&mesh, "client")[0]);
    }
    assert!(answered > 9_000, "the restarts cost little: {answered}");
    eventually("both sides agree with the load", || sides(&mesh) == (answered, answered));
    assert!(losses(&mesh).is_empty(), "{:?}", losses(&mesh));
}

#[test]
fn under_one_load_of_100_000_requests_what_killed_proxies_and_unheard_pods_counted_is_stated_as_lost() {
    let Some(mesh) = Mesh::up(FIXTURE, &[]) else { return };
    let (clients, servers) = (pods(&mesh, "client"), pods(&mesh, "server"));
    let ([client], [unheard, killed]) = (clients.as_slice(), servers.as_slice()) else { panic!("other pods") };
    let generator = Generator::start(&mesh, client);
    eventually("the load has begun", || sides(&mesh).1 > 1_000);
    kill_control(&mesh);
    renew_proxy(&mesh, unheard);
    kill(proxy(&mesh, killed));
    let of_server = loss_of(&mesh, killed, "ProxyKilled");
    kill(proxy(&mesh, client));
    let of_client = loss_of(&mesh, client, "ProxyKilled");
    wait_until_ready(&mesh);
    delete_unheard(&mesh, unheard);
    loss_of(&mesh, unheard, "NotReported");
    let sent = generator.finish();

    // A request of each connection was under way when a proxy was killed, and may be known to one end alone.
    let answered = sent.iter().filter(|sent| sent.status == Some(200)).count() as u64;
    let missing = |loss: &Loss| {
        assert!(loss.until - loss.from <= LONGEST_LOSS, "notes are made while it runs: {loss:?}");
        let within = sent.iter().filter(|sent| sent.begun <= loss.until && sent.ended >= loss.from).count() as u64;
        within + CONNECTIONS
    };
    let (by_client, by_server) = (missing(&of_client), missing(&of_server));
    let mut counts = (0, 0, 0);
    eventually("both sides agree with the load, but for what is stated as lost", || {
        let ((client_side, server_side), pod) = (sides(&mesh), format!("pods/{}", client.name));
        // Nobody but its client knows what the pod has served that ended unheard.
        let elsewhere = successes(&mesh, &pod, "to", &unheard.name);
        counts = (client_side, server_side, elsewhere);
        let is_between = |count: u64, missing: u64, doubtful: u64| {
            (answered.saturating_sub(missing)..=answered + doubtful).contains(&count)
        };
        is_between(client_side, by_client, CONNECTIONS)
            && is_between(server_side + elsewhere, by_server + by_client, 2 * CONNECTIONS)
    });
    let millis = |loss: &Loss| (loss.until - loss.from) / 1000;
    println!(
        "{} requests, {answered} answered; client's side {}, servers' {} and {} unheard; {of_client:?}: {} ms (at most \
         {by_client}) {of_server:?}: {} ms (at most {by_server})",
        sent.len(),
        counts.0,
        counts.1,
        counts.2,
        millis(&of_client),
        millis(&of_server),
    );
    everybody_can_read_it(&mesh, killed);
}

/// Where a user meets what is missing.
fn everybody_can_read_it(mesh: &Mesh, pod: &Pod) {
    let status = mesh.run(HEDDLE, &["status"]);
    assert!(status.contains(&format!("counts of counting/{} are missing, from ", pod.name)), "{status}");
    let top = kubectl_traffic(mesh, &["top", "deployments", "-n", "counting", "-t", "10m"]);
    assert!(top.contains("counting/server: counts of up to ") && top.contains("counting/client: counts"), "{top}");
}

// === impl Generator, Sent ===

impl Generator {
    fn start(mesh: &Mesh, pod: &Pod) -> Self {
        let address = mesh.kubectl(&["get", "service", "-n", "counting", "server", "-o", "jsonpath={.spec.clusterIP}"]);
        let log = NamedTempFile::new().expect("a file");
        let target = format!("--target={}", proxy(mesh, pod));
        let mut command = mesh.command("nsenter", &[&target, "--net"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        let (connections, requests) = (format!("--connections={CONNECTIONS}"), format!("--at-least={REQUESTS}"));
        command
            .args([HEDDLE, "demo", "load", &connections, &requests, "--times"])
            .arg(log.path())
            .arg(format!("http://{address}:14001/books-bought"));
        command.env_remove("http_proxy");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nsenter runs");
        Self { child, log }
    }

    /// Waits for as many requests as there are to be.
    fn finish(self) -> Vec<Sent> {
        terminate(i32::try_from(self.child.id()).expect("a process id"));
        let tally = Tally::of(self.child);
        let log = std::fs::read_to_string(self.log.path()).expect("the log");
        let sent: Vec<Sent> = log.lines().map(Sent::parse).collect();
        assert!(sent.len() >= REQUESTS);
        assert_eq!(sent.iter().filter(|sent| sent.status == Some(200)).count() as u64, tally.successes());
        sent
    }
}

impl Sent {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse().expect("a number");
        Self { begun: number(words[0]), ended: number(words[1]), status: words[2].parse().ok() }
    }
}
