//! Renders the table as a document.

use std::fmt::Write as _;

use super::table::{Kind, METRICS};

const HEAD: &str = "\
# Metrics

This page answers: which metrics does `/metrics` show, and which of them do I watch?

Set `AUDITSYNC_HTTP_LISTEN`, and the daemon answers `/metrics` in Prometheus's text format. `deploy/prometheus/` has a scrape configuration and alert
rules.

| question | expression |
|---|---|
| How far behind is the delivery? | `time() - max by (job, pipeline) (auditsync_cursor_timestamp_seconds)` |
| How old is the newest event that was delivered? | `time() - max by (job, pipeline) (auditsync_newest_event_timestamp_seconds)` |
| How long ago was the last commit? | `time() - max by (job, pipeline) (auditsync_last_commit_timestamp_seconds)` |

Watch the first one: it is the lag. It is never less than the delay of the source, and grows by `AUDITSYNC_SYNC_INTERVAL` between two syncs. The age
of the newest event also grows while nothing happens at the source. `max by (job, pipeline)` selects the active instance. A standby shows no time, or
the time at which it was active last.

Every metric except `auditsync_build_info` has the label `pipeline`, the pipeline's name. The requests of notices count with `pipeline=\"notices\"`.
Counters begin at 0 when the process starts: use `rate()` and `increase()`.

";

/// Renders `docs/METRICS.md`.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("| metric | type | unit | labels | what it shows |\n|---|---|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<_> = metric
            .labels
            .iter()
            .map(|label| match label.values {
                [_] => format!("`{}`", label.name),
                values => format!("`{}`: {}", label.name, values.join(", ")),
            })
            .collect();
        let (name, kind, unit, labels, help) =
            (metric.name, metric.kind.name(), metric.unit, labels.join("; "), metric.help);
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {labels} | {help} |");
    }
    text.push_str("\nBuckets, in seconds:\n\n");
    for metric in METRICS {
        if let Kind::Histogram { buckets } = metric.kind {
            let bounds: Vec<_> = buckets.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "- `{}`: {}", metric.name, bounds.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_alert_rules_ask_for_metrics_that_there_are() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/rules.yaml");
        let rules = fs::read_to_string(path).unwrap();
        let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let asked: Vec<_> = words.filter(|word| word.starts_with("auditsync_")).collect();
        assert!(asked.len() >= 4, "{asked:?}");
        for name in asked {
            assert!(METRICS.iter().any(|metric| metric.name == name), "{name}");
        }
    }

    #[test]
    fn the_document_shows_this_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, document()).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == document(),
            "docs/METRICS.md is not what the table says: run `UPDATE=1 cargo test --lib metrics` to write it again"
        );
    }
}
