//! The schema of every kind in every version.

use super::build::{
    Refine, Schema, anything, boolean, integer, list, map, name, number, object, one_of, port, string, strings,
};
use crate::{Kind, MAX_WEIGHT, Version};

/// Makes the schema of one kind and version, without metadata.
pub(super) fn schema(kind: Kind, version: Version) -> Schema {
    let root = match kind {
        Kind::TrafficTarget => traffic_target(version),
        Kind::IdentityBinding => identity_binding(),
        Kind::HttpRouteGroup => http_route_group(version),
        Kind::TcpRoute => tcp_route(version),
        Kind::UdpRoute => port_route("UDP datagrams."),
        Kind::TrafficSplit => traffic_split(version),
        Kind::MeshConfig => mesh_config(),
    };
    with_root(root)
}

fn with_root(mut root: Schema) -> Schema {
    let common = object([
        ("apiVersion", string()),
        ("kind", string()),
        ("metadata", Schema { type_: Some("object".to_owned()), ..Schema::default() }),
        ("status", status()),
    ]);
    root.properties.get_or_insert_default().extend(common.properties.unwrap_or_default());
    root
}

fn traffic_target(version: Version) -> Schema {
    let about = "Grants the sources access to the destination, by the rules. Without a target nothing is allowed.";
    let old = version <= Version::V1Alpha2;
    let destination = destination(old).about("The workloads that may be reached, by their identity.");
    let min = i64::from(!old);
    let rules = list(rule()).items(min, 256).about("What is granted. None: nothing.");
    let sources = list(source()).items(min, 1024).about("To whom. None: nobody.");
    let root = match version {
        Version::V1Alpha1 => {
            object([("destination", destination), ("specs", rules), ("sources", sources)]).required(&["destination"])
        }
        Version::V1Alpha2 => {
            spec([("destination", destination), ("rules", rules), ("sources", sources)], &["destination"])
        }
        _ => spec(
            [("destination", destination), ("rules", rules), ("sources", sources)],
            &["destination", "rules", "sources"],
        ),
    };
    root.about(about)
}

/// Lets an API server bear lists that only older versions let be empty. A target of theirs is stored in the newest
/// version without being checked again, and its labels and status could not be written if the lists were refused there.
/// They grant nothing, and [`parse`](crate::parse) refuses them (A13).
pub(super) fn bear_what_is_stored(kind: Kind, root: &mut Schema) {
    if kind != Kind::TrafficTarget {
        return;
    }
    let spec = root.properties.as_mut().and_then(|root| root.get_mut("spec"));
    let Some(fields) = spec.and_then(|spec| spec.properties.as_mut()) else { return };
    for list in ["rules", "sources"] {
        if let Some(list) = fields.get_mut(list) {
            list.min_items = None;
        }
    }
}

/// A root object whose one field `spec` is an object of these fields.
fn spec<const N: usize>(fields: [(&str, Schema); N], required: &[&str]) -> Schema {
    object([("spec", object(fields).required(required))]).required(&["spec"])
}

fn subject(kind: Schema) -> Schema {
    object([
        ("kind", kind.about("ServiceAccount, or IdentityBinding.")),
        ("name", name()),
        ("namespace", name().about("Absent: the namespace of the target.")),
        ("group", string().about("The API group of the kind; it may be left out.")),
    ])
    .required(&["kind", "name"])
}

fn destination(with_port: bool) -> Schema {
    let mut subject = subject(one_of(&["ServiceAccount", "IdentityBinding"]));
    if with_port {
        let port = port().about("The only port that is granted. Absent: every port.");
        subject.properties.get_or_insert_default().insert("port".to_owned(), port);
    }
    subject
}

/// The kind of a source is open: one that is unknown costs only itself (A26).
fn source() -> Schema {
    subject(name())
}

fn rule() -> Schema {
    let matches = list(name()).items(0, 256).set();
    object([
        ("kind", one_of(&["HTTPRouteGroup", "TCPRoute", "UDPRoute"])),
        ("name", name().about("A traffic spec in the namespace of the target.")),
        ("matches", matches.about("Names of matches of the traffic spec; any of them. None: all.")),
    ])
    .required(&["kind", "name"])
}

fn identity_binding() -> Schema {
    // An API server would drop a null where null is not allowed, and so the label it demands. Kept, it is refused when
    // it is admitted and when it is read.
    let labels = Schema { min_properties: Some(1), ..map(Schema { nullable: Some(true), ..string() }) };
    let selector =
        object([("matchLabels", labels.about("Labels that a pod must all have."))]).required(&["matchLabels"]);
    let spiffe = Schema { min_length: Some(1), max_length: Some(2048), ..string() }.rule(
        "self.matches('^(spiffe://)?[a-z0-9._-]+(/[a-zA-Z0-9._-]+)*$')",
        "a SPIFFE ID is written spiffe://<trust domain>/<path>",
    );
    let schemes = object([
        ("podLabelSelector", selector.about("Pods of this namespace, by label. Excludes serviceAccount.")),
        ("spiffeIdentities", list(spiffe).items(1, 256).set().about("SPIFFE IDs: spiffe://<trust domain>/<path>.")),
        ("serviceAccount", name().about("Pods of this namespace, by ServiceAccount. Excludes podLabelSelector.")),
    ]);
    let schemes = Schema { min_properties: Some(1), ..schemes }.rule(
        "!has(self.podLabelSelector) || !has(self.serviceAccount)",
        "podLabelSelector and serviceAccount exclude each other",
    );
    let about = "Gives workloads of its namespace an identity that TrafficTargets can name.";
    spec([("schemes", schemes.about("A workload has the identity when any of these says so."))], &["schemes"])
        .about(about)
}

fn http_route_group(version: Version) -> Schema {
    let matches = list(http_match()).items(0, 256).keyed("name");
    let matches = matches.about("A request belongs to the group when any of these matches it.");
    let root = match version {
        Version::V1Alpha1 | Version::V1Alpha2 => object([("matches", matches)]).required(&["matches"]),
        _ => under_spec(object([("matches", matches)]).required(&["matches"])),
    };
    root.about("HTTP requests, for TrafficTargets and TrafficSplits to name.")
}

/// The schema cannot demand `spec` here: its message would hide the one about `matches` outside `spec`.
fn under_spec(spec: Schema) -> Schema {
    object([("spec", spec)]).rule("has(self.matches) || has(self.spec)", "spec is missing")
}

fn http_match() -> Schema {
    let methods = ["*", "GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    // A pattern that is no regular expression makes the evaluation of the rule fail, whatever it is compared with.
    let pattern = Schema { max_length: Some(4096), ..string() }
        .rule("''.matches(self) in [true, false]", "must be a regular expression");
    object([
        ("name", name()),
        (
            "pathRegex",
            pattern.about("A regular expression for the path, anchored at the start only. Absent: any path."),
        ),
        ("methods", list(one_of(&methods)).items(0, 16).set().about("* stands for all. None: any method.")),
        (
            "headers",
            anything().about(
                "Regular expressions for the whole value, by header name: an object, or a list of objects. All must match.",
            ),
        ),
    ])
    .required(&["name"])
}

fn tcp_route(version: Version) -> Schema {
    let about = "TCP connections, for TrafficTargets to name.";
    match version {
        Version::V1Alpha1 | Version::V1Alpha2 => object([]).about(about),
        Version::V1Alpha3 => object([("spec", object([]))]).about(about),
        Version::V1Alpha4 => port_route(about),
    }
}

fn port_route(about: &str) -> Schema {
    let ports = list(port()).items(0, 1024).set();
    let ports = Schema { nullable: Some(true), ..ports }.about("Ports of the workload. None: every port.");
    let matches = object([("name", name()), ("ports", ports)]);
    under_spec(object([("matches", matches)]).required(&["matches"])).about(about)
}

fn traffic_split(version: Version) -> Schema {
    let weight = match version {
        Version::V1Alpha1 => {
            quantity().about("Relative to the sum of all weights: a whole number, or a quantity such as 500m.")
        }
        _ => integer(0, MAX_WEIGHT).about("Relative to the sum of all weights. Zero: no traffic."),
    };
    let backend = object([("service", name().about("A Service of this namespace.")), ("weight", weight)]);
    let backends = list(backend.required(&["service", "weight"])).items(1, 256).keyed("service");
    let service = name().about("The root Service, whose clients' traffic is distributed.");
    let required = ["service", "backends"];
    let root = if version <= Version::V1Alpha2 {
        spec([("service", service), ("backends", backends)], &required)
    } else {
        let matches = list(match_reference()).items(0, 64);
        let matches = matches.about("The requests that are distributed: those of any of these groups. None: all.");
        spec([("service", service), ("backends", backends), ("matches", matches)], &required)
    };
    root.about("Distributes what clients send to one Service over others.")
}

/// A Kubernetes quantity that is not negative.
fn quantity() -> Schema {
    let pattern = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]+))?$";
    Schema {
        x_kubernetes_int_or_string: Some(true),
        pattern: Some(pattern.to_owned()),
        minimum: Some(0.0),
        max_length: Some(64),
        ..Schema::default()
    }
}

fn match_reference() -> Schema {
    object([
        ("apiGroup", one_of(&["specs.smi-spec.io", ""])),
        ("kind", one_of(&["HTTPRouteGroup"])),
        ("name", name().about("An HTTPRouteGroup of this namespace.")),
    ])
    .required(&["kind", "name"])
}

fn mesh_config() -> Schema {
    let domain = |text: &str| {
        let pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
        Schema { max_length: Some(253), min_length: Some(1), pattern: Some(pattern.to_owned()), ..string() }
            .default_to("cluster.local")
            .about(text)
    };
    let mode = one_of(&["enforce", "audit", "permissive"]).default_to("enforce");
    let spec = object([
        ("mode", mode.about("What becomes of traffic that no TrafficTarget allows: denied, recorded, or let pass.")),
        ("trustDomain", domain("The trust domain of identities: lower-case letters, digits, - and .")),
        ("clusterDomain", domain("The DNS domain of Services: lower-case letters, digits, - and .")),
        (
            "allowForeignTargets",
            boolean().default_to(false).about("Whether a TrafficTarget may name a destination in another namespace."),
        ),
        ("tracing", tracing()),
    ]);
    object([("spec", spec)])
        .about("The settings of the mesh.")
        .rule("self.metadata.name == 'default'", "the one MeshConfig that counts is named default")
}

fn tracing() -> Schema {
    let text = |max_length, pattern: &str| Schema {
        max_length: Some(max_length),
        min_length: Some(1),
        pattern: Some(pattern.to_owned()),
        ..string()
    };
    let endpoint = text(2048, r"^https?://[a-zA-Z0-9.\-\[\]:]+(/[!-~]*)?$");
    let certificates = text(65_536, "-----BEGIN CERTIFICATE-----");
    object([
        (
            "endpoint",
            endpoint.about("The collector: http://HOST:PORT or, for TLS, https://HOST:PORT. HOST may be a Service."),
        ),
        ("protocol", one_of(&["grpc", "http"]).default_to("grpc").about("OTLP over gRPC, or over HTTP in protobuf.")),
        (
            "caCertificates",
            certificates.about("In PEM, the authorities that may certify the collector. Default: the machine's."),
        ),
        ("samplingRatio", number(0.0, 1.0).about("The share of the traces that begin in the mesh, 0 to 1. Default 1.")),
    ])
    .required(&["endpoint"])
    .about("Where proxies send spans of requests. Absent: no spans are made.")
}

fn status() -> Schema {
    let condition = object([
        ("type", name()),
        ("status", one_of(&["True", "False", "Unknown"])),
        ("observedGeneration", Schema { maximum: None, ..integer(0, 0) }),
        ("lastTransitionTime", Schema { format: Some("date-time".to_owned()), ..string() }),
        ("reason", string()),
        ("message", string()),
    ])
    .required(&["type", "status", "lastTransitionTime", "reason", "message"]);
    object([("conditions", list(condition).keyed("type"))]).about("Written by the mesh.")
}

/// The metadata that Kubernetes knows. In a CRD it goes without saying.
pub(super) fn metadata() -> Schema {
    let texts = ["name", "generateName", "namespace", "uid", "resourceVersion", "selfLink", "creationTimestamp"];
    let rest = ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "ownerReferences", "managedFields"];
    let mut metadata = object([("labels", strings()), ("annotations", strings()), ("finalizers", list(string()))]);
    let properties = metadata.properties.get_or_insert_default();
    properties.extend(texts.map(|field| (field.to_owned(), string())));
    properties.extend(rest.map(|field| (field.to_owned(), anything())));
    metadata
}
