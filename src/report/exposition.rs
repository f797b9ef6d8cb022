//! Metrics in Prometheus's text format, and the page that lists them.

use std::fmt::Write;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::sources::Facts;
use super::table::{Kind, METRICS};

static METADATA: Metadata<'static> = Metadata::new("keyway", Level::INFO, None);

/// All metrics with their values. They are set in a recorder of its own each time: series of nodes that are gone do not live on.
pub fn exposition(facts: &Facts) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => recorder.describe_counter(metric.name.into(), None, metric.help.into()),
            Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, metric.help.into()),
        }
        (metric.read)(facts, &mut |values, value| {
            let labels: Vec<Label> =
                metric.labels.iter().zip(values).map(|(label, value)| Label::new(*label, (*value).to_owned())).collect();
            let key = Key::from_parts(metric.name, labels);
            match metric.kind {
                Kind::Counter => recorder.register_counter(&key, &METADATA).absolute(value as u64),
                Kind::Gauge => recorder.register_gauge(&key, &METADATA).set(value),
            }
        });
    }
    recorder.handle().render()
}

/// `deploy/metrics.md`.
pub fn reference() -> String {
    let mut page = String::from(
        "# Metrics\n\n`http.listen` serves these at `/metrics` in Prometheus's text format. Labels take their values from fixed lists or from the\n\
         cluster's nodes. What the nodes say (`redis_…`, `keyway_node_answers`) and the plan's state are asked for every 15 seconds, however\n\
         often somebody scrapes; counts of the workers are a second old at most. This page is made from the table in `src/report/table.rs`.\n\n\
         | name | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n",
    );
    for metric in METRICS {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{}` | {} | {} | {labels} | {} |", metric.name, metric.kind.word(), metric.unit, metric.help);
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_of_metrics_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/metrics.md");
        if std::env::var_os("TEST_WRITE_METRICS_MD").is_some() {
            std::fs::write(path, reference()).expect("deploy/metrics.md can be written");
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == reference(), "deploy/metrics.md is not what the table says: run this test with TEST_WRITE_METRICS_MD=1");
    }

    /// Prometheus's own rules for names (promtool check metrics).
    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut names = BTreeSet::new();
        for metric in METRICS {
            assert!(names.insert(metric.name), "{} stands twice", metric.name);
            assert!(metric.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(!metric.help.is_empty() && !metric.unit.is_empty(), "{}", metric.name);
        }
    }
}
