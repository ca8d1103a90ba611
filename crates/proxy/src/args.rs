//! The command line of `heddle proxy`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use heddle_policy::ServiceName;

use crate::options::{Entrance, Listen, Options};

/// Runs the data plane beside one workload.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// A static configuration in YAML, in place of a control plane's; it is read again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with = "control", required_unless_present = "control")]
    pub config: Option<PathBuf>,
    /// The control plane, as HOST:PORT.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["ca_file", "token_file"])]
    pub control: Option<String>,
    /// The roots by which the control plane is known, in PEM.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The pod's ServiceAccount token, for the audience `heddle`.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The workload's certificate chain in PEM, instead of one signed by the control plane; required without one. It
    /// is read again when it changes.
    #[arg(long, value_name = "FILE", requires_all = ["svid_key", "trust_bundle"], required_unless_present = "control")]
    pub svid_cert: Option<PathBuf>,
    /// The private key of that certificate, in PEM; required with it.
    #[arg(long, value_name = "FILE")]
    pub svid_key: Option<PathBuf>,
    /// The roots by which other workloads are known, in PEM; required with a certificate.
    #[arg(long, value_name = "FILE")]
    pub trust_bundle: Option<PathBuf>,

    /// The address of the workload's pod, or of this host; required.
    #[arg(long, value_name = "IP", env = "POD_IP")]
    pub pod_ip: IpAddr,
    /// How the workload's traffic gets here.
    #[arg(long, value_enum, default_value_t = Capture::Transparent)]
    pub capture: Capture,
    /// The port for outbound traffic: captured, or of an HTTP proxy when capture is explicit.
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    pub outbound_port: u16,
    /// The port for plaintext captured on its way to the workload.
    #[arg(long, value_name = "PORT", default_value_t = 15006)]
    pub inbound_port: u16,
    /// The port for other proxies. It is the same for all proxies of a mesh.
    #[arg(long, value_name = "PORT", default_value_t = 15008)]
    pub mesh_port: u16,
    /// The port of the admin end.
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    pub admin_port: u16,
    /// A listener that stands for one port of a Service, with explicit capture.
    #[arg(long, value_name = "NAMESPACE/NAME:PORT=IP:PORT")]
    pub env_listen: Vec<ServiceListen>,
    /// A listener that takes plaintext for one port of the workload, with explicit capture.
    #[arg(long, value_name = "PORT=IP:PORT")]
    pub plaintext_listen: Vec<PlaintextListen>,
    /// The `SO_MARK` of the proxy's own connections.
    #[arg(long, value_name = "N")]
    pub mark: Option<u32>,
    /// Threads of the data plane; by default two, or one on a single core.
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Where totals are kept, so that the pod's next proxy goes on from them.
    #[arg(long, value_name = "FILE", requires = "control")]
    pub totals_file: Option<PathBuf>,
    /// When the pod's last proxy ended, in milliseconds since 1970, by default now: what it counted from its last note
    /// until then is stated as lost.
    #[arg(long, value_name = "MILLISECONDS", requires = "totals_file")]
    pub last_ended: Option<u64>,
    /// How long connections may take to end after SIGTERM, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
}

const AFTER_HELP: &str = "\
With a control plane it takes --control, --ca-file, --token-file and --pod-ip. Without one it takes --config, --pod-ip, \
--svid-cert, --svid-key and --trust-bundle; the only URI name of the certificate is the workload's SPIFFE ID.

Example, which examples/proxy/proxy.conf explains:
  heddle proxy --config examples/proxy/proxy.conf --pod-ip 127.0.0.9 --capture explicit \\
    --svid-cert web.crt --svid-key web.key --trust-bundle ca.crt \\
    --env-listen bench/store:80=127.0.0.9:8000";

/// How the workload's traffic gets to the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Capture {
    /// By rules of the kernel that redirect it; nobody need know.
    Transparent,
    /// By `http_proxy` and by listeners that stand for Services.
    Explicit,
}

/// A Service's port and the listener that stands for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceListen {
    pub service: ServiceName,
    pub port: u16,
    pub address: SocketAddr,
}

/// A port of the workload and the listener that takes plaintext for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlaintextListen {
    pub port: u16,
    pub address: SocketAddr,
}

impl Args {
    /// When the pod's last proxy ended, at the latest.
    pub(crate) fn last_ended(&self) -> SystemTime {
        let told = self.last_ended.and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
        told.unwrap_or_else(SystemTime::now)
    }

    /// The options that these arguments mean.
    pub fn options(&self) -> Options {
        let all: IpAddr = if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let on = match self.capture {
            Capture::Transparent => all,
            Capture::Explicit => self.pod_ip,
        };
        let listen = |port, entrance| Listen { address: SocketAddr::new(on, port), entrance };
        let mut listeners = vec![listen(self.mesh_port, Entrance::Mesh)];
        match self.capture {
            Capture::Transparent => {
                listeners.push(listen(self.outbound_port, Entrance::CapturedOutbound));
                listeners.push(listen(self.inbound_port, Entrance::CapturedInbound));
            }
            Capture::Explicit => listeners.push(listen(self.outbound_port, Entrance::HttpProxy)),
        }
        let services = self.env_listen.iter().map(|known| Listen {
            address: known.address,
            entrance: Entrance::Service(known.service.clone(), known.port),
        });
        let plaintext = self
            .plaintext_listen
            .iter()
            .map(|known| Listen { address: known.address, entrance: Entrance::Plaintext(known.port) });
        listeners.extend(services.chain(plaintext));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            pod_ip: self.pod_ip,
            mesh_port: self.mesh_port,
            mark: self.mark,
            workers: self.workers.unwrap_or(cores.min(2)).max(1),
            drain: Duration::from_secs(self.drain),
            listen: listeners,
            admin: vec![SocketAddr::new(on, self.admin_port)],
        }
    }
}

/// Whether the kernel has IPv6; listeners are for both families where it does.
fn has_ipv6() -> bool {
    std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

impl FromStr for ServiceListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (service, address) = text.split_once('=')?;
            let (name, port) = service.rsplit_once(':')?;
            let service = ServiceName::try_from(name.to_owned()).ok()?;
            Some(Self { service, port: port.parse().ok()?, address: address.parse().ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` is not NAMESPACE/NAME:PORT=IP:PORT"))
    }
}

impl FromStr for PlaintextListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (port, address) = text.split_once('=')?;
            Some(Self { port: port.parse().ok()?, address: address.parse().ok()? })
        };
        parse().ok_or_else(|| format!("`{text}` is not PORT=IP:PORT"))
    }
}
