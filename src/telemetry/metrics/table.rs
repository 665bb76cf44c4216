//! The table of metrics, from which `/metrics`, its help texts and `docs/METRICS.md` come.

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The whole name: the prefix `auditsync_`, then by Prometheus's conventions (`prometheus.io/docs/practices/naming`).
    pub name: &'static str,
    /// The type of the metric.
    pub kind: Kind,
    /// The unit of its values.
    pub unit: &'static str,
    /// The labels apart from `pipeline`.
    pub labels: &'static [Label],
    /// One or two sentences for an operator.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only goes up. It is present from the start.
    Counter,
    /// Goes up and down.
    Gauge {
        /// Whether it is present from the start. Otherwise it is absent until its value is known.
        from_start: bool,
    },
    /// Observations, counted up to each of these bounds.
    Histogram {
        /// Upper bounds, in the metric's unit.
        buckets: &'static [f64],
    },
}

impl Kind {
    /// The name of the type in a scrape.
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
    /// The name of the label.
    pub name: &'static str,
    /// Every value of the label.
    pub values: &'static [&'static str],
}

pub(super) const READ: &str = "auditsync_events_read_total";
pub(super) const DEDUPLICATED: &str = "auditsync_events_deduplicated_total";
pub(super) const FILTERED: &str = "auditsync_events_filtered_total";
pub(super) const DELIVERED: &str = "auditsync_events_delivered_total";
pub(super) const RESTAMPED: &str = "auditsync_events_restamped_total";
pub(super) const TRUNCATED: &str = "auditsync_events_truncated_total";
pub(super) const DEAD_LETTERED: &str = "auditsync_events_dead_lettered_total";
pub(super) const POSSIBLY_DUPLICATED: &str = "auditsync_events_possibly_duplicated_total";
pub(super) const BODY_BYTES: &str = "auditsync_request_body_uncompressed_bytes_total";
pub(super) const SENT_BYTES: &str = "auditsync_request_body_sent_bytes_total";
pub(super) const REQUESTS: &str = "auditsync_requests_total";
pub(super) const REQUEST_DURATION: &str = "auditsync_request_duration_seconds";
pub(super) const RETRIES: &str = "auditsync_retries_total";
pub(super) const SYNC_DURATION: &str = "auditsync_sync_duration_seconds";
pub(super) const SAVES: &str = "auditsync_state_saves_total";
pub(super) const CURSOR: &str = "auditsync_cursor_timestamp_seconds";
pub(super) const NEWEST_EVENT: &str = "auditsync_newest_event_timestamp_seconds";
pub(super) const LAST_COMMIT: &str = "auditsync_last_commit_timestamp_seconds";
pub(super) const ACTIVE: &str = "auditsync_active";
pub(super) const FAILURES: &str = "auditsync_pipeline_failures_total";
pub(super) const QUEUE_MESSAGES: &str = "auditsync_queue_messages_total";
pub(super) const SWEPT: &str = "auditsync_files_swept_total";
pub(super) const VERIFIED: &str = "auditsync_files_verified_total";
pub(super) const DIGESTS: &str = "auditsync_digests_total";
pub(super) const READY: &str = "auditsync_ready";
pub(super) const SPOOL_ENTRIES: &str = "auditsync_spool_entries";
pub(super) const SPOOL_BYTES: &str = "auditsync_spool_bytes";
pub(super) const SPOOL_OLDEST: &str = "auditsync_spool_oldest_entry_timestamp_seconds";
pub(super) const SPOOL_DAMAGED: &str = "auditsync_spool_damages_total";
pub(super) const RECEIVED: &str = "auditsync_received_entries_total";
pub(super) const RECEIVED_AGAIN: &str = "auditsync_received_entries_deduplicated_total";
pub(super) const RECEIVED_UNKNOWN: &str = "auditsync_received_events_unknown_total";
pub(super) const RECEIVED_REQUESTS: &str = "auditsync_received_requests_total";
pub(super) const BUILD_INFO: &str = "auditsync_build_info";

/// The label that tells pipelines apart.
pub(super) const PIPELINE: &str = "pipeline";
pub(super) const COMPONENT: &str = "component";
pub(super) const STATUS: &str = "status";
pub(super) const REASON: &str = "reason";
pub(super) const RESULT: &str = "result";

const SERVER: Label = Label { name: COMPONENT, values: &["source", "token_endpoint", "destination"] };
const ANSWER: Label = Label { name: STATUS, values: &["2xx", "3xx", "4xx", "5xx", "other", "none"] };
const CALLED: Label = Label { name: COMPONENT, values: &["source", "destination", "state_store"] };
const MEANING: Label = Label {
    name: REASON,
    values: &["unavailable", "token_rejected", "credentials_rejected", "refused", "unreadable", "stalled"],
};
const SYNC: Label = Label { name: RESULT, values: &["complete", "incomplete"] };
const RECEPTION: Label = Label { name: RESULT, values: &["accepted", "stranger", "refused", "full", "unsafe"] };
const SAVE: Label = Label { name: RESULT, values: &["saved", "conflict", "failed"] };
const MESSAGE: Label = Label { name: RESULT, values: &["deleted", "ignored", "left"] };
const FILE: Label = Label {
    name: RESULT,
    values: &["proven", "content_only", "fetched", "missing", "mismatched", "unreadable", "unlisted"],
};
const DIGEST: Label = Label { name: RESULT, values: &["proven", "untrusted", "broken", "unlinked", "restarted"] };
const VERSION: Label = Label { name: "version", values: &[env!("CARGO_PKG_VERSION")] };

const AT_ONCE: Kind = Kind::Gauge { from_start: true };
const ONCE_KNOWN: Kind = Kind::Gauge { from_start: false };

/// Buckets from a local relay's answer to the longest `AUDITSYNC_HTTP_TIMEOUT`.
const REQUEST: Kind =
    Kind::Histogram { buckets: &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0] };

/// Buckets from a sync that finds nothing to one that drains a long backlog.
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

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    counter_by(&[], name, unit, help)
}

const fn counter_by(labels: &'static [Label], name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    row(name, Kind::Counter, unit, labels, help)
}

/// Every metric there is.
pub const METRICS: &[Metric] = &[
    counter(
        READ,
        "events",
        "Events read from the source, including deduplicated ones and those that a filter leaves out.",
    ),
    counter(
        DEDUPLICATED,
        "events",
        "Events dropped because they were delivered before: they were read again where ranges of the source overlap.",
    ),
    counter(FILTERED, "events", "Events that the configuration leaves out, by their types or by a filter."),
    counter(
        DELIVERED,
        "events",
        "Events that the destination accepted. One that is sent again after a lost answer counts once, when it is answered.",
    ),
    counter(
        RESTAMPED,
        "events",
        "Delivered events that carry the time of sending, because the destination does not take their own.",
    ),
    counter(
        TRUNCATED,
        "events",
        "Delivered events of which the destination has only the beginning. The whole record is a dead letter.",
    ),
    counter(
        DEAD_LETTERED,
        "events",
        "Dead letters: events that the destination refuses by themselves, and records of the source that are missing or unreadable.",
    ),
    counter(
        POSSIBLY_DUPLICATED,
        "events",
        "Events that are sent again and may have been accepted before, by a request without an answer or in a run that was interrupted.",
    ),
    counter(
        BODY_BYTES,
        "bytes",
        "Size of the request bodies for the destination before compression, retries included.",
    ),
    counter(SENT_BYTES, "bytes", "Size of the request bodies for the destination as sent, retries included."),
    counter_by(
        &[SERVER, ANSWER],
        REQUESTS,
        "requests",
        "HTTP requests by the class of their answer's status; none means that there was no whole answer.",
    ),
    row(
        REQUEST_DURATION,
        REQUEST,
        "seconds",
        &[SERVER],
        "Time from a request to the end of its answer, or of the wait for it.",
    ),
    counter_by(
        &[CALLED, MEANING],
        RETRIES,
        "calls",
        "Calls that failed and were retried, by the meaning of the failure.",
    ),
    row(SYNC_DURATION, WORK, "seconds", &[SYNC], "Time that a sync took, without the rest between two syncs."),
    counter_by(
        &[SAVE],
        SAVES,
        "saves",
        "Attempts to save the state. A conflict means that another writer saved first.",
    ),
    row(
        CURSOR,
        ONCE_KNOWN,
        "seconds since 1970",
        &[],
        "Everything up to this time is delivered and committed. Absent until the state is read.",
    ),
    row(
        NEWEST_EVENT,
        ONCE_KNOWN,
        "seconds since 1970",
        &[],
        "Time of the newest event that this process delivered. Absent before the first. It does not change while the source has no events.",
    ),
    row(
        LAST_COMMIT,
        ONCE_KNOWN,
        "seconds since 1970",
        &[],
        "When this process last saved the state. Absent before the first time.",
    ),
    row(
        ACTIVE,
        AT_ONCE,
        "0 or 1",
        &[],
        "1 while this instance is the active one, by its lease or its lock; 0 on standby.",
    ),
    row(READY, AT_ONCE, "0 or 1", &[], "1 if the pipeline is ready at the moment of the scrape."),
    counter_by(
        &[MESSAGE],
        QUEUE_MESSAGES,
        "messages",
        "Messages of the source's queue: deleted, ignored (irrelevant, so also deleted), or left in it because they could not be read.",
    ),
    counter(
        SWEPT,
        "files",
        "Files that a sweep of the bucket delivered because no message of the source's queue had brought them.",
    ),
    counter_by(
        &[FILE],
        VERIFIED,
        "files",
        "Files that digests list: proven, content_only (perhaps not delivered), fetched (late), missing, mismatched, unreadable; and unlisted: no digest lists the file.",
    ),
    counter_by(
        &[DIGEST],
        DIGESTS,
        "files",
        "Digest files: proven; untrusted (proves nothing); broken or unlinked (the file before is missing or changed, or unreadable); restarted (a second chain).",
    ),
    row(SPOOL_ENTRIES, AT_ONCE, "entries", &[], "Entries that senders pushed and that wait for delivery."),
    row(
        SPOOL_BYTES,
        AT_ONCE,
        "bytes",
        &[],
        "Bytes that these entries take in the spool, of RECEIVER_AUDIT_SPOOL_SIZE.",
    ),
    row(
        SPOOL_OLDEST,
        ONCE_KNOWN,
        "seconds since 1970",
        &[],
        "When the oldest of these entries arrived; 0 while none waits.",
    ),
    counter(
        SPOOL_DAMAGED,
        "places",
        "Damaged parts of the spool that could not be read. The log names the file and the bytes.",
    ),
    counter(RECEIVED, "entries", "Entries that senders pushed and that were safe on the disk before the answer."),
    counter(
        RECEIVED_AGAIN,
        "entries",
        "Entries that were dropped because a sender did not wait for its answer and pushed them again.",
    ),
    counter(
        RECEIVED_UNKNOWN,
        "events",
        "Events of a sender that the rules know, with an attribute that they do not know. They are delivered as info.",
    ),
    counter_by(
        &[RECEPTION],
        RECEIVED_REQUESTS,
        "requests",
        "Requests of senders. A stranger has no valid key; full means no room in the spool; unsafe means that it cannot be written.",
    ),
    counter(
        FAILURES,
        "failures",
        "Failures that ended the pipeline in a process that goes on. It starts again after 5 minutes.",
    ),
    // It belongs to no pipeline, so it is set once, at the start.
    row(BUILD_INFO, ONCE_KNOWN, "always 1", &[VERSION], "The version of auditsync."),
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
