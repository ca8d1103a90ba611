//! Who is let in by the server's proxy, whatever the client's side does.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use heddle_identity::{Authority, Names};
use heddle_policy::PodName;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use crate::mesh::Mesh;

/// A port of a pod on this machine's loopback, reached past every proxy but the pod's own.
struct Forwarded {
    kubectl: Child,
    /// Kept open, for kubectl writes to it with each connection.
    _output: BufReader<ChildStdout>,
    port: String,
}

impl Forwarded {
    fn new(mesh: &Mesh, namespace: &str, target: &str, port: &str) -> Self {
        let ports = format!(":{port}");
        let mut command = mesh.command("kubectl", &["port-forward", "-n", namespace, target, &ports]);
        let mut kubectl = command.stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let mut line = String::new();
        let mut output = BufReader::new(kubectl.stdout.take().expect("its output"));
        output.read_line(&mut line).expect("a line");
        // `Forwarding from 127.0.0.1:40001 -> 15008`
        let port = line.split(['>', ' ', ':']).nth(3).unwrap_or_else(|| panic!("kubectl printed {line}")).to_owned();
        Self { kubectl, _output: output, port }
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.kubectl.kill().ok();
        self.kubectl.wait().ok();
    }
}

/// A valid certificate of a ServiceAccount and its key, as its proxy holds them: `DIR/NAME.pem` and `DIR/NAME.key`.
fn certify(mesh: &Mesh, dir: &TempDir, namespace: &str, name: &str) {
    let secret = |key: &str| {
        let output = format!("jsonpath={{.data.{key}}}");
        let data = mesh.kubectl(&["get", "secret", "-n", "heddle-system", "heddle-root", "-o", &output]);
        String::from_utf8(STANDARD.decode(data).expect("base64")).expect("PEM")
    };
    let authority = Authority::from_pem(&secret("tls\\.crt"), &secret("tls\\.key")).expect("the mesh's root");
    let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}").parse().expect("an identity");
    let pod = PodName::new(namespace, "bypass");
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default().serialize_request(&key).expect("a request");
    let names = Names::of_pod(identity, &pod, "cluster.local");
    let now = SystemTime::now();
    let chain = authority.issue(request.der(), &names, Duration::from_secs(600), now).expect("a certificate");
    let pem = chain.iter().map(|certificate| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(certificate))
    });
    std::fs::write(dir.path().join(format!("{name}.pem")), pem.collect::<String>()).expect("written");
    std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).expect("written");
}

/// What the store's proxy answers to a request for books over mutual TLS: status and reason; empty when it closes.
fn ask(dir: &TempDir, port: &str, certificate: Option<&str>) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--http2", "--max-time", "10", "-o", "/dev/null"]);
    curl.args(["-w", "%{http_code} %header{x-heddle-reason}", "-H", "x-heddle-port: 14001"]);
    if let Some(name) = certificate {
        curl.arg("--cert").arg(dir.path().join(format!("{name}.pem")));
        curl.arg("--key").arg(dir.path().join(format!("{name}.key")));
    }
    let output = curl.arg(format!("https://127.0.0.1:{port}/books-bought")).output().expect("curl runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a10_a_client_that_bypasses_its_proxy_with_a_valid_certificate_is_judged_by_the_server() {
    let Some(mesh) = Mesh::bookstore(&[]) else { return };
    let dir = TempDir::new().expect("a directory");
    certify(&mesh, &dir, "bookbuyer", "bookbuyer");
    certify(&mesh, &dir, "bookthief", "bookthief");
    let store = Forwarded::new(&mesh, "bookstore", "deploy/bookstore-v1", "15008");
    assert_eq!(ask(&dir, &store.port, Some("bookbuyer")), "200", "who is allowed is let in by this way, too");
    assert_eq!(ask(&dir, &store.port, Some("bookthief")), "403 source-not-allowed");
    assert_eq!(ask(&dir, &store.port, None), "000", "nobody is let in without a certificate");
}
