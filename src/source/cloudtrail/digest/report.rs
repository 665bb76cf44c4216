//! Reports in the log and in metrics what digest files prove.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::super::bucket::location;
use super::super::cursor::Current;
use super::file::Digest;
use super::proof::{Link, Untrusted};
use super::state::Verified;
use crate::failure::Chain;
use crate::telemetry::metrics::{self, Metrics};

/// The time after which a digest must have listed a log file. `CloudTrail` writes a digest every hour.
const LISTED_WITHIN: SignedDuration = SignedDuration::from_hours(3);

/// The time between two warnings of files that no digest lists, and the most folders that one names.
const WARN_AGAIN: Duration = Duration::from_secs(3600);
const MOST_NAMED: usize = 5;

/// The result for a log file that a digest lists.
pub(super) enum Finding {
    /// It was delivered with the content that the digest lists.
    Proven,
    /// It has the content that the digest lists. auditsync no longer knows whether it was delivered.
    ContentOnly,
    Mismatched,
    Missing,
    /// It cannot be compared, for this reason.
    Unreadable(String),
    /// The settings exclude it.
    Unwanted,
    Undelivered(Current),
}

/// Reports findings.
pub(super) struct Reporter {
    metrics: Metrics,
    /// Up to this time of writing, the files that no digest lists are counted.
    counted: Timestamp,
    /// When the last warning of such files was.
    warned: Option<Instant>,
    /// The number of files in this sync that have the right content, but whose delivery is not proven.
    content_only: usize,
}

impl Reporter {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, counted: Timestamp::MIN, warned: None, content_only: 0 }
    }

    /// Reports a file that was not delivered and is read now.
    pub(super) fn fetched(&self, location: &str, digest: &str) {
        self.metrics.verified(metrics::Verified::Fetched);
        tracing::warn!(location, digest, "a log file that a digest lists was not delivered; it is read now");
    }

    /// Reports a digest that cannot be read, and the reason.
    pub(super) fn unread(&self, location: &str, reason: &str) {
        self.metrics.digest(metrics::Digest::Untrusted);
        tracing::error!(location, "a digest file cannot be read, so what it lists is not verified: {reason}");
    }

    /// Warns at the end of a sync of files whose delivery is not proven.
    pub(super) fn ends(&mut self) {
        let files = std::mem::take(&mut self.content_only);
        if files > 0 {
            tracing::warn!(
                files,
                "log files have the content that digests list, but nothing proves that they were delivered; they came before verifying was on, or too many files waited for their digests"
            );
        }
    }

    /// Warns of files that were written long ago and that no digest lists. Every digest written up to `certain` is finished.
    pub(super) fn unlisted(&mut self, verified: &Verified, certain: Timestamp) {
        let until = certain.checked_sub(LISTED_WITHIN).unwrap_or(certain);
        let files = verified.unlisted(Timestamp::MIN, until);
        for _ in 0..verified.unlisted(self.counted, until) {
            self.metrics.verified(metrics::Verified::Unlisted);
        }
        self.counted = self.counted.max(until);
        if files == 0 || self.warned.is_some_and(|warned| warned.elapsed() < WARN_AGAIN) {
            return;
        }
        self.warned = Some(Instant::now());
        let folders: Vec<_> = verified.unlisted_folders(until).take(MOST_NAMED).collect();
        tracing::warn!(
            files,
            ?folders,
            "no digest file lists log files that were delivered over 3 hours ago, so nothing verifies them; turn on the trail's log file validation, or find out who removed its digest files or wrote the log files"
        );
    }

    /// Reports a digest that nothing proves.
    pub(super) fn untrusted(&self, place: &str, untrusted: &Untrusted) {
        self.metrics.digest(metrics::Digest::Untrusted);
        tracing::error!(
            location = place,
            "a digest file proves nothing, so what it lists is not verified: {}",
            Chain(untrusted)
        );
    }

    /// Reports what became of the files that a digest lists, and of the chain of digests.
    pub(super) fn digest(&mut self, place: &str, digest: &Digest, findings: &[Finding], link: &Link) {
        for (file, finding) in digest.files.iter().zip(findings) {
            let (bucket, key) = (&file.bucket, &file.key);
            match finding {
                Finding::Proven => self.metrics.verified(metrics::Verified::Proven),
                Finding::Missing => {
                    self.metrics.verified(metrics::Verified::Missing);
                    tracing::error!(
                        bucket,
                        key,
                        digest = place,
                        "a log file that a digest lists is gone: it was deleted, and its events were not delivered"
                    );
                }
                Finding::Mismatched => {
                    self.metrics.verified(metrics::Verified::Mismatched);
                    tracing::error!(
                        bucket, key, digest = place, expected = %file.sha256,
                        "a log file is not what CloudTrail wrote: its SHA-256 is not the one in the digest"
                    );
                }
                Finding::ContentOnly => {
                    self.content_only += 1;
                    self.metrics.verified(metrics::Verified::ContentOnly);
                }
                Finding::Unreadable(reason) => {
                    self.metrics.verified(metrics::Verified::Unreadable);
                    tracing::error!(
                        bucket,
                        key,
                        digest = place,
                        "a log file that a digest lists cannot be read, so its content is not verified: {reason}"
                    );
                }
                Finding::Unwanted | Finding::Undelivered(_) => {}
            }
        }
        let previous = digest.previous.as_ref().map(|previous| location(&previous.bucket, &previous.key));
        let broken = |what: &str| {
            self.metrics.digest(metrics::Digest::Broken);
            tracing::error!(
                location = place,
                previous,
                "the chain of digest files is broken: the digest before this one {what}"
            );
        };
        match link {
            Link::Whole => self.metrics.digest(metrics::Digest::Proven),
            Link::Start => {
                self.metrics.digest(metrics::Digest::Proven);
                tracing::info!(
                    location = place,
                    "a chain of digest files begins here: nothing proves what was written before it"
                );
            }
            Link::Restart => {
                self.metrics.digest(metrics::Digest::Restarted);
                tracing::warn!(
                    location = place,
                    "a chain of digest files begins here, although the trail has written digest files before: its log file validation was off meanwhile, and nothing proves what was written then"
                );
            }
            Link::Unread(reason) => {
                self.metrics.digest(metrics::Digest::Unlinked);
                tracing::error!(
                    location = place,
                    previous,
                    "the digest before this one could not be read, so nothing proves that no digest file is missing: {reason}"
                );
            }
            Link::Missing => broken("is gone"),
            Link::Changed => broken("was changed"),
        }
        tracing::debug!(location = place, files = digest.files.len(), link = ?link, "a digest file is verified");
    }
}
