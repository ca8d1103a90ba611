//! The two text formats that scrapers ask for.

use std::borrow::Cow;

/// The format of OpenMetrics 1.0, or the older one of Prometheus that tools such as `promtool check metrics` read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// By the request's `Accept` header.
    pub(crate) fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// In this format, what is given in that of OpenMetrics.
    pub(super) fn of_open_metrics(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Prometheus => to_prometheus(&text),
        }
    }
}

/// The formats differ in their comments: the older one knows neither units nor an end, and names a counter, and the
/// gauge that stands for an info, as their samples are named.
fn to_prometheus(text: &str) -> String {
    let mut suffixes = std::collections::HashMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        match line.split_once(' ') {
            Some((name, "counter")) => suffixes.insert(name, "_total"),
            Some((name, "info")) => suffixes.insert(name, "_info"),
            _ => None,
        };
    }
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let line = match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", word, name, ref rest @ ..] => {
                let suffix = suffixes.get(name).copied().unwrap_or_default();
                let rest = rest.join(" ");
                let rest = if (word, &*rest) == ("TYPE", "info") { "gauge" } else { &*rest };
                Cow::Owned(format!("# {word} {name}{suffix} {rest}"))
            }
            _ => Cow::Borrowed(line),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_and_infos_as_their_samples() {
        let open = "# HELP a_bytes Some bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"# TYPE\"} 1\n\
                    # HELP b A version.\n# TYPE b info\nb_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 1\n# EOF\n";
        let text = "# HELP a_bytes_total Some bytes.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"# TYPE\"} 1\n\
                    # HELP b_info A version.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 1\n";
        assert_eq!(Format::Prometheus.of_open_metrics(open.to_owned()), text);
        assert_eq!(Format::OpenMetrics.of_open_metrics(open.to_owned()), open);
    }

    #[test]
    fn prometheus_itself_asks_for_openmetrics() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("*/*")), Format::Prometheus);
        assert_eq!(Format::accepted(None), Format::Prometheus);
    }
}
