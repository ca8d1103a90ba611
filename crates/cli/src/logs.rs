//! `heddle logs`: what a workload printed.

use anyhow::Context;
use futures::AsyncBufReadExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt};

use crate::mesh;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The workload's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The container; the pod's first one unless told. `heddle-proxy` is the pod's proxy
    #[arg(short, long)]
    container: Option<String>,
    /// Go on as more is printed
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<i64>,
    /// What the container printed before its last restart
    #[arg(short, long)]
    previous: bool,
    /// Text, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// A pod, or a workload such as deploy/NAME
    target: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let client = mesh::client().await?;
    let pod = mesh::pod(&client, &args.namespace, &args.target).await?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace);
    let name = pod.name_any();
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| container.name.clone());
    let container = args.container.or(first).context("the pod has no container")?;
    let params = LogParams {
        container: Some(container.clone()),
        follow: args.follow,
        tail_lines: args.tail,
        previous: args.previous,
        ..LogParams::default()
    };
    let mut printed = pods.log_stream(&name, &params).await?;
    let mut line = Vec::new();
    while printed.read_until(b'\n', &mut line).await? > 0 {
        if args.output == Format::Json {
            let text = String::from_utf8_lossy(&line);
            let text = text.strip_suffix('\n').unwrap_or(&text);
            line = format!("{}\n", serde_json::json!({ "pod": name, "container": container, "line": text })).into();
        }
        if !output::print(&line)? {
            break;
        }
        line.clear();
    }
    Ok(())
}
