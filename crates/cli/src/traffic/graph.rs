//! Who talks to whom, as a graph; drawn for terminals, Graphviz and Mermaid.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use heddle_smi::metrics::{Direction, ObjectReference, Side, TrafficMetrics};
use serde::Serialize;

use crate::text::{millis, percent, rate, table};
use crate::{Figures, Kind};

/// The links between resources, by their ends.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Graph {
    pub links: Vec<Link>,
}

/// The traffic that one end sends to another.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    pub from: String,
    pub to: String,
    pub requests_per_second: f64,
    #[serde(flatten)]
    pub figures: Figures,
}

impl Graph {
    /// From edges; names of this kind are written without it. Where both ends have measured a link, the server's word
    /// counts: it is there for every client. A split is as many ends as it has backends.
    pub fn of(edges: &[TrafficMetrics], kind: Option<Kind>) -> Self {
        let mut links: BTreeMap<(String, String), (Side, Figures)> = BTreeMap::new();
        for edge in edges.iter().filter(|edge| !Figures::of(edge).is_idle()) {
            let own = node(&edge.resource, kind);
            let own = edge.backend.as_ref().map_or(own.clone(), |backend| format!("{own} to {}", backend.name));
            let other = node(&edge.edge.resource, kind);
            let ends = match edge.edge.direction {
                Direction::To => (own, other),
                Direction::From => (other, own),
            };
            let side = edge.edge.side;
            if links.get(&ends).is_none_or(|(known, _)| *known == Side::Client && side == Side::Server) {
                links.insert(ends, (side, Figures::of(edge)));
            }
        }
        let link = |((from, to), (_, figures)): ((String, String), (Side, Figures))| Link {
            requests_per_second: figures.rate(figures.total()),
            from,
            to,
            figures,
        };
        Self { links: links.into_iter().map(link).collect() }
    }

    /// A tree for terminals: every end that nobody calls, and below it whom it calls. What stands elsewhere already is
    /// not drawn again.
    pub fn text(&self) -> String {
        let mut rows = Vec::new();
        let mut drawn = BTreeSet::new();
        let callees: BTreeSet<&str> = self.links.iter().map(|link| link.to.as_str()).collect();
        let callers: BTreeSet<&str> = self.links.iter().map(|link| link.from.as_str()).collect();
        let roots = callers.iter().filter(|caller| !callees.contains(*caller));
        // Those that call each other in a circle have no first.
        for root in roots.chain(&callers) {
            if drawn.contains(root) {
                continue;
            }
            let mut row: [String; 7] = Default::default();
            row[0] = (*root).to_owned();
            rows.push(row);
            self.draw_below(root, "", &mut drawn, &mut rows);
        }
        table(["", "RPS", "SUCCESS", "DENIED/S", "P50", "P99", ""], &rows)
    }

    fn draw_below<'a>(
        &'a self,
        from: &'a str,
        indent: &str,
        drawn: &mut BTreeSet<&'a str>,
        rows: &mut Vec<[String; 7]>,
    ) {
        drawn.insert(from);
        let links: Vec<&Link> = self.links.iter().filter(|link| link.from == from).collect();
        for (number, link) in links.iter().enumerate() {
            let is_last = number + 1 == links.len();
            let (branch, below) = if is_last { ("└─▶ ", "    ") } else { ("├─▶ ", "│   ") };
            let is_known = drawn.contains(link.to.as_str());
            let has_more = self.links.iter().any(|other| other.from == link.to);
            let again = if is_known && has_more { " (above)" } else { "" };
            let figures = &link.figures;
            rows.push([
                format!("{indent}{branch}{}{again}", link.to),
                rate(link.requests_per_second),
                percent(figures.success_share()),
                rate(figures.rate(figures.denied)),
                millis(figures.p50),
                millis(figures.p99),
                figures.open_text(),
            ]);
            if !is_known {
                self.draw_below(&link.to, &format!("{indent}{below}"), drawn, rows);
            }
        }
    }

    /// For Graphviz.
    pub fn dot(&self) -> String {
        let mut text = "digraph traffic {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
        for link in &self.links {
            let _ = writeln!(text, "  {:?} -> {:?} [label={:?}];", link.from, link.to, link.label());
        }
        text.push_str("}\n");
        text
    }

    /// For Mermaid, as Markdown renderers know it.
    pub fn mermaid(&self) -> String {
        let ends = self.links.iter().flat_map(|link| [link.from.as_str(), link.to.as_str()]);
        let numbers: BTreeMap<&str, usize> =
            ends.collect::<BTreeSet<&str>>().into_iter().enumerate().map(|(number, end)| (end, number)).collect();
        let mut text = "flowchart LR\n".to_owned();
        for (end, number) in &numbers {
            let _ = writeln!(text, "  n{number}[\"{end}\"]");
        }
        for link in &self.links {
            let (from, to) = (numbers[link.from.as_str()], numbers[link.to.as_str()]);
            let _ = writeln!(text, "  n{from} -->|\"{}\"| n{to}", link.label());
        }
        text
    }
}

impl Link {
    fn label(&self) -> String {
        let figures = &self.figures;
        let mut label = format!("{} rps, {} success", rate(self.requests_per_second), percent(figures.success_share()));
        if figures.denied > 0.0 {
            let _ = write!(label, ", {} denied/s", rate(figures.rate(figures.denied)));
        }
        if figures.p99.is_some() {
            let _ = write!(label, ", p99 {}", millis(figures.p99));
        }
        if figures.open > 0.0 {
            let _ = write!(label, ", {}", figures.open_text());
        }
        label
    }
}

/// How an end is called: with its kind where that is not the one the graph is of.
fn node(reference: &ObjectReference, kind: Option<Kind>) -> String {
    let own = reference.kind.as_deref().unwrap_or("anybody");
    let name = reference.namespace.iter().chain(&reference.name).map(String::as_str).collect::<Vec<_>>().join("/");
    match kind {
        _ if name.is_empty() => format!("({})", own.to_lowercase()),
        Some(kind) if kind.name != own => format!("{name} ({own})"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use heddle_smi::metrics::{BackendReference, Edge, Metric, OPEN_CONNECTION_COUNT, SUCCESS_COUNT};

    use super::*;

    fn reference(kind: &str, name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some(kind.to_owned()),
            namespace: (kind != "Outside").then(|| "shop".to_owned()),
            name: (kind != "Outside").then(|| name.to_owned()),
            ..ObjectReference::default()
        }
    }

    fn edge(own: &str, direction: Direction, kind: &str, other: &str, success: f64) -> TrafficMetrics {
        let side = if direction == Direction::To { Side::Client } else { Side::Server };
        TrafficMetrics {
            window: "10s".to_owned(),
            resource: reference("Deployment", own),
            edge: Edge { direction, side, resource: reference(kind, other) },
            metrics: vec![Metric::count(SUCCESS_COUNT, success)],
            ..TrafficMetrics::default()
        }
    }

    /// With so many open connections.
    fn open(mut edge: TrafficMetrics, count: f64) -> TrafficMetrics {
        edge.metrics.push(Metric::count(OPEN_CONNECTION_COUNT, count));
        edge
    }

    fn shop() -> Graph {
        use Direction::{From, To};
        let edges = [
            edge("buyer", To, "Deployment", "web", 99.0),
            edge("web", From, "Deployment", "buyer", 100.0),
            open(edge("web", To, "StatefulSet", "db", 50.0), 2.0),
            edge("api", From, "Deployment", "buyer", 10.0),
            edge("api", To, "Deployment", "web", 10.0),
            edge("web", From, "Outside", "", 1.0),
        ];
        Graph::of(&edges, "deployments".parse().ok())
    }

    #[test]
    fn a_link_that_both_ends_measured_is_there_once_by_the_servers_word() {
        let links = shop().links;
        let link = links.iter().filter(|link| (link.from.as_str(), link.to.as_str()) == ("shop/buyer", "shop/web"));
        assert_eq!(link.map(|link| link.figures.success).collect::<Vec<_>>(), [100.0]);
        assert_eq!(links.len(), 5);
    }

    #[test]
    fn m12_a_terminal_shows_a_tree() {
        let expected = [
            "                               RPS   SUCCESS  DENIED/S  P50  P99",
            "(outside)",
            "└─▶ shop/web                   0.1   100.0%   -         -    -",
            "    └─▶ shop/db (StatefulSet)  5.0   100.0%   -         -    -    2 open",
            "shop/buyer",
            "├─▶ shop/api                   1.0   100.0%   -         -    -",
            "│   └─▶ shop/web (above)       1.0   100.0%   -         -    -",
            "└─▶ shop/web (above)           10.0  100.0%   -         -    -",
        ];
        assert_eq!(shop().text().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_connection_that_has_not_ended_is_a_link() {
        let edges = [open(edge("api", Direction::To, "StatefulSet", "db", 0.0), 3.0)];
        let graph = Graph::of(&edges, "deployments".parse().ok());
        assert!(graph.text().ends_with("-         -    -    3 open\n"), "{}", graph.text());
        assert!(graph.dot().contains("- rps, - success, 3 open"), "{}", graph.dot());
    }

    #[test]
    fn a_split_is_an_end_for_each_backend_and_an_edge_without_traffic_is_no_link() {
        let to = |name: &str, success: f64| {
            let backend = BackendReference { apex: "web".to_owned(), name: name.to_owned(), weight: 50 };
            let edge = edge("web", Direction::From, "Deployment", "buyer", success);
            TrafficMetrics { resource: reference("TrafficSplit", "web"), backend: Some(backend), ..edge }
        };
        let graph = Graph::of(&[to("web-v1", 5.0), to("web-v2", 1.0), to("web-v3", 0.0)], None);
        let ends: Vec<_> = graph.links.iter().map(|link| (&*link.from, &*link.to)).collect();
        assert_eq!(ends, [("shop/buyer", "shop/web to web-v1"), ("shop/buyer", "shop/web to web-v2")]);
    }

    #[test]
    fn those_who_call_each_other_are_drawn_once() {
        let edges =
            [edge("a", Direction::To, "Deployment", "b", 1.0), edge("b", Direction::To, "Deployment", "a", 1.0)];
        let text = Graph::of(&edges, "deployments".parse().ok()).text();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("    └─▶ shop/a (above)"), "{text}");
    }

    #[test]
    fn graphviz_and_mermaid_get_a_line_for_each_link() {
        let graph = shop();
        assert!(graph.dot().contains(r#""shop/buyer" -> "shop/web" [label="10.0 rps, 100.0% success"];"#));
        let mermaid = graph.mermaid();
        assert_eq!(mermaid.lines().filter(|line| line.contains("-->")).count(), 5, "{mermaid}");
        assert!(mermaid.contains("n0[\"(outside)\"]"), "{mermaid}");
    }
}
