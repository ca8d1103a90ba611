//! What a container is started with: its command, environment and files.

use std::path::PathBuf;

use k8s_openapi::api::core::v1 as core;
use rustix::process::Pid;

use super::action::Target;
use super::context::Context;
use super::env::{self, Environment, expand};
use super::event::Kind;
use super::process::Process;
use super::root::Root;
use super::sources::{ConfigError, Sources};
use super::volumes::{self, Mount};
use crate::net::{CLUSTER_DOMAIN, DNS_IP};

/// A container ready to be started.
#[derive(Debug)]
pub(super) struct Prepared {
    pub process: Process,
    /// Absent where containers have no file system of their own.
    pub root: Option<Root>,
    /// Where the container's last word is found after its end.
    pub message_file: Option<PathBuf>,
}

/// Why a container is not ready to be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("images are not run here, so the image's own command is not known: set `command`")]
    NoCommand,
    #[error("{0}")]
    Node(String),
}

impl Prepared {
    /// Reads what the container refers to and lays its files out. `at` is the container's path in the pod.
    pub(super) async fn new(pod: &Context, container: &core::Container, at: &str) -> Result<Self, PrepareError> {
        let command = container.command.clone().unwrap_or_default();
        if command.is_empty() {
            return Err(PrepareError::NoCommand);
        }
        let sources = Sources::load(&pod.shared.client, &pod.pod()).await;
        let sources =
            sources.map_err(|error| PrepareError::Node(format!("cannot read what the pod refers to: {error}")))?;
        let environment = environment(pod, container, at, &sources)?;
        let expand_all = |text: &str| expand(text, |name| environment.get(name));
        let words = command.iter().chain(container.args.iter().flatten());
        let argv = words.map(|word| expand_all(word)).collect();
        let mut mounts = volumes::mounts(&pod.spec(), container, &pod.directories(), at, expand_all)?;
        let working_dir = container.working_dir.clone().filter(|path| !path.is_empty()).map(PathBuf::from);
        let isolated = pod.sandbox.get().is_some_and(|sandbox| sandbox.netns.is_some());
        if !isolated {
            let mut environment = environment;
            for mount in &mounts {
                let variable = volume_variable(&mount.field, container);
                environment.set(&variable, mount.source.to_string_lossy());
                let message = format!(
                    "{}: without namespaces nothing is mounted at {}; the files are in ${variable}",
                    mount.field,
                    mount.target.display()
                );
                pod.event(Some(&container.name), Kind::Warning, "NotHonoured", &message);
            }
            let process = Process { argv, env: environment, working_dir };
            return Ok(Self { process, root: None, message_file: None });
        }
        let message_file = message_file(pod, container).map_err(|error| PrepareError::Node(error.to_string()))?;
        mounts.push(Mount {
            source: message_file.clone(),
            target: container.termination_message_path.as_deref().unwrap_or("/dev/termination-log").into(),
            read_only: false,
            field: format!("{at}.terminationMessagePath"),
        });
        let root = root(pod, mounts, working_dir.clone()).map_err(|error| PrepareError::Node(error.to_string()))?;
        let process = Process { argv, env: environment, working_dir };
        Ok(Self { process, root: Some(root), message_file: Some(message_file) })
    }

    /// The running container, as probes and commands reach it.
    pub(super) fn target(&self, pod: &Context, leader: Pid) -> Target {
        let sandbox = pod.sandbox.get();
        Target {
            ip: pod.place().pod_ip,
            netns: sandbox.and_then(|sandbox| sandbox.netns.clone()),
            beside: self.root.is_some().then_some(leader),
            env: self.process.env.clone(),
            working_dir: self.process.working_dir.clone(),
        }
    }
}

/// `HEDDLE_VOLUME_<NAME>`: where a volume is found when it cannot be mounted at its place.
fn volume_variable(field: &str, container: &core::Container) -> String {
    let index = field.rsplit('[').next().and_then(|rest| rest.trim_end_matches(']').parse::<usize>().ok());
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let name = index.and_then(|index| mounts.get(index)).map(|mount| mount.name.as_str()).unwrap_or_default();
    format!("HEDDLE_VOLUME_{}", name.to_ascii_uppercase().replace(['-', '.'], "_"))
}

fn environment(
    pod: &Context,
    container: &core::Container,
    at: &str,
    sources: &Sources,
) -> Result<Environment, ConfigError> {
    let home = std::env::var("HOME").unwrap_or_else(|_| "/".to_owned());
    let mut base = Environment::from_iter([
        ("PATH", pod.shared.config.path.clone()),
        ("HOME", home),
        ("HOSTNAME", pod.hostname()),
    ]);
    base.extend(pod.shared.network_variables(pod));
    env::of_container(&pod.pod(), container, at, &pod.place(), sources, base)
}

/// An empty file for the container's last word.
fn message_file(pod: &Context, container: &core::Container) -> std::io::Result<PathBuf> {
    let path = pod.dir.join("messages").join(&container.name);
    std::fs::create_dir_all(pod.dir.join("messages"))?;
    std::fs::write(&path, "")?;
    Ok(path)
}

fn root(pod: &Context, mounts: Vec<Mount>, working_dir: Option<PathBuf>) -> std::io::Result<Root> {
    let scratch = pod.dir.join("root");
    std::fs::create_dir_all(&scratch)?;
    let mut files = vec![
        (PathBuf::from("/etc/hosts"), hosts(pod)),
        (PathBuf::from("/etc/hostname"), format!("{}\n", pod.hostname())),
        (PathBuf::from("/etc/resolv.conf"), resolv_conf(&pod.spec(), &pod.namespace())),
    ];
    // A resolver of the machine's own would be asked first where nsswitch.conf says so, and knows no Service.
    if let Ok(text) = std::fs::read_to_string("/etc/nsswitch.conf") {
        files.push((PathBuf::from("/etc/nsswitch.conf"), plain_host_lookup(&text)));
    }
    Ok(Root { scratch, hidden: pod.shared.config.hidden.clone(), files, mounts, working_dir })
}

fn plain_host_lookup(nsswitch: &str) -> String {
    let line =
        |line: &str| if line.trim_start().starts_with("hosts:") { "hosts: files dns".into() } else { line.to_owned() };
    nsswitch.lines().map(|text| line(text) + "\n").collect()
}

fn hosts(pod: &Context) -> String {
    let spec = pod.spec();
    let (ip, hostname) = (pod.place().pod_ip, pod.hostname());
    let own = match &spec.subdomain {
        Some(subdomain) => {
            format!("{ip}\t{hostname}.{subdomain}.{}.svc.{CLUSTER_DOMAIN}\t{hostname}\n", pod.namespace())
        }
        None => format!("{ip}\t{hostname}\n"),
    };
    let aliases = spec
        .host_aliases
        .iter()
        .flatten()
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
    let start =
        "# Written by the kubelet.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    start + &own + &aliases.collect::<String>()
}

/// The pod's `/etc/resolv.conf`, by its `dnsPolicy` and `dnsConfig`. The cluster's DNS serves `Default` too, for it
/// passes on what it does not know.
fn resolv_conf(spec: &core::PodSpec, namespace: &str) -> String {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let config = spec.dns_config.clone().unwrap_or_default();
    let mut servers = config.nameservers.unwrap_or_default();
    let mut searches = config.searches.unwrap_or_default();
    let mut options: Vec<String> = Vec::new();
    if policy != "None" {
        servers.insert(0, DNS_IP.to_string());
    }
    if policy.starts_with("ClusterFirst") {
        let own =
            [format!("{namespace}.svc.{CLUSTER_DOMAIN}"), format!("svc.{CLUSTER_DOMAIN}"), CLUSTER_DOMAIN.to_owned()];
        searches.splice(0..0, own);
        options.push("ndots:5".to_owned());
    }
    for option in config.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        options.retain(|known| known.split(':').next() != Some(name));
        options.push(option.value.as_ref().map_or_else(|| name.to_owned(), |value| format!("{name}:{value}")));
    }
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolv(spec: serde_json::Value) -> String {
        resolv_conf(&serde_json::from_value(spec).unwrap(), "shop")
    }

    #[test]
    fn the_search_domains_are_those_of_the_namespace() {
        let expected =
            "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        assert_eq!(resolv(json!({"containers": []})), expected);
    }

    #[test]
    fn dns_config_adds_and_replaces() {
        let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.2.3.4"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        }});
        assert_eq!(resolv(spec), "nameserver 1.2.3.4\nsearch x\noptions ndots:2 edns0\n");
        let spec = json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}});
        assert!(resolv(spec).ends_with("options ndots:1\n"));
    }

    #[test]
    fn the_machines_resolver_is_left_out_of_host_lookups() {
        assert_eq!(plain_host_lookup("passwd: files\nhosts: files resolve dns\n"), "passwd: files\nhosts: files dns\n");
    }
}
