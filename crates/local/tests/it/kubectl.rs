//! The embedded API through real `kubectl`s: the one on PATH and, where `KUBECTL_1_20` names it, Debian's 1.20.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use heddle_local::api::{Api, Config, ContainerRef, Duplex, Exec, ExecOptions, LogOptions, Node, NodeError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

/// An API on a socket, with a kubeconfig, until it is dropped.
struct Served {
    dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
    kubectl: PathBuf,
    client: kube::Client,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The kubectls that are here. Those that are not are named on stderr; CI sets `HEDDLE_REQUIRE_KUBECTL`, and fails
/// without them.
fn kubectls() -> Vec<PathBuf> {
    let mut found = Vec::new();
    match std::env::var_os("KUBECTL_1_20").map(PathBuf::from) {
        Some(path) if path.exists() => found.push(path),
        _ => eprintln!("KUBECTL_1_20 names no kubectl: the old client is not tested"),
    }
    let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|d| d.join("kubectl"))
        .find(|p| p.exists());
    match on_path {
        Some(path) => found.push(path),
        None => eprintln!("no kubectl on PATH: the current client is not tested"),
    }
    assert!(found.len() == 2 || std::env::var_os("HEDDLE_REQUIRE_KUBECTL").is_none(), "both kubectls are required");
    found
}

async fn serve(kubectl: &Path) -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Api::open(Config { state_dir: Some(dir.path().join("state")) }).await.expect("an API");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    api.write_kubeconfig(address, &dir.path().join("kubeconfig")).expect("a kubeconfig");
    api.set_node(std::sync::Arc::new(EchoNode));
    let client = api.client();
    let task = tokio::spawn(async move { api.serve(listener, None).await.expect("serves") });
    Served { dir, task, kubectl: kubectl.to_owned(), client }
}

impl Served {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(args).env("KUBECONFIG", self.dir.path().join("kubeconfig")).env("HOME", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.command(args).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
        drop(stdin);
        child.wait_with_output().await.expect("kubectl ends")
    }

    /// Standard output of a command that must succeed.
    async fn ok(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{:?} {args:?}\n{out}\n{err}", self.kubectl);
        out.into_owned()
    }

    /// Standard error of a command that must fail.
    async fn fails(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input).await;
        assert!(!output.status.success(), "{:?} {args:?} succeeded", self.kubectl);
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// A node whose containers log one line, repeat their input, and answer on every port with the port's number.
struct EchoNode;

impl Node for EchoNode {
    fn logs(
        &self,
        container: ContainerRef,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, std::io::Result<bytes::Bytes>>, NodeError>> {
        let line = format!("{} of {} tail {:?}\n", container.container, container.pod, options.tail_lines);
        async move { Ok(futures::stream::once(async { Ok(line.into()) }).boxed()) }.boxed()
    }

    fn exec(&self, _: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Exec, NodeError>> {
        async move {
            let mut child = Command::new(&options.command[0])
                .args(&options.command[1..])
                .stdin(if options.stdin { Stdio::piped() } else { Stdio::null() })
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(|e| NodeError::Failed(e.to_string()))?;
            Ok(Exec {
                stdin: child.stdin.take().map(|s| Box::pin(s) as _),
                stdout: child.stdout.take().map(|s| Box::pin(s) as _),
                stderr: child.stderr.take().map(|s| Box::pin(s) as _),
                resize: None,
                exit: async move { Ok(child.wait().await?.code().unwrap_or(-1)) }.boxed(),
            })
        }
        .boxed()
    }

    fn port_forward(
        &self,
        _: ContainerRef,
        port: u16,
    ) -> BoxFuture<'_, Result<std::pin::Pin<Box<dyn Duplex>>, NodeError>> {
        async move {
            let (ours, mut theirs) = tokio::io::duplex(64);
            tokio::spawn(async move {
                let mut hello = [0; 5];
                theirs.read_exact(&mut hello).await.expect("a greeting");
                theirs
                    .write_all(format!("{port} heard {}", String::from_utf8_lossy(&hello)).as_bytes())
                    .await
                    .expect("an answer");
            });
            Ok(Box::pin(ours) as _)
        }
        .boxed()
    }
}

const SHOP: &str = include_str!("../fixtures/shop.yaml");

#[tokio::test]
async fn manifests_are_applied_shown_and_deleted() {
    for kubectl in kubectls() {
        let api = serve(&kubectl).await;
        let said = api.ok(&["apply", "-f", "-"], SHOP).await;
        assert!(said.contains("deployment.apps/web created") && said.contains("service/web created"), "{said}");
        let again = api.ok(&["apply", "-f", "-"], SHOP).await;
        assert!(!again.contains("configured") && again.contains("deployment.apps/web unchanged"), "{again}");
        let table = api.ok(&["get", "deploy,svc,cm,sa", "-n", "shop"], "").await;
        assert!(table.contains("UP-TO-DATE") && table.contains("CLUSTER-IP") && table.contains("0/2"), "{table}");
        let wide = api.ok(&["get", "deploy", "web", "-n", "shop", "-o", "wide"], "").await;
        assert!(wide.contains("SELECTOR") && wide.contains("app=web"), "{wide}");
        let yaml = api.ok(&["get", "svc", "web", "-n", "shop", "-o", "yaml"], "").await;
        assert!(yaml.contains("clusterIP: 10.96.") && yaml.contains("targetPort: http"), "{yaml}");
        let all = api.ok(&["get", "ns"], "").await;
        assert!(all.contains("kube-system") && all.contains("Active"), "{all}");
        api.ok(&["describe", "deploy", "web", "-n", "shop"], "").await;
        api.ok(&["delete", "deploy,svc", "web", "-n", "shop"], "").await;
        let gone = api.fails(&["get", "deploy", "web", "-n", "shop"], "").await;
        assert!(gone.contains("deployments.apps \"web\" not found"), "{gone}");
    }
}

#[tokio::test]
async fn objects_are_changed_by_every_verb() {
    for kubectl in kubectls() {
        let api = serve(&kubectl).await;
        api.ok(&["apply", "-f", "-"], SHOP).await;
        let get = async |path: &str| {
            api.ok(&["get", "deploy", "web", "-n", "shop", "-o", &format!("jsonpath={{{path}}}")], "").await
        };
        api.ok(&["scale", "deploy", "web", "-n", "shop", "--replicas=3"], "").await;
        assert_eq!(get(".spec.replicas").await, "3");
        api.ok(&["label", "deploy", "web", "-n", "shop", "tier=front"], "").await;
        api.ok(&["annotate", "deploy", "web", "-n", "shop", "note=x"], "").await;
        assert_eq!(get(".metadata.labels.tier").await, "front");
        let image = r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"web:2"}]}}}}"#;
        api.ok(&["patch", "deploy", "web", "-n", "shop", "-p", image], "").await;
        assert_eq!(get(".spec.template.spec.containers[*].image").await, "web:2");
        let json = r#"[{"op":"replace","path":"/spec/replicas","value":1}]"#;
        api.ok(&["patch", "deploy", "web", "-n", "shop", "--type=json", "-p", json], "").await;
        api.ok(&["patch", "deploy", "web", "-n", "shop", "--type=merge", "-p", r#"{"spec":{"paused":true}}"#], "")
            .await;
        assert_eq!(get(".spec.paused").await, "true");
        api.ok(&["rollout", "resume", "deploy/web", "-n", "shop"], "").await;
        api.ok(&["rollout", "restart", "deploy/web", "-n", "shop"], "").await;
        assert!(get(".spec.template.metadata.annotations").await.contains("restartedAt"));
        api.ok(&["create", "configmap", "made", "-n", "shop", "--from-literal=a=b"], "").await;
        api.ok(&["create", "deployment", "more", "-n", "shop", "--image=more:1"], "").await;
        assert_eq!(api.ok(&["auth", "can-i", "create", "pods"], "").await.trim(), "yes");
        let said = api.ok(&["explain", "deployment.spec.replicas"], "").await;
        assert!(said.contains("Number of desired pods"), "{said}");
        let said = api.ok(&["api-resources"], "").await;
        assert!(said.contains("deployments") && said.contains("deploy"), "{said}");
        api.ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], SHOP).await;
        assert_eq!(get(".spec.replicas").await, "2");
        api.ok(&["get", "events", "-A"], "").await;
    }
}

#[tokio::test]
async fn bad_manifests_are_refused_with_the_field() {
    for kubectl in kubectls() {
        let api = serve(&kubectl).await;
        api.ok(&["create", "ns", "shop"], "").await;
        let said = api.fails(&["apply", "-f", "-"], &SHOP.replace("replicas: 2", "replicas: two")).await;
        assert!(said.contains("replicas"), "{said}");
        let said = api.fails(&["apply", "-f", "-"], &SHOP.replace("replicas: 2", "replicaz: 2")).await;
        assert!(said.contains("replicaz"), "{said}");
        let said = api.fails(&["apply", "-f", "-"], &SHOP.replace("port: 80", "port: 80000")).await;
        assert!(said.contains("spec.ports[0].port"), "{said}");
    }
}

#[tokio::test]
async fn pods_are_logged_and_entered_and_their_ports_forwarded() {
    for kubectl in kubectls() {
        let api = serve(&kubectl).await;
        api.ok(&["apply", "-f", "-"], SHOP).await;
        api.ok(&["patch", "pod", "alone", "-n", "shop", "-p", r#"{"spec":{"nodeName":"here"}}"#], "").await;
        assert_eq!(api.ok(&["logs", "alone", "-n", "shop", "--tail=3"], "").await, "main of alone tail Some(3)\n");
        let said = api.ok(&["exec", "-i", "alone", "-n", "shop", "--", "cat"], "through and back").await;
        assert_eq!(said, "through and back");
        let output = api.run(&["exec", "alone", "-n", "shop", "--", "sh", "-c", "echo err >&2; exit 7"], "").await;
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("err"));
        // kubectl forwards ports of running pods only, and no kubelet says here that this one runs.
        let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(api.client.clone(), "shop");
        let running = kube::api::Patch::Merge(serde_json::json!({"status": {"phase": "Running"}}));
        pods.patch_status("alone", &kube::api::PatchParams::default(), &running).await.expect("patched");
        forward(&api).await;
    }
}

/// Speaks through `kubectl port-forward` twice.
async fn forward(api: &Served) {
    let mut child = api.command(&["port-forward", "-n", "shop", "pod/alone", ":8080"]).spawn().expect("kubectl starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut said = String::new();
    let port: u16 = loop {
        let mut buffer = [0; 256];
        let count = stdout.read(&mut buffer).await.expect("output");
        assert!(count > 0, "kubectl port-forward ended: {said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if let Some(port) = said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()) {
            break port.parse().expect("a port");
        }
    };
    for _ in 0..2 {
        let mut connection = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        connection.write_all(b"hello").await.expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer");
        assert_eq!(answer, "8080 heard hello");
    }
    child.kill().await.expect("kubectl ends");
}
