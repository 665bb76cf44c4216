//! One run: delivered part by part, finished, or given up.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::cursor::{Baseline, Progress, Stand, Step, Waiting};
use super::error::{Content, Error, Unread};
use super::history::Run;
use super::reading::{self, Part, Plan, Reading, Summary};
use super::{Digicert, kept, nothing_but};
use crate::clock::LocalTime;
use crate::failure::Chain;
use crate::source::{Cursor, Page, Then};

/// The longest wait of a call for a run that is being downloaded. The next call continues it.
const PATIENCE: Duration = Duration::from_secs(20);

/// An unreadable run is given up after this time and this number of tries.
const UNREADABLE_FOR: SignedDuration = SignedDuration::from_mins(10);
const UNREADABLE_TRIES: u32 = 3;

/// The time after which fewer tries are enough, because a one-shot run makes only one or two.
const UNREADABLE_ANYWAY: SignedDuration = SignedDuration::from_hours(1);

/// The wait between two tries, except that the second one follows soon.
const BETWEEN_TRIES: Duration = Duration::from_secs(300);

/// The number of tries of this process with one run.
#[derive(Debug, Default)]
pub(super) struct Tries {
    run: String,
    count: u32,
}

impl Tries {
    fn one_more(&mut self, run: &Run) -> u32 {
        if self.run != run.id {
            *self = Self { run: run.id.clone(), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

impl Digicert {
    /// Delivers the next part of a run.
    pub(super) async fn read(&self, progress: Progress, stand: Stand, begun: LocalTime) -> Result<Page, Error> {
        let under_way = self.reading.lock().take().filter(|reading| reading.is_at(&stand.run, stand.rows));
        let mut reading = under_way.unwrap_or_else(|| {
            let (overlap, time_column) = (self.settings.overlap, self.settings.time_column.clone());
            let (most_in_one_file, quotes) = (reading::MOST_IN_ONE_FILE, self.api.quotes.clone());
            let (Stand { run, rows, sum, .. }, progress) = (stand.clone(), progress.clone());
            let plan = Plan { run, rows, sum, most_in_one_file, quotes, progress, overlap, time_column };
            Reading::begin(Arc::clone(&self.api), plan)
        });
        let Ok(part) = tokio::time::timeout(PATIENCE, reading.next()).await else {
            *self.reading.lock() = Some(reading);
            // This costs retry budget, because the run may never arrive.
            return nothing_but(&progress, Then::Now);
        };
        if part.is_ok() {
            *self.broken.lock() = Tries::default();
        }
        match part {
            Ok(Part::Rows { events, rows, sum }) => {
                *self.reading.lock() = Some(reading);
                let next = progress.at(Step::Reading(Stand { rows, sum, ..stand }));
                let next = Cursor::encode(&next).map_err(Error::Cursor)?;
                Ok(Page { events, deduplicated: 0, next, progressed: true, then: Then::Now })
            }
            Ok(Part::End(summary)) => self.finish(progress, &stand.run, *summary, begun),
            Err(Unread::Other(cause)) => self.not_arrived(progress, stand, cause).await,
            Err(Unread::Content(cause)) => self.unreadable(progress, stand, cause),
        }
    }

    /// Ends a run whose rows are all delivered.
    fn finish(&self, progress: Progress, run: &Run, summary: Summary, begun: LocalTime) -> Result<Page, Error> {
        let Summary { rows, deduplicated, high, kept, shrunk, undated, columns, oldest } = summary;
        let overlap = &self.settings.names.overlap;
        if shrunk {
            tracing::warn!(
                most = kept::MOST, since = %kept.since,
                "{overlap} covers more rows than the state can hold; auditsync may miss a row that appears late and is older than `since`"
            );
        }
        if undated > 0 {
            tracing::warn!(
                undated,
                rows,
                "rows have no readable time in the column that {} names; auditsync delivers them without a time",
                self.settings.time_column.variable
            );
        }
        if !progress.columns.is_empty()
            && !columns.is_empty()
            && progress.columns != columns
            && !progress.kept.is_empty()
        {
            tracing::warn!(
                run = run.id,
                "the columns of the report changed, so the rows within {overlap} looked new and were delivered again"
            );
        }
        if let (Some(oldest), Some(high)) = (oldest, progress.high)
            && oldest > high
        {
            tracing::warn!(
                run = run.id, %oldest, delivered_up_to = %high,
                "the oldest row of the report is newer than the newest one that was delivered, so rows between them may be missing; the \
                 report's date range must be longer than the time between two runs"
            );
        }
        let columns = if columns.is_empty() { progress.columns.clone() } else { columns };
        let next = Progress { reached: run.began.max(progress.reached), high, kept, columns, ..after(progress, run) };
        let asked = *self.asked.lock();
        // A run that another process requested began before this sync.
        let is_current = self.settings.starts_runs && asked.is_some_and(|asked| asked >= begun.monotonic);
        let then = if is_current { Then::CaughtUp } else { Then::Now };
        let next = Cursor::encode(&next).map_err(Error::Cursor)?;
        Ok(Page { events: Vec::new(), deduplicated, next, progressed: true, then })
    }

    /// Handles a run with wrong content. It is read again for some time; then another run takes its place.
    fn unreadable(&self, progress: Progress, stand: Stand, cause: Content) -> Result<Page, Error> {
        let tries = self.tries.lock().one_more(&stand.run);
        let age = self.now().duration_since(stand.found);
        if !is_hopeless(age, tries) {
            let after = (tries > 1).then_some(BETWEEN_TRIES);
            return Err(Error::BadRun { run: stand.run.id, cause, after });
        }
        self.give_up(progress, stand, &cause)
    }

    /// Handles a failed download. It is repeated; after an hour in which other calls work, another run takes the run's
    /// place.
    async fn not_arrived(&self, progress: Progress, stand: Stand, cause: Error) -> Result<Page, Error> {
        let after = between(self.broken.lock().one_more(&stand.run));
        let is_hopeless = cause.may_be_of_a_run() && self.now().duration_since(stand.found) >= UNREADABLE_ANYWAY;
        if is_hopeless && self.api.history(|_| true).await.is_ok() {
            return self.give_up(progress, stand, &cause);
        }
        Err(Error::NotArrived { run: stand.run.id, cause: Box::new(cause), after })
    }

    fn give_up(
        &self,
        progress: Progress,
        stand: Stand,
        cause: &(dyn std::error::Error + 'static),
    ) -> Result<Page, Error> {
        let Stand { run, waiting, .. } = stand;
        tracing::error!(run = run.id, error = %Chain(cause), "the run cannot be read and is given up; the next run shows its rows");
        if !self.settings.starts_runs {
            return nothing_but(&after(progress, &run), Then::Now);
        }
        let waiting = Waiting { given_up: Some(run.began), ..waiting };
        nothing_but(&progress.at(Step::Waiting(waiting)), Then::Now)
    }
}

/// Whether to give up a run that was found this long ago, and that this process failed to read this many times.
fn is_hopeless(age: SignedDuration, tries: u32) -> bool {
    age >= UNREADABLE_ANYWAY || (age >= UNREADABLE_FOR && tries >= UNREADABLE_TRIES)
}

/// The wait after this many failed downloads in a row. The engine does not count failures that take longer than
/// [`PATIENCE`].
fn between(failures: u32) -> Option<Duration> {
    (failures > 1).then(|| Duration::from_secs(1 << failures.saturating_sub(1).min(8)).min(BETWEEN_TRIES))
}

/// The same cursor, with `run` as the newest run that is of no more interest.
pub(super) fn after(progress: Progress, run: &Run) -> Progress {
    let mut runs = vec![run.id.clone()];
    if progress.baseline.began == Some(run.began) {
        runs.extend(progress.baseline.runs.iter().filter(|id| **id != run.id).cloned());
    }
    Progress { baseline: Baseline { began: Some(run.began), runs }, step: Step::Idle, ..progress }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_run_is_given_up_after_three_tries_over_ten_minutes_or_one_after_an_hour() {
        let minutes = SignedDuration::from_mins;
        for (age, tries, expected) in [
            (minutes(9), 9, false),
            (minutes(10), 2, false),
            (minutes(10), 3, true),
            (minutes(59), 1, false),
            (minutes(60), 1, true),
        ] {
            assert_eq!(is_hopeless(age, tries), expected, "{age} {tries}");
        }
    }

    #[test]
    fn downloads_that_fail_one_after_the_other_wait_longer_each_time() {
        let waits: Vec<_> = [1, 2, 3, 8, 9, 10, u32::MAX].map(between).into();
        let seconds = |time| Some(Duration::from_secs(time));
        assert_eq!(waits, [None, seconds(2), seconds(4), seconds(128), seconds(256), seconds(256), seconds(256)]);
        let run = |id: &str| Run { id: id.to_owned(), began: Timestamp::UNIX_EPOCH, splits: Some(0) };
        let mut tries = Tries::default();
        let counts = ["a", "a", "b", "b", "b"].map(|id| tries.one_more(&run(id)));
        assert_eq!(counts, [1, 2, 1, 2, 3]);
    }

    #[test]
    fn runs_that_began_in_one_second_are_all_remembered() {
        let run = |id: &str| Run { id: id.to_owned(), began: Timestamp::UNIX_EPOCH, splits: Some(0) };
        let progress = after(after(Progress::behind(None), &run("a")), &run("b"));
        assert!(!progress.baseline.is_before(&run("a")) && !progress.baseline.is_before(&run("b")));
        assert!(progress.baseline.is_before(&run("c")));
    }
}
