//! `split`: how traffic splits go.

use std::collections::BTreeMap;

use heddle_smi::metrics::TrafficMetrics;
use serde::Serialize;

use crate::commands::{Format, View};
use crate::text::{millis, percent, rate, table};
use crate::{Figures, Source, SourceError};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    view: View,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One backend of a split.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SplitRow {
    pub namespace: String,
    pub name: String,
    /// The root Service.
    pub root: String,
    pub backend: String,
    /// The weight asked for.
    pub weight: u64,
    /// What that is of the split's weights; absent when they are all zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<f64>,
    /// The share that it got; absent when there was no traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<f64>,
    #[serde(flatten)]
    pub figures: Figures,
}

pub(crate) async fn run(args: Args, source: &Source) -> anyhow::Result<()> {
    let draw = async || {
        let rows = splits(source, args.view.namespace(source), &args.view.window).await?;
        Ok(match args.output {
            Format::Json => serde_json::to_string_pretty(&rows)? + "\n",
            Format::Text if rows.is_empty() => "there are no traffic splits\n".to_owned(),
            Format::Text => text(&rows),
        })
    };
    args.view.show(draw).await
}

/// The backends of every split in one namespace, or in all, split by split.
///
/// # Errors
///
/// The API does not answer, or refuses.
pub async fn splits(source: &Source, namespace: Option<&str>, window: &str) -> Result<Vec<SplitRow>, SourceError> {
    let kind = crate::Kind { plural: "trafficsplits", name: "TrafficSplit", is_namespaced: true };
    let items = source.list(kind, namespace, &format!("t={window}")).await?;
    Ok(rows(&items))
}

fn rows(items: &[TrafficMetrics]) -> Vec<SplitRow> {
    let key = |item: &TrafficMetrics| (item.resource.namespace.clone(), item.resource.name.clone());
    // By split: its weights, and its requests.
    let mut sums: BTreeMap<_, (u64, f64)> = BTreeMap::new();
    for item in items {
        let sum = sums.entry(key(item)).or_default();
        sum.0 = sum.0.saturating_add(item.backend.as_ref().map_or(0, |backend| backend.weight));
        sum.1 += Figures::of(item).total();
    }
    let row = |item: &TrafficMetrics| {
        let backend = item.backend.clone()?;
        let figures = Figures::of(item);
        let (weights, total) = sums.get(&key(item)).copied().unwrap_or_default();
        Some(SplitRow {
            namespace: item.resource.namespace.clone().unwrap_or_default(),
            name: item.resource.name.clone().unwrap_or_default(),
            root: backend.apex,
            backend: backend.name,
            weight: backend.weight,
            asked: (weights > 0).then(|| backend.weight as f64 / weights as f64),
            seen: (total > 0.0).then(|| figures.total() / total),
            figures,
        })
    };
    items.iter().filter_map(row).collect()
}

fn text(rows: &[SplitRow]) -> String {
    let mut last = None;
    let cells = rows.iter().map(|row| {
        let is_first = last.replace((&row.namespace, &row.name)) != Some((&row.namespace, &row.name));
        let once = |text: String| if is_first { text } else { String::new() };
        [
            once(format!("{}/{}", row.namespace, row.name)),
            once(row.root.clone()),
            row.backend.clone(),
            row.weight.to_string(),
            percent(row.asked),
            percent(row.seen),
            rate(row.figures.rate(row.figures.total())),
            percent(row.figures.success_share()),
            millis(row.figures.p50),
            millis(row.figures.p99),
        ]
    });
    let cells: Vec<_> = cells.collect();
    table(["SPLIT", "ROOT", "BACKEND", "WEIGHT", "ASKED", "SEEN", "RPS", "SUCCESS", "P50", "P99"], &cells)
}

#[cfg(test)]
mod tests {
    use heddle_smi::metrics::{BackendReference, FAILURE_COUNT, Metric, ObjectReference, SUCCESS_COUNT};

    use super::*;

    fn item(split: &str, backend: &str, weight: u64, success: f64, failure: f64) -> TrafficMetrics {
        TrafficMetrics {
            window: "10s".to_owned(),
            resource: ObjectReference {
                namespace: Some("shop".to_owned()),
                name: Some(split.to_owned()),
                ..ObjectReference::default()
            },
            backend: Some(BackendReference { apex: "web".to_owned(), name: backend.to_owned(), weight }),
            metrics: vec![Metric::count(SUCCESS_COUNT, success), Metric::count(FAILURE_COUNT, failure)],
            ..TrafficMetrics::default()
        }
    }

    #[test]
    fn each_backend_has_the_share_asked_and_the_share_seen() {
        let items = [
            item("web", "web-v1", 90, 60.0, 20.0),
            item("web", "web-v2", 10, 20.0, 0.0),
            item("idle", "api-v1", 0, 0.0, 0.0),
        ];
        let expected = "\
SPLIT      ROOT  BACKEND  WEIGHT  ASKED  SEEN   RPS  SUCCESS  P50  P99
shop/web   web   web-v1   90      90.0%  80.0%  8.0  75.0%    -    -
                 web-v2   10      10.0%  20.0%  2.0  100.0%   -    -
shop/idle  web   api-v1   0       -      -      -    -        -    -
";
        assert_eq!(text(&rows(&items)), expected);
    }
}
