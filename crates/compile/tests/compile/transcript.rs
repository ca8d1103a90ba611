//! Questions to a compiled mesh and its answers, as text.
//!
//! - `request web/web -> shop/api-v1:8080 GET /books user-agent=Firefox`: may this pod do this?
//! - `connect web/web -> shop/db-0:5432`: may it open a raw TCP connection?
//! - `probe 10.244.0.1 -> shop/api-v1:8080 /healthz`: is this plaintext request a probe?
//! - `route shop/api:80 GET / user-agent=Firefox`, `route shop/db:5432`: where does a request or connection go?
//! - `inbound shop/api-v1`, `service shop/api`, `settings shop/api-v1`, `pods`: what is a proxy told?

use std::fmt::Write;

use heddle_compile::{Compiled, ConditionStatus, Mesh, ResourceSet, ResourceStatus, compile};
use heddle_policy::{
    AccessLog, Authorization, Endpoint, Headers, HttpMatch, Inbound, Peer, Pick, PodName, Ports, ProxyConfig, Request,
    Service, ServiceName, ServicePort, Split, Tracing, Verdict, normalize_path,
};

pub(crate) fn transcript(set: &ResourceSet, questions: &str) -> String {
    let Compiled { mesh, problems, statuses } = compile(set);
    let mut text = String::new();
    for problem in &problems {
        writeln!(text, "{} {} {}:", problem.severity, problem.reason, problem.origin).unwrap();
        writeln!(text, "    {}", problem.message).unwrap();
        if let Some(hint) = &problem.hint {
            writeln!(text, "    hint: {hint}").unwrap();
        }
    }
    statuses.iter().filter_map(conditions).for_each(|line| text += &line);
    for question in questions.lines().filter(|line| !line.is_empty()) {
        if !text.is_empty() {
            text.push('\n');
        }
        writeln!(text, "> {question}").unwrap();
        for line in answer(&mesh, question).lines() {
            writeln!(text, "  {line}").unwrap();
        }
    }
    text
}

/// The conditions of a resource, when one of them is not true.
fn conditions(status: &ResourceStatus) -> Option<String> {
    let mut line = format!("{} {}/{}:", status.origin.kind, status.origin.namespace, status.origin.name);
    for condition in &status.conditions {
        match condition.status {
            ConditionStatus::True => write!(line, " {}", condition.r#type).unwrap(),
            ConditionStatus::False => write!(line, " {}=False({})", condition.r#type, condition.reason).unwrap(),
        }
    }
    let is_bad = status.conditions.iter().any(|condition| condition.status == ConditionStatus::False);
    is_bad.then(|| line + "\n")
}

fn answer(mesh: &Mesh, question: &str) -> String {
    match question.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["request", client, "->", server, method, target, headers @ ..] => {
            let (config, port) = config_and_port(mesh, server);
            with_request(method, target, headers, |request| {
                let decision = config.inbound.decide_request(&peer(mesh, client), port, request);
                verdict(decision.verdict, decision.admitted)
            })
        }
        ["connect", client, "->", server] => {
            let (config, port) = config_and_port(mesh, server);
            let decision = config.inbound.decide_connection(&peer(mesh, client), port);
            verdict(decision.verdict, decision.admitted)
        }
        ["probe", from, "->", server, path @ ..] => {
            let (config, port) = config_and_port(mesh, server);
            let get = path.first().map(|path| ("GET", *path));
            let is_probe = config.inbound.is_probe(from.parse().unwrap(), port, get);
            if is_probe { "answered".to_owned() } else { "not a probe".to_owned() }
        }
        ["route", service, "tcp"] => {
            let port = service_port(mesh, service);
            route(port.split_for_connection(), &port)
        }
        ["route", service, method, target, headers @ ..] => {
            let port = service_port(mesh, service);
            with_request(method, target, headers, |request| route(port.split_for_request(request), &port))
        }
        ["inbound", pod] => {
            mesh.proxy_config(&pod_name(pod)).map_or("no proxy".into(), |config| inbound(&config.inbound))
        }
        ["settings", pod] => mesh.proxy_config(&pod_name(pod)).map_or("no proxy".into(), |config| settings(&config)),
        ["service", name] => {
            mesh.services().get(&service_name(name)).map_or("no service".into(), |found| service(found))
        }
        ["pods"] => any_config(mesh).pods.values().map(|pod| endpoint(pod) + "\n").collect(),
        _ => panic!("not a question: {question}"),
    }
}

fn verdict(verdict: Verdict<'_>, admitted: bool) -> String {
    match verdict {
        Verdict::Allowed(origin) => format!("allowed by {origin}"),
        Verdict::Denied(denied) => {
            let outcome = if admitted { "admitted, though" } else { "denied:" };
            let nearest = denied.nearest.map(|origin| format!(", nearest {origin}")).unwrap_or_default();
            format!("{outcome} {}{nearest}", denied.reason)
        }
    }
}

fn route(split: Option<&Split>, port: &ServicePort) -> String {
    let Some(split) = split else { return format!("to {}", endpoints(&port.endpoints)) };
    let backends: Vec<String> =
        split.backends.iter().map(|backend| format!("{}*{}", backend.service, backend.weight)).collect();
    let pick = match split.pick(0, |_| true) {
        Pick::Backend(_) => "",
        Pick::AllZero => " (all zero)",
        Pick::NoneReady => " (none ready)",
    };
    format!("split {}: {}{pick}", split.origin.name, backends.join(" "))
}

fn inbound(inbound: &Inbound) -> String {
    let mut text = format!("{:?}\n", inbound.mode).to_lowercase();
    for port in &inbound.ports {
        writeln!(text, "port {} {:?}", port.port, port.protocol).unwrap();
    }
    for probe in &inbound.probes {
        writeln!(text, "probe {} {}", probe.port, probe.path.as_deref().unwrap_or("tcp")).unwrap();
    }
    inbound.authorizations.iter().for_each(|one| text += &authorization(one));
    text
}

fn authorization(one: &Authorization) -> String {
    let mut text = format!("{}\n", one.origin);
    for source in &one.sources {
        write!(text, "  from {}", source.identity).unwrap();
        if let Some(pods) = &source.pods {
            let pods: Vec<String> = pods.iter().map(PodName::to_string).collect();
            write!(text, " in {}", pods.join(" ")).unwrap();
        }
        text.push('\n');
    }
    for (layer, ports) in [("tcp", &one.tcp), ("udp", &one.udp)] {
        match ports {
            Some(Ports::All) => writeln!(text, "  {layer} all").unwrap(),
            Some(Ports::Only(ports)) => writeln!(text, "  {layer} {ports:?}").unwrap(),
            None => {}
        }
    }
    for rule in one.http.iter().flatten() {
        writeln!(text, "  http {}", http_match(rule)).unwrap();
    }
    if one.http.as_ref().is_some_and(Vec::is_empty) {
        text += "  http nothing\n";
    }
    text
}

fn http_match(rule: &HttpMatch) -> String {
    let methods = if rule.methods.is_empty() { "*".to_owned() } else { rule.methods.join("|") };
    let mut text = format!("{methods} {}", rule.path.as_ref().map_or("*", |path| path.as_str()));
    for header in &rule.headers {
        write!(text, " {}={}", header.name, header.value.as_str()).unwrap();
    }
    text
}

fn service(service: &Service) -> String {
    let mut text = String::new();
    for port in &service.ports {
        writeln!(text, "{} {:?} to {}", port.port, port.protocol, endpoints(&port.endpoints)).unwrap();
        for split in &port.splits {
            writeln!(text, "  {}", route(Some(split), port)).unwrap();
        }
    }
    text
}

fn settings(config: &ProxyConfig) -> String {
    let settings = config.settings.as_ref().unwrap();
    let mut text = format!("{} of {}", settings.identity, settings.workload.as_deref().unwrap_or("nothing"));
    if settings.access_log != AccessLog::Off {
        write!(text, ", access log {:?}", settings.access_log).unwrap();
    }
    if let Some(Tracing { endpoint, protocol, samples_per_million, .. }) = &settings.tracing {
        write!(text, ", {samples_per_million} of a million traces to {endpoint} by {protocol:?}").unwrap();
    }
    text
}

fn endpoints(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "nowhere".to_owned();
    }
    endpoints.iter().map(endpoint).collect::<Vec<_>>().join(", ")
}

fn endpoint(endpoint: &Endpoint) -> String {
    let plaintext = if endpoint.identity.is_none() { " in plaintext" } else { "" };
    format!("{} {}{plaintext}", endpoint.pod, endpoint.address)
}

fn with_request<T>(
    method: &str,
    target: &str,
    headers: &[&str],
    then: impl FnOnce(&Request<'_, [(&str, &str)]>) -> T,
) -> T {
    let headers: Vec<(&str, &str)> = headers.iter().map(|header| header.split_once('=').unwrap()).collect();
    let authority = headers.value("host").map(|host| String::from_utf8(host.into_owned()).unwrap()).unwrap_or_default();
    let path = normalize_path(target).unwrap();
    then(&Request { method, path: &path, authority: &authority, headers: headers.as_slice() })
}

fn peer(mesh: &Mesh, client: &str) -> Peer {
    if client == "plaintext" {
        return Peer::default();
    }
    let settings = mesh.proxy_config(&pod_name(client)).unwrap().settings.unwrap();
    Peer { identity: Some(settings.identity.clone()), pod: Some(settings.pod.clone()) }
}

fn config_and_port(mesh: &Mesh, server: &str) -> (ProxyConfig, u16) {
    let (pod, port) = server.split_once(':').unwrap();
    (mesh.proxy_config(&pod_name(pod)).unwrap(), port.parse().unwrap())
}

fn service_port(mesh: &Mesh, address: &str) -> ServicePort {
    let (name, port) = address.split_once(':').unwrap();
    let service = &mesh.services()[&service_name(name)];
    service.ports.iter().find(|own| own.port.to_string() == port).unwrap().clone()
}

fn any_config(mesh: &Mesh) -> ProxyConfig {
    mesh.pods().next().and_then(|pod| mesh.proxy_config(pod)).unwrap()
}

fn pod_name(text: &str) -> PodName {
    text.to_owned().try_into().unwrap()
}

fn service_name(text: &str) -> ServiceName {
    text.to_owned().try_into().unwrap()
}
