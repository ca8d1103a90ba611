//! A node on a socket, with a kubeconfig: the API, its controllers, and a kubelet that runs pods without namespaces.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use heddle_api::{Api, Config};
use heddle_local::kubelet::{self, Kubelet, MeshConfig, Network, follow_directory};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(super) struct Served {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    kubelet: std::sync::Arc<Kubelet>,
    tasks: JoinSet<()>,
}

impl Served {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let api = Api::open(Config { state_dir: Some(dir.path().join("state")) }).await.expect("an API");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        api.write_kubeconfig(address, &dir.path().join("kubeconfig")).expect("a kubeconfig");
        let (directory, following) = follow_directory(api.client());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(following.await) });
        let settings = heddle_controllers::Settings { root_ca: Some(api.ca_pem().to_owned()) };
        let client = api.client();
        tasks.spawn(async move { match heddle_controllers::run(client, settings).await {} });
        let config = config(dir.path(), &api, address);
        let kubelet = std::sync::Arc::new(
            Kubelet::start(
                config,
                api.client(),
                Network::loopback().expect("a part of the loopback network"),
                directory,
            )
            .await,
        );
        api.set_node(kubelet.clone());
        tasks.spawn(async move { api.serve(listener, None).await.expect("serves") });
        Self { dir, address, kubelet, tasks }
    }

    /// Ends every pod.
    pub(super) async fn stop(mut self) {
        self.kubelet.stop(Duration::from_secs(5)).await;
        self.tasks.shutdown().await;
    }
}

fn config(dir: &Path, api: &Api, address: SocketAddr) -> kubelet::Config {
    kubelet::Config {
        node_name: "machine".to_owned(),
        run_dir: dir.join("run"),
        log_dir: dir.join("logs"),
        claims_dir: dir.join("claims"),
        hidden: Vec::new(),
        path: std::env::var("PATH").expect("a PATH"),
        api_ca: api.ca_pem().to_owned(),
        api_address: (address.ip().to_string(), address.port()),
        mesh: MeshConfig::default(),
    }
}
