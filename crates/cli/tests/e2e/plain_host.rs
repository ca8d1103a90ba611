//! `heddle proxy --config`: one proxy without a mesh, by the example in the repository.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::mesh::{HEDDLE, eventually};

const IDENTITY: &str = "spiffe://cluster.local/ns/bench/sa/web";

/// A running proxy, and what it says.
struct Proxy {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Proxy {
    /// Starts one at ports that are free, with the certificates of a directory.
    fn start(config: &Path, certificates: &Path) -> Self {
        let mut command = Command::new(HEDDLE);
        command.args(["proxy", "--log-format", "json", "--pod-ip", "127.0.0.9", "--capture", "explicit"]);
        command.args(["--mesh-port", "0", "--admin-port", "0", "--outbound-port", "0"]);
        command.args(["--env-listen", "bench/store:80=127.0.0.9:0", "--plaintext-listen", "8080=127.0.0.9:0"]);
        let files = [("--svid-cert", "web.crt"), ("--svid-key", "web.key"), ("--trust-bundle", "ca.crt")];
        for (flag, file) in files {
            command.arg(flag).arg(certificates.join(file));
        }
        let mut child = command.arg("--config").arg(config).stderr(Stdio::piped()).spawn().expect("heddle runs");
        let lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        Self { child, lines }
    }

    /// Waits until the log says where it listens for what this is part of.
    fn listens(&mut self, entrance: &str) -> SocketAddr {
        for line in self.lines.by_ref() {
            let line = line.expect("its log");
            let said: Value = serde_json::from_str(&line).expect("JSON");
            let fields = &said["fields"];
            if fields["entrance"].as_str().is_some_and(|listening| listening.starts_with(entrance)) {
                return fields["address"].as_str().and_then(|address| address.parse().ok()).expect("an address");
            }
        }
        panic!("the proxy ended before it listened for {entrance}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Answers every request with its name.
fn serve(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let length = name.len();
            read_head(&stream);
            write!(&stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{name}").ok();
        }
    });
    address
}

fn read_head(stream: &TcpStream) {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).for_each(drop);
}

/// The whole answer to a request.
fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n").expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Writes a root and the certificate of the example's workload: `ca.crt`, `web.crt` and `web.key`.
fn certify(dir: &Path) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let (root_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let root_pem = root.self_signed(&root_key).expect("a certificate").pem();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(IDENTITY).expect("a URI"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &Issuer::new(root, root_key)).expect("a certificate");
    for (file, text) in [("ca.crt", root_pem), ("web.crt", certificate.pem()), ("web.key", key.serialize_pem())] {
        std::fs::write(dir.join(file), text).expect("written");
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Replaces what must be there.
fn edit(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "the example has no {old}");
    text.replace(old, new)
}

#[test]
fn the_example_of_a_proxys_configuration_works_and_is_changed_without_a_restart() {
    let dir = TempDir::new().expect("a directory");
    certify(dir.path());
    let file = dir.path().join("proxy.conf");
    let mut text = std::fs::read_to_string(examples().join("proxy/proxy.conf")).expect("the example");
    for (address, name) in [("127.0.0.1:8081", "the first"), ("127.0.0.1:8082", "the second")] {
        text = edit(&text, &format!("\"{address}\""), &format!("\"{}\"", serve(name)));
    }
    std::fs::write(&file, &text).expect("written");

    let mut proxy = Proxy::start(&file, dir.path());
    let store = proxy.listens("Service");
    let inbound = proxy.listens("Plaintext");
    eventually("the first version is called", || get(store).ends_with("the first"));
    assert!(get(inbound).starts_with("HTTP/1.1 403"), "plaintext is nobody's");

    let shifted = edit(&edit(&text, "weight: 0", "weight: 2"), "weight: 1", "weight: 0");
    std::fs::write(&file, shifted).expect("written");
    eventually("the second version is called", || get(store).ends_with("the second"));
    assert!(proxy.child.try_wait().expect("its state").is_none());
}

#[test]
fn the_examples_can_be_checked_together() {
    let output = Command::new(HEDDLE).arg("check").arg(examples()).output().expect("heddle runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn what_a_proxy_needs_is_in_its_help() {
    let output = Command::new(HEDDLE).args(["proxy", "--help"]).output().expect("heddle runs");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let needed = "Without one it takes --config, --pod-ip, --svid-cert, --svid-key and --trust-bundle";
    assert!(words.contains(needed), "{help}");
    assert!(words.contains("heddle proxy --config examples/proxy/proxy.conf --pod-ip 127.0.0.9"), "{help}");
}
