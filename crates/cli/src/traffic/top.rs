//! `top`: the figures of every resource of a kind.

use clap::ValueEnum;
use serde::Serialize;

use crate::commands::{Format, View};
use crate::text::{millis, percent, rate, table};
use crate::{Figures, Kind, Source};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind of resources: `pods`, `deploy`, `svc`, ...
    resource: Kind,
    #[command(flatten)]
    view: View,
    /// Show resources with these labels, as kubectl's `-l` does
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,
    /// What comes first: the most requests, the least success, or the highest latency
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Sort {
    Rps,
    Success,
    P99,
}

/// One resource.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    requests_per_second: f64,
    /// Absent without traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    success_share: Option<f64>,
    #[serde(flatten)]
    figures: Figures,
}

pub(crate) async fn run(args: Args, source: &Source) -> anyhow::Result<()> {
    let draw = async || {
        let mut parameters = format!("t={}", args.view.window);
        if let Some(selector) = &args.selector {
            let encoded: String = form_urlencoded::byte_serialize(selector.as_bytes()).collect();
            parameters.push_str(&format!("&labelSelector={encoded}"));
        }
        let items = source.list(args.resource, args.view.namespace(source), &parameters).await?;
        let rows = items.iter().map(|item| {
            let figures = Figures::of(item);
            Row {
                namespace: item.resource.namespace.clone().unwrap_or_default(),
                name: item.resource.name.clone().unwrap_or_default(),
                requests_per_second: figures.rate(figures.total()),
                success_share: figures.success_share(),
                figures,
            }
        });
        let mut rows: Vec<Row> = rows.collect();
        sort(&mut rows, args.sort);
        Ok(match args.output {
            Format::Json => serde_json::to_string_pretty(&rows)? + "\n",
            Format::Text if rows.is_empty() => format!("there are no {}\n", args.resource.plural),
            Format::Text => text(&rows, args.resource.is_namespaced) + &missing(&rows),
        })
    };
    args.view.show(draw).await
}

fn sort(rows: &mut [Row], by: Option<Sort>) {
    let Some(by) = by else { return };
    // What comes first has the smallest key; what has no value comes last.
    let key = |row: &Row| match by {
        Sort::Rps => -row.requests_per_second,
        Sort::Success => row.success_share.unwrap_or(f64::INFINITY),
        Sort::P99 => row.figures.p99.map_or(f64::INFINITY, |p99| -p99),
    };
    rows.sort_by(|a, b| key(a).total_cmp(&key(b)));
}

fn text(rows: &[Row], is_namespaced: bool) -> String {
    let cells = |row: &Row| {
        let Row { figures, .. } = row;
        [
            row.name.clone(),
            percent(row.success_share),
            rate(row.requests_per_second),
            rate(figures.rate(figures.denied)),
            millis(figures.p50),
            millis(figures.p99),
        ]
    };
    let head = ["NAME", "SUCCESS", "RPS", "DENIED/S", "LATENCY_P50", "LATENCY_P99"];
    if !is_namespaced {
        return table(head, &rows.iter().map(cells).collect::<Vec<_>>());
    }
    let rows = rows.iter().map(|row| {
        let [name, success, rps, denied, p50, p99] = cells(row);
        [row.namespace.clone(), name, success, rps, denied, p50, p99]
    });
    let [name, success, rps, denied, p50, p99] = head;
    table(["NAMESPACE", name, success, rps, denied, p50, p99], &rows.collect::<Vec<_>>())
}

/// A line for each resource whose figures lack counts.
fn missing(rows: &[Row]) -> String {
    let lacking = rows.iter().filter(|row| row.figures.lost > 0.0);
    let line = |row: &Row| {
        let place = if row.namespace.is_empty() { String::new() } else { format!("{}/", row.namespace) };
        format!(
            "{place}{}: counts of up to {:.1} s are missing; `heddle status` says why\n",
            row.name, row.figures.lost
        )
    };
    lacking.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, success: f64, failure: f64, p99: Option<f64>) -> Row {
        let figures = Figures { seconds: 10.0, success, failure, p99, ..Figures::default() };
        Row {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            requests_per_second: figures.rate(figures.total()),
            success_share: figures.success_share(),
            figures,
        }
    }

    #[test]
    fn m12_the_worst_or_busiest_comes_first_and_what_has_no_traffic_last() {
        let rows = [row("idle", 0.0, 0.0, None), row("slow", 10.0, 0.0, Some(90.0)), row("bad", 8.0, 4.0, Some(5.0))];
        let sorted = |by| {
            let mut rows = rows.to_vec();
            sort(&mut rows, by);
            rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
        };
        assert_eq!(sorted(None), ["idle", "slow", "bad"]);
        assert_eq!(sorted(Some(Sort::Rps)), ["bad", "slow", "idle"]);
        assert_eq!(sorted(Some(Sort::Success)), ["bad", "slow", "idle"]);
        assert_eq!(sorted(Some(Sort::P99)), ["slow", "bad", "idle"]);
    }

    #[test]
    fn what_is_missing_is_told_below_the_table() {
        let mut rows = [row("web", 27.0, 3.0, None), row("idle", 0.0, 0.0, None)];
        assert_eq!(missing(&rows), "");
        rows[0].figures.lost = 0.7;
        assert_eq!(missing(&rows), "shop/web: counts of up to 0.7 s are missing; `heddle status` says why\n");
    }

    #[test]
    fn m12_a_row_has_success_rate_and_latency() {
        let text = text(&[row("web", 27.0, 3.0, Some(4.06)), row("idle", 0.0, 0.0, None)], true);
        let expected = "\
NAMESPACE  NAME  SUCCESS  RPS  DENIED/S  LATENCY_P50  LATENCY_P99
shop       web   90.0%    3.0  -         -            4.1ms
shop       idle  -        -    -         -            -
";
        assert_eq!(text, expected);
    }
}
