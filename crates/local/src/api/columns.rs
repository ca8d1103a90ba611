//! The columns of tables, by resource type.

use serde_json::{Value, json};

use super::object::{integer, items, text};
use super::resource::Resource;
use super::scale::selector_text;
use super::table::{age, duration, name, object_age, or_none, pairs};

/// One column: its head and how its cell is made.
pub(crate) struct Column {
    name: String,
    kind: String,
    /// Shown by `-o wide` only when it is 1.
    priority: u8,
    cell: Cell,
}

enum Cell {
    Of(fn(&Value) -> Value),
    /// A JSON path of a custom type's column.
    Path {
        path: String,
        date: bool,
    },
}

impl Column {
    pub(crate) fn definition(&self) -> Value {
        let format = if self.name == "Name" { "name" } else { "" };
        json!({"name": self.name, "type": self.kind, "format": format, "description": "", "priority": self.priority})
    }

    pub(crate) fn cell(&self, object: &Value) -> Value {
        match &self.cell {
            Cell::Of(make) => make(object),
            Cell::Path { path, date } => {
                let found = super::jsonpath::first(object, path);
                match (found, date) {
                    (Some(value), true) => json!(age(value.as_str().unwrap_or_default())),
                    (Some(value), false) => value,
                    (None, _) => Value::Null,
                }
            }
        }
    }
}

fn column(name: &str, cell: fn(&Value) -> Value) -> Column {
    Column { name: name.to_owned(), kind: "string".to_owned(), priority: 0, cell: Cell::Of(cell) }
}

fn wide(name: &str, cell: fn(&Value) -> Value) -> Column {
    Column { priority: 1, ..column(name, cell) }
}

fn created(object: &Value) -> Value {
    json!(object_age(object))
}

fn number(value: &Value, pointer: &str) -> i64 {
    integer(value, pointer).unwrap_or_default()
}

fn ratio(value: &Value, some: &str, all: &str) -> Value {
    json!(format!("{}/{}", number(value, some), number(value, all)))
}

/// The columns of a type's table.
pub(crate) fn columns(resource: &Resource) -> Vec<Column> {
    if let Some(custom) = resource.custom() {
        return custom_columns(&custom.columns);
    }
    let mut columns = vec![column("Name", name)];
    columns.extend(match resource.qualified().as_str() {
        "pods" => pod_columns(),
        "services" => service_columns(),
        "deployments.apps" | "replicasets.apps" | "daemonsets.apps" | "statefulsets.apps" => {
            workload_columns(&resource.plural)
        }
        "replicationcontrollers" => workload_columns("replicasets"),
        "jobs.batch" | "cronjobs.batch" => job_columns(&resource.plural),
        "nodes" => node_columns(),
        "events" | "events.events.k8s.io" => return event_columns(),
        _ => other_columns(resource),
    });
    columns
}

fn custom_columns(given: &[Value]) -> Vec<Column> {
    let mut columns = vec![column("Name", name)];
    if given.is_empty() {
        columns.push(column("Age", created));
    }
    columns.extend(given.iter().map(|definition| {
        let kind = text(definition, "/type").to_owned();
        Column {
            name: text(definition, "/name").to_owned(),
            priority: u8::from(number(definition, "/priority") > 0),
            cell: Cell::Path { path: text(definition, "/jsonPath").to_owned(), date: kind == "date" },
            kind: if kind == "date" { "string".to_owned() } else { kind },
        }
    }));
    columns
}

fn other_columns(resource: &Resource) -> Vec<Column> {
    let age = || column("Age", created);
    match resource.qualified().as_str() {
        "namespaces" => vec![column("Status", |o| json!(text(o, "/status/phase"))), age()],
        "configmaps" => vec![column("Data", |o| json!(size(&o["data"]) + size(&o["binaryData"]))), age()],
        "secrets" => {
            vec![column("Type", |o| json!(text(o, "/type"))), column("Data", |o| json!(size(&o["data"]))), age()]
        }
        "serviceaccounts" => vec![column("Secrets", |o| json!(items(o, "/secrets").len())), age()],
        "endpoints" => vec![column("Endpoints", endpoints), age()],
        "endpointslices.discovery.k8s.io" => vec![
            column("AddressType", |o| json!(text(o, "/addressType"))),
            column("Ports", |o| json!(or_unset(slice_ports(o)))),
            column("Endpoints", |o| json!(or_unset(slice_addresses(o)))),
            age(),
        ],
        "leases.coordination.k8s.io" => vec![column("Holder", |o| json!(text(o, "/spec/holderIdentity"))), age()],
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" => {
            vec![column("Created At", |o| json!(text(o, "/metadata/creationTimestamp")))]
        }
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            vec![column("Role", |o| json!(format!("{}/{}", text(o, "/roleRef/kind"), text(o, "/roleRef/name")))), age()]
        }
        "customresourcedefinitions.apiextensions.k8s.io" => {
            vec![column("Created At", |o| json!(text(o, "/metadata/creationTimestamp")))]
        }
        "apiservices.apiregistration.k8s.io" => {
            vec![column("Service", api_service), column("Available", available), age()]
        }
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => {
            vec![column("Webhooks", |o| json!(items(o, "/webhooks").len())), age()]
        }
        "ingresses.networking.k8s.io" => vec![
            column("Class", |o| json!(or_none(text(o, "/spec/ingressClassName").to_owned()))),
            column("Hosts", |o| json!(or_star(items(o, "/spec/rules").iter().map(|r| text(r, "/host")).collect()))),
            age(),
        ],
        "networkpolicies.networking.k8s.io" => {
            vec![column("Pod-Selector", |o| json!(or_none(selector_text(&o["spec"]["podSelector"])))), age()]
        }
        "poddisruptionbudgets.policy" => vec![
            column("Min Available", |o| json!(or_na(&o["spec"]["minAvailable"]))),
            column("Max Unavailable", |o| json!(or_na(&o["spec"]["maxUnavailable"]))),
            column("Allowed Disruptions", |o| json!(number(o, "/status/disruptionsAllowed"))),
            age(),
        ],
        "horizontalpodautoscalers.autoscaling" => vec![
            column("Reference", |o| {
                json!(format!("{}/{}", text(o, "/spec/scaleTargetRef/kind"), text(o, "/spec/scaleTargetRef/name")))
            }),
            column("MinPods", |o| json!(number(o, "/spec/minReplicas").to_string())),
            column("MaxPods", |o| json!(number(o, "/spec/maxReplicas"))),
            column("Replicas", |o| json!(number(o, "/status/currentReplicas"))),
            age(),
        ],
        "persistentvolumeclaims" => vec![
            column("Status", |o| json!(text(o, "/status/phase"))),
            column("Volume", |o| json!(text(o, "/spec/volumeName"))),
            age(),
        ],
        _ => vec![age()],
    }
}

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

fn or_unset(text: String) -> String {
    if text.is_empty() { "<unset>".to_owned() } else { text }
}

fn or_star(hosts: Vec<&str>) -> String {
    if hosts.iter().all(|h| h.is_empty()) { "*".to_owned() } else { hosts.join(",") }
}

fn or_na(value: &Value) -> String {
    match value {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn endpoints(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in items(object, "/subsets") {
        for address in items(subset, "/addresses") {
            let ports = items(subset, "/ports");
            let ip = text(address, "/ip");
            all.extend(ports.iter().map(|port| format!("{ip}:{}", number(port, "/port"))));
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
        }
    }
    json!(or_none(some_of(&all)))
}

/// The first three, and how many more.
fn some_of(all: &[String]) -> String {
    match all.len() {
        0..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

fn slice_ports(object: &Value) -> String {
    let ports: Vec<String> = items(object, "/ports").iter().map(|p| number(p, "/port").to_string()).collect();
    some_of(&ports)
}

fn slice_addresses(object: &Value) -> String {
    let addresses = items(object, "/endpoints").iter().flat_map(|e| items(e, "/addresses"));
    some_of(&addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect::<Vec<_>>())
}

fn api_service(object: &Value) -> Value {
    match &object["spec"]["service"] {
        Value::Null => json!("Local"),
        service => json!(format!("{}/{}", text(service, "/namespace"), text(service, "/name"))),
    }
}

fn available(object: &Value) -> Value {
    let condition = items(object, "/status/conditions").iter().find(|c| c["type"] == "Available");
    match condition {
        None => json!("Unknown"),
        Some(c) if c["status"] == "True" => json!("True"),
        Some(c) => json!(format!("{} ({})", text(c, "/status"), text(c, "/reason"))),
    }
}

fn container_texts(object: &Value, pointer: &str, field: &str) -> Value {
    let texts: Vec<&str> = items(object, pointer).iter().map(|c| c[field].as_str().unwrap_or_default()).collect();
    json!(texts.join(","))
}

const TEMPLATE: &str = "/spec/template/spec/containers";

fn workload_columns(plural: &str) -> Vec<Column> {
    let age = column("Age", created);
    let containers = wide("Containers", |o| container_texts(o, TEMPLATE, "name"));
    let images = wide("Images", |o| container_texts(o, TEMPLATE, "image"));
    let selector = wide("Selector", |o| json!(or_none(selector_text(&o["spec"]["selector"]))));
    match plural {
        "deployments" => vec![
            column("Ready", |o| ratio(o, "/status/readyReplicas", "/spec/replicas")),
            column("Up-to-date", |o| json!(number(o, "/status/updatedReplicas"))),
            column("Available", |o| json!(number(o, "/status/availableReplicas"))),
            age,
            containers,
            images,
            selector,
        ],
        "statefulsets" => {
            vec![column("Ready", |o| ratio(o, "/status/readyReplicas", "/spec/replicas")), age, containers, images]
        }
        "daemonsets" => vec![
            column("Desired", |o| json!(number(o, "/status/desiredNumberScheduled"))),
            column("Current", |o| json!(number(o, "/status/currentNumberScheduled"))),
            column("Ready", |o| json!(number(o, "/status/numberReady"))),
            column("Up-to-date", |o| json!(number(o, "/status/updatedNumberScheduled"))),
            column("Available", |o| json!(number(o, "/status/numberAvailable"))),
            column("Node Selector", |o| json!(pairs(&o["spec"]["template"]["spec"]["nodeSelector"]))),
            age,
            containers,
            images,
            selector,
        ],
        _ => vec![
            column("Desired", |o| json!(number(o, "/spec/replicas"))),
            column("Current", |o| json!(number(o, "/status/replicas"))),
            column("Ready", |o| json!(number(o, "/status/readyReplicas"))),
            age,
            containers,
            images,
            selector,
        ],
    }
}

fn job_columns(plural: &str) -> Vec<Column> {
    let age = column("Age", created);
    if plural == "cronjobs" {
        return vec![
            column("Schedule", |o| json!(text(o, "/spec/schedule"))),
            column("Timezone", |o| json!(or_none(text(o, "/spec/timeZone").to_owned()))),
            column("Suspend", |o| json!(if o["spec"]["suspend"] == true { "True" } else { "False" })),
            column("Active", |o| json!(items(o, "/status/active").len())),
            column("Last Schedule", |o| match text(o, "/status/lastScheduleTime") {
                "" => json!("<none>"),
                at => json!(super::table::age(at)),
            }),
            age,
        ];
    }
    vec![
        column("Status", job_status),
        column("Completions", |o| match integer(o, "/spec/completions") {
            Some(all) => json!(format!("{}/{all}", number(o, "/status/succeeded"))),
            None => json!(format!("{}/1 of {}", number(o, "/status/succeeded"), number(o, "/spec/parallelism"))),
        }),
        column("Duration", job_duration),
        age,
    ]
}

fn job_status(job: &Value) -> Value {
    let holds =
        |kind: &str| items(job, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True");
    let status = [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
    ];
    let found = status.iter().find(|(kind, _)| holds(kind)).map_or("Running", |(_, said)| said);
    json!(if super::object::is_deleting(job) { "Terminating" } else { found })
}

fn job_duration(job: &Value) -> Value {
    let at = |pointer: &str| text(job, pointer).parse::<jiff::Timestamp>().ok();
    let Some(start) = at("/status/startTime") else { return json!("") };
    let end = at("/status/completionTime").unwrap_or_else(jiff::Timestamp::now);
    json!(duration(end.duration_since(start).as_secs()))
}

fn service_columns() -> Vec<Column> {
    vec![
        column("Type", |o| json!(text(o, "/spec/type"))),
        column("Cluster-IP", |o| json!(or_none(text(o, "/spec/clusterIP").to_owned()))),
        column("External-IP", external_ip),
        column("Port(s)", |o| {
            json!(or_none(items(o, "/spec/ports").iter().map(service_port).collect::<Vec<_>>().join(",")))
        }),
        column("Age", created),
        wide("Selector", |o| json!(pairs(&o["spec"]["selector"]))),
    ]
}

fn external_ip(service: &Value) -> Value {
    let ingress = items(service, "/status/loadBalancer/ingress").iter().map(|i| text(i, "/ip"));
    let external = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let listed = ingress.chain(external).filter(|ip| !ip.is_empty()).collect::<Vec<_>>().join(",");
    match text(service, "/spec/type") {
        "ExternalName" => json!(text(service, "/spec/externalName")),
        "LoadBalancer" if listed.is_empty() => json!("<pending>"),
        _ => json!(or_none(listed)),
    }
}

fn service_port(port: &Value) -> String {
    let protocol = text(port, "/protocol");
    match integer(port, "/nodePort") {
        Some(node) if node > 0 => format!("{}:{node}/{protocol}", number(port, "/port")),
        _ => format!("{}/{protocol}", number(port, "/port")),
    }
}

fn node_columns() -> Vec<Column> {
    vec![
        column("Status", |o| {
            let ready = items(o, "/status/conditions").iter().find(|c| c["type"] == "Ready");
            let said = match ready.map(|c| text(c, "/status")) {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            };
            json!(if o["spec"]["unschedulable"] == true {
                format!("{said},SchedulingDisabled")
            } else {
                said.to_owned()
            })
        }),
        column("Roles", |o| {
            let labels = o["metadata"]["labels"].as_object().into_iter().flatten();
            let roles = labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
            json!(or_none(roles.collect::<Vec<_>>().join(",")))
        }),
        column("Age", created),
        column("Version", |o| json!(text(o, "/status/nodeInfo/kubeletVersion"))),
        wide("Internal-IP", |o| {
            let internal = items(o, "/status/addresses").iter().find(|a| a["type"] == "InternalIP");
            json!(or_none(internal.map(|a| text(a, "/address")).unwrap_or_default().to_owned()))
        }),
    ]
}

/// Events in either group's form.
fn event_columns() -> Vec<Column> {
    vec![
        column("Last Seen", |o| {
            let places = [
                "/series/lastObservedTime",
                "/lastTimestamp",
                "/deprecatedLastTimestamp",
                "/eventTime",
                "/firstTimestamp",
            ];
            let seen = places.iter().map(|p| text(o, p)).find(|t| !t.is_empty()).unwrap_or_default();
            json!(age(seen))
        }),
        column("Type", |o| json!(text(o, "/type"))),
        column("Reason", |o| json!(text(o, "/reason"))),
        column("Object", |o| {
            let about = if o.get("regarding").is_some() { &o["regarding"] } else { &o["involvedObject"] };
            json!(format!("{}/{}", text(about, "/kind").to_lowercase(), text(about, "/name")))
        }),
        wide("Source", |o| {
            let sources = ["/source/component", "/reportingComponent", "/reportingController"];
            json!(sources.iter().map(|p| text(o, p)).find(|t| !t.is_empty()).unwrap_or_default())
        }),
        column("Message", |o| {
            let message = if o.get("note").is_some() { text(o, "/note") } else { text(o, "/message") };
            json!(message.trim())
        }),
        wide("Count", |o| {
            let counts = ["/series/count", "/count", "/deprecatedCount"];
            json!(counts.iter().find_map(|p| integer(o, p)).unwrap_or(1))
        }),
        wide("Name", name),
    ]
}

fn pod_columns() -> Vec<Column> {
    vec![
        column("Ready", |o| {
            let statuses = items(o, "/status/containerStatuses");
            let ready = statuses.iter().filter(|s| s["ready"] == true).count();
            json!(format!("{ready}/{}", items(o, "/spec/containers").len()))
        }),
        column("Status", |o| json!(super::pod_status::summary(o))),
        column("Restarts", |o| json!(super::pod_status::restarts(o))),
        column("Age", created),
        wide("IP", |o| json!(or_none(text(o, "/status/podIP").to_owned()))),
        wide("Node", |o| json!(or_none(text(o, "/spec/nodeName").to_owned()))),
        wide("Nominated Node", |o| json!(or_none(text(o, "/status/nominatedNodeName").to_owned()))),
        wide("Readiness Gates", |_| json!("<none>")),
    ]
}
