//! The table of metrics: `/metrics`, its help texts and `docs/METRICS.md` come from it.

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its whole name: prefix `auditsync_`, then after Prometheus's conventions (`prometheus.io/docs/practices/naming`).
    pub name: &'static str,
    /// What kind of thing it is.
    pub kind: Kind,
    /// What it counts in.
    pub unit: &'static str,
    /// What it is told apart by.
    pub labels: &'static [Label],
    /// What it says, for an operator: a sentence or two.
    pub help: &'static str,
}

/// What kind of thing a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Goes up only; there from the start.
    Counter,
    /// Goes up and down. One that is not `from_start` is absent until the value is known.
    Gauge {
        /// Whether it is there from the start.
        from_start: bool,
    },
    /// Observations, counted up to each of these bounds.
    Histogram {
        /// Upper bounds, in the metric's unit.
        buckets: &'static [f64],
    },
}

impl Kind {
    /// The word for it in a scrape.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge { .. } => "gauge",
            Self::Histogram { .. } => "histogram",
        }
    }
}

/// A label and every value that it can have.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All its values.
    pub values: &'static [&'static str],
}

pub(super) const READ: &str = "auditsync_events_read_total";
pub(super) const ALREADY_DELIVERED: &str = "auditsync_events_already_delivered_total";
pub(super) const DELIVERED: &str = "auditsync_events_delivered_total";
pub(super) const RESTAMPED: &str = "auditsync_events_restamped_total";
pub(super) const TRUNCATED: &str = "auditsync_events_truncated_total";
pub(super) const REJECTED: &str = "auditsync_events_rejected_total";
pub(super) const POSSIBLY_DUPLICATED: &str = "auditsync_events_possibly_duplicated_total";
pub(super) const BODY_BYTES: &str = "auditsync_request_body_uncompressed_bytes_total";
pub(super) const SENT_BYTES: &str = "auditsync_request_body_sent_bytes_total";
pub(super) const REQUESTS: &str = "auditsync_requests_total";
pub(super) const REQUEST_DURATION: &str = "auditsync_request_duration_seconds";
pub(super) const RETRIES: &str = "auditsync_retries_total";
pub(super) const CYCLE_DURATION: &str = "auditsync_cycle_duration_seconds";
pub(super) const SAVES: &str = "auditsync_state_saves_total";
pub(super) const POSITION: &str = "auditsync_position_timestamp_seconds";
pub(super) const NEWEST_EVENT: &str = "auditsync_newest_event_timestamp_seconds";
pub(super) const LAST_COMMIT: &str = "auditsync_last_commit_timestamp_seconds";
pub(super) const LEASE_HELD: &str = "auditsync_lease_held";
pub(super) const READY: &str = "auditsync_ready";
pub(super) const BUILD_INFO: &str = "auditsync_build_info";

const SERVER: Label = Label { name: "side", values: &["source", "token", "destination"] };
const STATUS: Label = Label { name: "status", values: &["2xx", "3xx", "4xx", "5xx", "other", "none"] };
const SIDE: Label = Label { name: "side", values: &["source", "destination", "store"] };
const REASON: Label = Label {
    name: "reason",
    values: &["unavailable", "token_refused", "credentials_refused", "refused", "unreadable", "stalled"],
};
const CYCLE: Label = Label { name: "result", values: &["complete", "incomplete"] };
const SAVE: Label = Label { name: "result", values: &["saved", "conflict", "failed"] };
const VERSION: Label = Label { name: "version", values: &[env!("CARGO_PKG_VERSION")] };

const AT_ONCE: Kind = Kind::Gauge { from_start: true };
const ONCE_KNOWN: Kind = Kind::Gauge { from_start: false };

/// From a local relay's answer to the longest `SECTIGO_AUDIT_HTTP_TIMEOUT`.
const REQUEST: Kind =
    Kind::Histogram { buckets: &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0] };

/// From a cycle that finds nothing to the draining of a long backlog.
const WORK: Kind = Kind::Histogram { buckets: &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0] };

const fn row(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [Label],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help }
}

/// Every metric there is.
pub const METRICS: &[Metric] = &[
    row(READ, Kind::Counter, "events", &[], "Events read from the source, those that were already delivered included."),
    row(
        ALREADY_DELIVERED,
        Kind::Counter,
        "events",
        &[],
        "Events read once more in SECTIGO_AUDIT_SYNC_OVERLAP and dropped, because they were delivered before.",
    ),
    row(
        DELIVERED,
        Kind::Counter,
        "events",
        &[],
        "Events that the destination accepted with a 2xx answer. One that is sent again after a lost answer counts once, when it is answered.",
    ),
    row(
        RESTAMPED,
        Kind::Counter,
        "events",
        &[],
        "Delivered events that carry the time of sending, because their own is outside what the destination takes.",
    ),
    row(
        TRUNCATED,
        Kind::Counter,
        "events",
        &[],
        "Delivered events of which the destination has the beginning; the whole record is in the rejected file.",
    ),
    row(
        REJECTED,
        Kind::Counter,
        "events",
        &[],
        "Events that the destination refuses by themselves; they are in the rejected file, or in the log.",
    ),
    row(
        POSSIBLY_DUPLICATED,
        Kind::Counter,
        "events",
        &[],
        "Events that are sent again and may have been accepted before: by a request without an answer, or by a run that was cut off.",
    ),
    row(
        BODY_BYTES,
        Kind::Counter,
        "bytes",
        &[],
        "Size of the request bodies for the destination before compression, repeats included.",
    ),
    row(
        SENT_BYTES,
        Kind::Counter,
        "bytes",
        &[],
        "Size of the request bodies for the destination as sent, repeats included.",
    ),
    row(
        REQUESTS,
        Kind::Counter,
        "requests",
        &[SERVER, STATUS],
        "HTTP requests by the class of their answer's status; none where there was no whole answer.",
    ),
    row(
        REQUEST_DURATION,
        REQUEST,
        "seconds",
        &[SERVER],
        "Time from a request to the end of its answer, or of the wait for it.",
    ),
    row(
        RETRIES,
        Kind::Counter,
        "calls",
        &[SIDE, REASON],
        "Calls that failed and were to be made again, by what the failure meant.",
    ),
    row(CYCLE_DURATION, WORK, "seconds", &[CYCLE], "Time that a synchronisation took, without the rest between two."),
    row(
        SAVES,
        Kind::Counter,
        "saves",
        &[SAVE],
        "Attempts to save the state. A conflict means that another writer was there before.",
    ),
    row(
        POSITION,
        ONCE_KNOWN,
        "seconds since 1970",
        &[],
        "Everything that happened up to this time is delivered and committed. Absent until the state was read.",
    ),
    row(
        NEWEST_EVENT,
        ONCE_KNOWN,
        "seconds since 1970",
        &[],
        "Time of the newest event that this process delivered. Absent before the first; stands still while nothing happens at the source.",
    ),
    row(
        LAST_COMMIT,
        ONCE_KNOWN,
        "seconds since 1970",
        &[],
        "When this process last saved the state. Absent before the first time.",
    ),
    row(
        LEASE_HELD,
        AT_ONCE,
        "0 or 1",
        &[],
        "1 while this instance works on the state, by its lease or its lock; 0 while it does not.",
    ),
    row(READY, AT_ONCE, "0 or 1", &[], "1 if /readyz answers 200 at the moment of the scrape."),
    row(BUILD_INFO, AT_ONCE, "always 1", &[VERSION], "The version of auditsync."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_twice_in_the_table() {
        for (index, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[..index].iter().all(|before| before.name != metric.name), "{}", metric.name);
        }
    }

    #[test]
    fn names_follow_prometheus_conventions() {
        for Metric { name, kind, unit, .. } in METRICS {
            assert!(name.starts_with("auditsync_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(*unit == "bytes", name.contains("_bytes"), "{name}");
            assert_eq!(unit.starts_with("seconds"), name.ends_with("_seconds"), "{name}");
            assert_eq!(unit.ends_with("since 1970"), name.ends_with("_timestamp_seconds"), "{name}");
        }
    }

    #[test]
    fn every_help_is_a_sentence_for_a_table_cell() {
        for Metric { name, help, .. } in METRICS {
            assert!(help.ends_with('.') && help.len() <= 160 && !help.contains(['|', '\n', '\\']), "{name}: {help}");
        }
    }

    #[test]
    fn buckets_go_up_and_series_are_few() {
        let mut series = 0;
        for Metric { name, kind, labels, .. } in METRICS {
            let combinations: usize = labels.iter().map(|label| label.values.len()).product();
            series += combinations;
            if let Kind::Histogram { buckets } = kind {
                assert!(buckets.is_sorted_by(|less, more| less < more), "{name}");
                series += combinations * (buckets.len() + 2);
            }
        }
        assert!(series < 200, "{series}");
    }
}
