//! The recorder behind the facade, and its text for Prometheus.

use metrics::{SetRecorderError, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::table::{BUILD_INFO, Kind, METRICS, Metric, PIPELINE};
use crate::pipeline_name::PipelineName;

/// Why the recorder cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table has a histogram without buckets.
    #[error("the metrics cannot be set up")]
    Build(#[from] BuildError),
    /// This process already has a recorder.
    #[error("the metrics are already set up")]
    Twice(#[from] SetRecorderError<PrometheusRecorder>),
}

/// The present values of the metrics.
#[derive(Clone)]
pub struct Scrape(PrometheusHandle);

impl Scrape {
    /// Renders the metrics in Prometheus's text format, version 0.0.4.
    pub fn text(&self) -> String {
        self.0.render()
    }

    /// Puts observations into their buckets. Call it now and then, since observations stay in memory until this or a scrape.
    pub fn tidy(&self) {
        self.0.run_upkeep();
    }
}

/// Installs the recorder for the process and its `pipelines`. Nothing is counted before.
pub fn install(pipelines: &[PipelineName]) -> Result<Scrape, Error> {
    let recorder = recorder()?;
    let scrape = Scrape(recorder.handle());
    metrics::set_global_recorder(recorder)?;
    announce(pipelines);
    Ok(scrape)
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let histograms = METRICS.iter().filter_map(|metric| match metric.kind {
        Kind::Histogram { buckets } => Some((metric.name, buckets)),
        Kind::Counter | Kind::Gauge { .. } => None,
    });
    let mut builder = PrometheusBuilder::new();
    for (name, buckets) in histograms {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    Ok(builder.build_recorder())
}

/// Describes every metric, and sets those that begin at zero, since a rate needs a first value and a query needs a series.
fn announce(pipelines: &[PipelineName]) {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge { .. } => describe_gauge!(metric.name, metric.help),
            Kind::Histogram { .. } => describe_histogram!(metric.name, metric.help),
        }
        for labels in combinations(metric, pipelines) {
            match metric.kind {
                Kind::Counter => counter!(metric.name, labels).increment(0),
                Kind::Gauge { from_start: true } => gauge!(metric.name, labels).increment(0.0),
                Kind::Gauge { from_start: false } => {}
                Kind::Histogram { .. } => drop(histogram!(metric.name, labels)),
            }
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Every combination of a pipeline and the values of a metric's labels.
fn combinations(metric: &Metric, pipelines: &[PipelineName]) -> Vec<Vec<metrics::Label>> {
    let of_pipeline = |name: &PipelineName| vec![metrics::Label::new(PIPELINE, name.shared())];
    metric.labels.iter().fold(pipelines.iter().map(of_pipeline).collect(), |begun, label| {
        let with = |before: &Vec<metrics::Label>, value| {
            let mut labels = before.clone();
            labels.push(metrics::Label::from_static_parts(label.name, value));
            labels
        };
        begun.iter().flat_map(|before| label.values.iter().map(move |value| with(before, value))).collect()
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::{Metrics, Saved};
    use super::*;
    use crate::component::Component;
    use crate::failure::Class;

    /// The text of a scrape of two pipelines after `work` on one of them.
    fn scrape_after(work: impl FnOnce(&Metrics)) -> String {
        let recorder = recorder().unwrap();
        let scrape = Scrape(recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            announce(&["a:b".into(), "c:d".into()]);
            work(&Metrics::of(&"a:b".into()));
        });
        scrape.tidy();
        scrape.text()
    }

    #[test]
    fn what_starts_at_zero_is_there_before_anything_happened() {
        let text = scrape_after(|_| ());
        assert!(text.contains("auditsync_events_delivered_total{pipeline=\"c:d\"} 0\n"), "{text}");
        assert!(
            text.contains(
                "auditsync_requests_total{pipeline=\"a:b\",component=\"token_endpoint\",status=\"none\"} 0\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "auditsync_request_duration_seconds_bucket{pipeline=\"a:b\",component=\"source\",le=\"+Inf\"} 0\n"
            ),
            "{text}"
        );
        assert!(!text.contains("timestamp_seconds"), "a time that is not known is absent, not 1970: {text}");
    }

    #[test]
    fn every_method_counts_under_labels_of_the_table() {
        let classes = [
            Class::Retryable { after: None },
            Class::TokenRejected,
            Class::CredentialsRejected,
            Class::Refused,
            Class::Unreadable,
            Class::Stalled,
        ];
        let before = scrape_after(|_| ()).lines().filter(|line| !line.starts_with('#')).count();
        let text = scrape_after(|metrics| {
            for server in [Component::Source, Component::TokenEndpoint, Component::Destination] {
                for status in [199, 200, 301, 404, 503, 600] {
                    metrics.exchange(server).answered(status);
                }
                let mut broken = metrics.exchange(server);
                broken.answered(200);
                broken.broke_off();
            }
            for component in [Component::Source, Component::Destination, Component::StateStore] {
                for class in classes {
                    metrics.retried(component, class);
                }
            }
            for saved in [Saved::Saved, Saved::Conflict, Saved::Failed] {
                metrics.state_saved(saved, Timestamp::UNIX_EPOCH);
            }
            for complete in [true, false] {
                metrics.sync_ended(complete, std::time::Duration::from_secs(1));
            }
            metrics.is_active(true);
            metrics.is_ready(true);
        });
        let after = text.lines().filter(|line| !line.starts_with('#')).count();
        // The time of the last save is new. The lines for its type and help do not count.
        assert_eq!(after, before + 2, "a series that the table does not announce:\n{text}");
        assert!(
            !text
                .lines()
                .any(|line| line.starts_with("auditsync_retries_total{pipeline=\"a:b\"") && line.ends_with(" 0")),
            "{text}"
        );
        assert!(
            text.contains("auditsync_requests_total{pipeline=\"a:b\",component=\"source\",status=\"none\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("auditsync_requests_total{pipeline=\"a:b\",component=\"source\",status=\"2xx\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("auditsync_active{pipeline=\"a:b\"} 1\n")
                && text.contains("auditsync_ready{pipeline=\"a:b\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn the_newest_event_does_not_go_back_when_answers_come_in_another_order() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let text = scrape_after(|metrics| {
            metrics.accepted(3, 1, 0, at(2_000_000_000));
            metrics.accepted(2, 0, 1, at(1_900_000_000));
            metrics.accepted(1, 0, 0, None);
        });
        assert!(text.contains("auditsync_newest_event_timestamp_seconds{pipeline=\"a:b\"} 2000000000\n"), "{text}");
        assert!(text.contains("auditsync_events_delivered_total{pipeline=\"a:b\"} 6\n"), "{text}");
    }
}
