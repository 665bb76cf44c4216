//! The audit log of `DigiCert`'s `CertCentral`, read through runs of a report (Report Library API).
//!
//! A run shows the whole date range of its report, in any order and without ids. So each run is read whole, and what was delivered before is
//! told apart by time and content: `kept` holds what is remembered, `history` decides which run is read, `reading` reads one ahead, and this
//! file joins them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::{Cursor, Kind, Page, Product, Source, Then};
use crate::clock::{Clock, LocalTime};
use crate::component::{Check, Configured, Context};
use crate::failure::{Chain, Failure};
use crate::http::{Excerpt, Redaction};
use crate::secret::Secret;
use api::{Api, History};
use cursor::{Baseline, Progress, Step, Waiting};
use error::{Content, Error, Unread};
use history::{AUDIT_LOGS, Run, Shown, Status, Turn};
use reading::{Part, Plan, Reading, Summary};

mod api;
mod check;
mod cursor;
pub mod error;
mod history;
mod kept;
mod reading;
mod row;
mod rows;
mod spool;
pub(crate) mod variables;

/// The source in the registry.
pub const KIND: Kind = Kind {
    name: "digicert",
    title: "DigiCert audit reports",
    product: Product { name: "digicert", service: "digicert-certcentral" },
    variables: variables::VARIABLES,
    aliases: variables::ALIASES,
    // A report takes minutes, and shows its whole date range each time.
    interval: Some("1h"),
    cursor_at: |since| Cursor::encode(&Progress::behind(Some(since))).ok(),
    reached,
    read: |reader| {
        let settings = variables::settings(reader)?;
        let secret = settings.api_key.clone();
        let build = move |context: &Context| -> Arc<dyn Source> { Arc::new(Digicert::new(settings.clone(), context)) };
        Ok(Configured::new(build).with_secrets([secret]))
    },
};

/// A call waits no longer than this for a run that is being downloaded; another call goes on with it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What cannot be read is given up after this time, and as many tries.
const UNREADABLE_FOR: SignedDuration = SignedDuration::from_mins(10);
const UNREADABLE_TRIES: u32 = 3;

/// After this time fewer tries are enough: each run of a program that ends soon has only one or two.
const UNREADABLE_ANYWAY: SignedDuration = SignedDuration::from_hours(1);

/// The second try follows soon, the next ones after this time.
const BETWEEN_TRIES: Duration = Duration::from_secs(300);

/// Where runs fail again and again, another is started this often.
const BETWEEN_RESCUES: Duration = Duration::from_secs(600);

/// What is needed to read a report.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The report API's address, with its path.
    pub api_url: Url,
    /// The API key.
    pub api_key: Secret,
    /// The report.
    pub report_id: String,
    /// How often the history is looked at.
    pub poll_interval: Duration,
    /// Whether runs are started, or those that the server schedules are used.
    pub starts_runs: bool,
    /// How long a run may take.
    pub max_wait: Duration,
    /// The time of the oldest row that is wanted; none for all.
    pub start: Option<Timestamp>,
    /// The heading of the column with the time.
    pub time_column: String,
    /// How far behind the newest row a late row is still delivered.
    pub overlap: Duration,
}

/// The report as a source.
#[derive(Debug)]
pub struct Digicert {
    api: Arc<Api>,
    settings: Settings,
    clock: Clock,
    reading: Mutex<Option<Reading>>,
    /// When this process took the baseline of the run that it waits for or reads.
    asked: Mutex<Option<Instant>>,
    /// When this process last started a run.
    started: Mutex<Option<Instant>>,
    /// The run that could not be read, and how often this process tried.
    tries: Mutex<Tries>,
    /// The run that did not arrive, and how often in a row.
    broken: Mutex<Tries>,
}

/// How often this process tried something with a run.
#[derive(Debug, Default)]
struct Tries {
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

/// What to do where the history is longer than what is read of it.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Fails,
    Warned,
}

/// How far a run is read: the fields of [`Step::Reading`].
struct Stand {
    run: Run,
    found: Timestamp,
    rows: u64,
    sum: u64,
    waiting: Waiting,
}

impl Digicert {
    /// A source for the pipeline of `context`.
    pub fn new(settings: Settings, context: &Context) -> Self {
        let api = Api::new(context, settings.api_url.clone(), settings.api_key.clone(), settings.report_id.clone());
        Self {
            api: Arc::new(api),
            settings,
            clock: context.clock.clone(),
            reading: Mutex::default(),
            asked: Mutex::default(),
            started: Mutex::default(),
            tries: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    /// The present, by the server's clock where it is known.
    fn now(&self) -> Timestamp {
        let local = self.clock.local();
        self.server_time(local).unwrap_or(local.wall)
    }

    fn report(&self) -> String {
        self.settings.report_id.clone()
    }

    /// What must not be shown.
    fn hidden(&self) -> Redaction {
        Redaction::of([&self.settings.api_key.current()])
    }

    /// The runs of the report that began behind `baseline`, the oldest first. The history is read back to there, or until there are
    /// `enough`; what it means that it is too long for that, `cut` says.
    async fn runs(&self, baseline: &Baseline, cut: Cut, enough: impl Fn(&Shown) -> bool) -> Result<Vec<Shown>, Error> {
        let is_ours = |shown: &Shown| shown.report.eq_ignore_ascii_case(&self.settings.report_id);
        let is_before = |shown: &Shown| baseline.began.is_some_and(|began| shown.run.began < began);
        let is_enough = |shown: &Shown| is_before(shown) || (is_ours(shown) && enough(shown));
        let History { runs, cut: missing } = self.api.history(|runs| runs.iter().any(is_enough)).await?;
        match (missing, cut) {
            (None, _) => {}
            (Some(error), Cut::Fails) => return Err(error),
            (Some(error), Cut::Warned) => {
                tracing::warn!(error = %Chain(&error), "the history is too long; runs before those that were read are left out");
            }
        }
        let mut runs: Vec<_> = runs.into_iter().filter(is_ours).collect();
        // A run that began between two pages moved the others on.
        runs.sort_by(|one, other| (one.run.began, &one.run.id).cmp(&(other.run.began, &other.run.id)));
        runs.dedup_by(|one, other| one.run.id == other.run.id);
        let other = |shown: &&Shown| shown.report_type.as_deref().is_some_and(|kind| kind != AUDIT_LOGS);
        if let Some(other) = runs.iter().find(other) {
            let kind = other.report_type.as_deref().unwrap_or_default();
            let kind = Excerpt::of(kind.as_bytes(), &self.hidden());
            return Err(Error::OtherType { report: self.report(), kind });
        }
        Ok(runs.into_iter().filter(|shown| baseline.is_before(&shown.run)).collect())
    }

    async fn next(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Error> {
        let progress: Progress = cursor.decode().map_err(Error::Cursor)?;
        match progress.step.clone() {
            Step::Idle if self.settings.starts_runs => self.take_baseline(progress).await,
            Step::Idle => self.find_scheduled(progress).await,
            Step::Waiting(waiting) if self.settings.starts_runs => self.wait(progress, waiting).await,
            Step::Waiting(_) => self.find_scheduled(progress.at(Step::Idle)).await,
            Step::Reading { run, found, rows, sum, waiting } => {
                self.read(progress, Stand { run, found, rows, sum, waiting }, begun).await
            }
        }
    }

    /// Notes which runs there are. What begins from now on shows everything up to now.
    async fn take_baseline(&self, progress: Progress) -> Result<Page, Error> {
        let asked = Instant::now();
        // The newest run of any report shows what the present is.
        let is_newest = |runs: &[Shown]| runs.iter().any(|shown| history::is_credible(shown, self.now()));
        let History { runs, .. } = self.api.history(is_newest).await?;
        *self.asked.lock() = Some(asked);
        let now = self.now();
        let baseline = progress.baseline.clone().max(history::present(&runs, now));
        nothing_but(&Progress { baseline, ..progress }.at(Step::Waiting(Waiting::from(now))), Then::Now)
    }

    /// Looks for the run that is waited for, and starts one where there is none.
    async fn wait(&self, progress: Progress, waiting: Waiting) -> Result<Page, Error> {
        let (baseline, given_up) = (&progress.baseline, waiting.given_up);
        let is_usable = |shown: &Shown| given_up.is_none_or(|given_up| shown.run.began > given_up);
        let is_ready =
            |shown: &Shown| shown.status == Status::Ready && is_usable(shown) && baseline.is_before(&shown.run);
        let runs = self.runs(baseline, Cut::Fails, is_ready).await?;
        let now = self.now();
        let age = Duration::try_from(now.duration_since(waiting.since)).unwrap_or_default();
        let (report, within) = (self.report(), self.settings.max_wait);
        let error = match history::turn(&runs, &waiting, age, within) {
            Turn::Read(run) => {
                tracing::debug!(run = run.id, began = %run.began, "a run is ready");
                return nothing_but(
                    &progress.at(Step::Reading { run, found: now, rows: 0, sum: 0, waiting }),
                    Then::Now,
                );
            }
            Turn::Wait => return nothing_but(&progress.at(Step::Waiting(waiting)), self.later()),
            Turn::Start => {
                self.start_run().await?;
                let waiting = Waiting { started: waiting.started + 1, since: self.now(), ..waiting };
                if waiting.started > 1 {
                    tracing::warn!(
                        started = waiting.started,
                        "a run failed, was unreadable or took too long; another one is started"
                    );
                }
                return nothing_but(&progress.at(Step::Waiting(waiting)), self.later());
            }
            Turn::Failed { failed, newest } => Error::Failing { report, failed, run: newest.unwrap_or_default() },
            Turn::TooSlow { run: Some(run) } => Error::TooSlow { report, run, within },
            Turn::TooSlow { run: None } => Error::NoRun { report, within },
        };
        let is_due = self.started.lock().map_or(age, |started| started.elapsed()) >= BETWEEN_RESCUES;
        if is_due {
            self.start_run().await?;
        }
        Err(error)
    }

    async fn start_run(&self) -> Result<(), Error> {
        self.api.start_run().await?;
        *self.started.lock() = Some(Instant::now());
        tracing::debug!(report = self.settings.report_id, "a run of the report is started");
        Ok(())
    }

    fn later(&self) -> Then {
        Then::After(self.settings.poll_interval)
    }

    /// Looks for runs that the server scheduled: one after the other, and at first the newest.
    async fn find_scheduled(&self, mut progress: Progress) -> Result<Page, Error> {
        let is_ready = |shown: &Shown| shown.status == Status::Ready;
        let is_first = progress.baseline == Baseline::default();
        let runs = self.runs(&progress.baseline, Cut::Warned, |shown| is_first && is_ready(shown)).await?;
        let newest_ready = runs.iter().rposition(is_ready).filter(|_| is_first).unwrap_or_default();
        let now = self.now();
        for Shown { run, status, .. } in runs.into_iter().skip(newest_ready) {
            let age = Duration::try_from(now.duration_since(run.began)).unwrap_or_default();
            match status {
                Status::Ready => {
                    let waiting = Waiting::from(now);
                    return nothing_but(
                        &progress.at(Step::Reading { run, found: now, rows: 0, sum: 0, waiting }),
                        Then::Now,
                    );
                }
                Status::Generating if age <= self.settings.max_wait => return nothing_but(&progress, self.later()),
                Status::Generating => {}
                Status::Failed => {
                    tracing::warn!(run = run.id, "a scheduled run failed; the next one shows its rows");
                    progress = after(progress, &run);
                }
            }
        }
        nothing_but(&progress, Then::CaughtUp)
    }

    /// The next part of a run.
    async fn read(&self, progress: Progress, stand: Stand, begun: LocalTime) -> Result<Page, Error> {
        let Stand { run, found, rows, sum, waiting } = stand;
        let under_way = self.reading.lock().take().filter(|reading| reading.is_at(&run, rows));
        let mut reading = under_way.unwrap_or_else(|| {
            let (overlap, time_column) = (self.settings.overlap, self.settings.time_column.clone());
            let (most_in_one_file, key) = (reading::MOST_IN_ONE_FILE, self.settings.api_key.clone());
            let (run, progress) = (run.clone(), progress.clone());
            let plan = Plan { run, rows, sum, most_in_one_file, key, progress, overlap, time_column };
            Reading::begin(Arc::clone(&self.api), plan)
        });
        let Ok(part) = tokio::time::timeout(PATIENCE, reading.next()).await else {
            *self.reading.lock() = Some(reading);
            // It costs retry budget: nothing says yet that the run will arrive.
            return nothing_but(&progress, Then::Now);
        };
        if part.is_ok() {
            *self.broken.lock() = Tries::default();
        }
        match part {
            Ok(Part::Rows { events, rows, sum }) => {
                *self.reading.lock() = Some(reading);
                let next = progress.at(Step::Reading { run, found, rows, sum, waiting });
                let next = Cursor::encode(&next).map_err(Error::Cursor)?;
                Ok(Page { events, deduplicated: 0, next, progressed: true, then: Then::Now })
            }
            Ok(Part::End(summary)) => self.finish(progress, &run, *summary, begun),
            Err(Unread::Other(cause)) => self.not_arrived(progress, run, found, waiting, cause).await,
            Err(Unread::Content(cause)) => self.unreadable(progress, run, found, waiting, cause),
        }
    }

    /// Everything of a run is delivered.
    fn finish(&self, progress: Progress, run: &Run, summary: Summary, begun: LocalTime) -> Result<Page, Error> {
        let Summary { rows, deduplicated, high, kept, shrunk, undated, columns, oldest } = summary;
        let overlap = variables::OVERLAP.spec.name;
        if shrunk {
            tracing::warn!(
                most = kept::MOST, since = %kept.since,
                "more rows lie in {overlap} than the state can hold; a row that appears late and is older than `since` may be missed"
            );
        }
        if undated > 0 {
            tracing::warn!(
                undated,
                rows,
                "rows have no readable time in the column that {} names; they are delivered without it",
                variables::TIME_COLUMN.spec.name
            );
        }
        if !progress.columns.is_empty()
            && !columns.is_empty()
            && progress.columns != columns
            && !progress.kept.is_empty()
        {
            tracing::warn!(
                run = run.id,
                "the columns of the report changed, so the rows within {overlap} look new and were delivered again"
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
        // A run that another process asked began before this sync did.
        let is_current = self.settings.starts_runs && asked.is_some_and(|asked| asked >= begun.monotonic);
        let then = if is_current { Then::CaughtUp } else { Then::Now };
        let next = Cursor::encode(&next).map_err(Error::Cursor)?;
        Ok(Page { events: Vec::new(), deduplicated, next, progressed: true, then })
    }

    /// The content of a run is wrong. It is read again, for some time; then another run takes its place.
    fn unreadable(
        &self,
        progress: Progress,
        run: Run,
        found: Timestamp,
        waiting: Waiting,
        cause: Content,
    ) -> Result<Page, Error> {
        let tries = self.tries.lock().one_more(&run);
        let age = self.now().duration_since(found);
        if !is_hopeless(age, tries) {
            let after = (tries > 1).then_some(BETWEEN_TRIES);
            return Err(Error::BadRun { run: run.id, cause, after });
        }
        self.give_up(progress, &run, waiting, &cause)
    }

    /// A run did not arrive. It is requested again; after an hour in which other calls work, another run takes its place.
    async fn not_arrived(
        &self,
        progress: Progress,
        run: Run,
        found: Timestamp,
        waiting: Waiting,
        cause: Error,
    ) -> Result<Page, Error> {
        let after = between(self.broken.lock().one_more(&run));
        let is_hopeless = cause.may_be_of_a_run() && self.now().duration_since(found) >= UNREADABLE_ANYWAY;
        if is_hopeless && self.api.history(|_| true).await.is_ok() {
            return self.give_up(progress, &run, waiting, &cause);
        }
        Err(Error::NotArrived { run: run.id, cause: Box::new(cause), after })
    }

    fn give_up(
        &self,
        progress: Progress,
        run: &Run,
        mut waiting: Waiting,
        cause: &(dyn std::error::Error + 'static),
    ) -> Result<Page, Error> {
        tracing::error!(run = run.id, error = %Chain(cause), "the run cannot be read and is given up; the next run shows its rows");
        if !self.settings.starts_runs {
            return nothing_but(&after(progress, run), Then::Now);
        }
        waiting.given_up = Some(run.began);
        nothing_but(&progress.at(Step::Waiting(waiting)), Then::Now)
    }
}

/// Whether a run that was found so long ago, and could not be read so often by this process, is given up.
fn is_hopeless(age: SignedDuration, tries: u32) -> bool {
    age >= UNREADABLE_ANYWAY || (age >= UNREADABLE_FOR && tries >= UNREADABLE_TRIES)
}

/// How long to wait after so many downloads in a row that failed. The engine does not count them where one takes longer than [`PATIENCE`].
fn between(failures: u32) -> Option<Duration> {
    (failures > 1).then(|| Duration::from_secs(1 << failures.saturating_sub(1).min(8)).min(BETWEEN_TRIES))
}

/// The same, with `run` as the newest one that is of no interest any more.
fn after(progress: Progress, run: &Run) -> Progress {
    let mut runs = vec![run.id.clone()];
    if progress.baseline.began == Some(run.began) {
        runs.extend(progress.baseline.runs.iter().filter(|id| **id != run.id).cloned());
    }
    Progress { baseline: Baseline { began: Some(run.began), runs }, step: Step::Idle, ..progress }
}

/// A page without rows that leads to `next`.
fn nothing_but(next: &Progress, then: Then) -> Result<Page, Error> {
    let next = Cursor::encode(next).map_err(Error::Cursor)?;
    Ok(Page { events: Vec::new(), deduplicated: 0, next, progressed: false, then })
}

/// Up to when everything before `cursor` is delivered; needs no connection.
fn reached(cursor: &Cursor) -> Result<Timestamp, Failure> {
    let progress: Progress = cursor.decode().map_err(Error::Cursor)?;
    Ok(progress.reached)
}

#[async_trait]
impl Source for Digicert {
    fn location(&self) -> String {
        format!("{}, report {}", self.api.address(), self.settings.report_id)
    }

    fn first_cursor(&self, _now: Timestamp) -> Cursor {
        // A row of that very time is wanted.
        let just_before = |start: Timestamp| start.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(start);
        let progress = Progress::behind(self.settings.start.map(just_before));
        // Rows count from then on, whenever the run began that shows them.
        Cursor::encode(&Progress { baseline: Baseline::default(), ..progress }).unwrap_or_default()
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        reached(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        Ok(self.next(cursor, begun).await?)
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.api.server_clock.at(now, now)
    }

    fn pause(&self) {
        self.reading.lock().take();
    }

    async fn check(&self, _now: LocalTime) -> Vec<Check> {
        self.checks().await
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_cursor_survives_the_document() {
        let run = Run { id: "a".to_owned(), began: Timestamp::UNIX_EPOCH, splits: Some(3) };
        let now = Timestamp::UNIX_EPOCH;
        let reading = Step::Reading { run, found: now, rows: 7, sum: 5, waiting: Waiting::from(now) };
        for step in [Step::Idle, Step::Waiting(Waiting::from(now)), reading] {
            for since in [None, Some(now)] {
                let progress = Progress::behind(since).at(step.clone());
                let text = Cursor::encode(&progress).unwrap().to_string();
                let cursor: Cursor = serde_json::from_str(&text).unwrap();
                assert_eq!(cursor.decode::<Progress>().unwrap(), progress);
            }
        }
    }
}
