//! Decides which notices are due: a plain function of what was seen, and of earlier notices.

use std::time::Duration;

use tokio::time::Instant;

use crate::pipeline_name::PipelineName;

/// How long a pipeline must be not ready before a notice is due.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The shortest time between two notices about one pipeline with the same reason.
const BETWEEN: Duration = Duration::from_secs(3600);

/// An observation of a pipeline.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) pipeline: PipelineName,
    pub(super) is_ready: bool,
    /// Why it is ready or not, in words.
    pub(super) reason: String,
    /// Dead letters since the start.
    pub(super) dead_letters: u64,
    /// How long its source has been silent, if that is too long.
    pub(super) silent_for: Option<Duration>,
}

/// The reason for a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    NotReady,
    Ready,
    DeadLetters,
    Silent,
}

/// The earlier notices about each pipeline.
#[derive(Debug)]
pub(super) struct Due(Vec<Told>);

#[derive(Debug, Clone, Default)]
struct Told {
    unready_since: Option<Instant>,
    /// Whether the last notice about readiness said that the pipeline is not ready.
    of_unready: bool,
    of_silence: bool,
    dead_letters: u64,
    last: [Option<Instant>; Reason::Silent as usize + 1],
}

impl Due {
    /// Begins without earlier notices, for this many `pipelines`.
    pub(super) fn new(pipelines: usize) -> Self {
        Self(vec![Told::default(); pipelines])
    }

    /// Returns the notices that are due now.
    pub(super) fn notices(&mut self, seen: &[Seen], now: Instant) -> Vec<String> {
        self.0.iter_mut().zip(seen).flat_map(|(told, seen)| told.notices(seen, now)).collect()
    }
}

impl Told {
    fn notices(&mut self, seen: &Seen, now: Instant) -> Vec<String> {
        let mut notices = Vec::new();
        let pipeline = &seen.pipeline;
        if seen.is_ready {
            self.unready_since = None;
            if self.of_unready && self.may(Reason::Ready, now) {
                self.of_unready = false;
                notices.push(format!("auditsync: the pipeline {pipeline} is ready again"));
            }
        } else {
            let since = *self.unready_since.get_or_insert(now);
            let unready = now.saturating_duration_since(since);
            if unready >= PATIENCE && !self.of_unready && self.may(Reason::NotReady, now) {
                self.of_unready = true;
                let unready = rounded(unready);
                notices.push(format!(
                    "auditsync: the pipeline {pipeline} has not been ready for {unready}: {}",
                    seen.reason
                ));
            }
        }
        if seen.dead_letters > self.dead_letters && self.may(Reason::DeadLetters, now) {
            let new = seen.dead_letters - self.dead_letters;
            self.dead_letters = seen.dead_letters;
            notices.push(format!(
                "auditsync: the pipeline {pipeline} has {new} new dead letters; its log names the reason and the file"
            ));
        }
        match seen.silent_for {
            None => self.of_silence = false,
            Some(silent) if !self.of_silence && self.may(Reason::Silent, now) => {
                self.of_silence = true;
                let silent = rounded(silent);
                notices.push(format!("auditsync: nothing has arrived at the pipeline {pipeline} for {silent}"));
            }
            Some(_) => {}
        }
        notices
    }

    /// Whether a notice for this reason may be sent now. If so, it counts as sent.
    fn may(&mut self, reason: Reason, now: Instant) -> bool {
        let last = &mut self.last[reason as usize];
        if last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN) {
            return false;
        }
        *last = Some(now);
        true
    }
}

/// Rounds down to whole minutes.
fn rounded(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs() / 60 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The notices that are due at each of these minutes.
    fn told(course: &[(u64, bool, u64, Option<u64>)]) -> Vec<Vec<String>> {
        let (mut due, start) = (Due::new(1), Instant::now());
        let notices = course.iter().map(|(minute, is_ready, dead_letters, silent)| {
            let seen = Seen {
                pipeline: "a:b".into(),
                is_ready: *is_ready,
                reason: "why".to_owned(),
                dead_letters: *dead_letters,
                silent_for: silent.map(|minutes| Duration::from_secs(minutes * 60)),
            };
            due.notices(&[seen], start + Duration::from_secs(minute * 60))
        });
        notices.collect()
    }

    fn counts(course: &[(u64, bool, u64, Option<u64>)]) -> Vec<usize> {
        told(course).iter().map(Vec::len).collect()
    }

    #[test]
    fn not_ready_for_fifteen_minutes_is_told_once_and_so_is_the_end() {
        let course = [(0, true), (1, false), (15, false), (16, false), (50, false), (51, true), (52, true)];
        let course = course.map(|(minute, is_ready)| (minute, is_ready, 0, None));
        assert_eq!(counts(&course), [0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(told(&course)[3], ["auditsync: the pipeline a:b has not been ready for 15m: why"]);
        assert_eq!(told(&course)[5], ["auditsync: the pipeline a:b is ready again"]);
    }

    #[test]
    fn a_short_outage_is_nobodys_business() {
        let course = [(0, false), (14, false), (15, true), (16, false), (30, false)];
        assert_eq!(counts(&course.map(|(minute, is_ready)| (minute, is_ready, 0, None))), [0; 5]);
    }

    #[test]
    fn of_one_reason_there_is_at_most_one_notice_an_hour_and_nothing_is_forgotten() {
        let course = [(0, 0), (1, 1), (2, 5), (60, 5), (61, 5), (62, 5), (122, 6)];
        assert_eq!(counts(&course.map(|(minute, letters)| (minute, true, letters, None))), [0, 1, 0, 0, 1, 0, 1]);
        let text = &told(&course.map(|(minute, letters)| (minute, true, letters, None)))[4][0];
        assert!(text.contains("4 new dead letters"), "{text}");
    }

    /// When an EZCA export dies, EZCA at most sends its administrators an e-mail, and none of the vendor's alerts notices it.
    #[test]
    fn a_sender_that_fell_silent_is_told_once_for_each_silence() {
        let course = [(0, None), (1, Some(60)), (2, Some(61)), (200, Some(260)), (201, None), (300, Some(60))];
        assert_eq!(counts(&course.map(|(minute, silent)| (minute, true, 0, silent))), [0, 1, 0, 0, 0, 1]);
    }
}
