//! The audit log of `DigiCert`'s `CertCentral`, read through runs of a report (Report Library API).
//!
//! A run shows the whole date range of its report, in any order and without ids. So this source reads each run whole,
//! and recognises rows that were delivered before by their time and content. `kept` remembers them, `history` decides
//! which run to read, `reading` reads one ahead, `run` delivers it or gives it up, and this file waits for runs.

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
use crate::http::Tls;
use crate::secret::Secret;
use crate::variable_name::VariableName;
use api::{Api, History};
use cursor::{Baseline, Progress, Stand, Step, Waiting};
use error::Error;
use history::{AUDIT_LOGS, Shown, Status, Turn};
use reading::Reading;
use run::{Tries, after};

mod api;
mod check;
mod cursor;
pub mod error;
mod history;
mod kept;
mod quotes;
mod reading;
mod row;
mod rows;
mod run;
mod spool;
pub(crate) mod variables;

/// The source's entry in the registry.
pub const KIND: Kind = Kind {
    name: "digicert",
    title: "DigiCert audit reports",
    product: Product { name: "digicert", service: "digicert-certcentral", is_flat: false },
    variables: variables::VARIABLES,
    aliases: variables::ALIASES,
    history: Some("DigiCert keeps the runs of a report for 90 days; a new run shows the date range of the report"),
    // A run takes minutes, and shows the report's whole date range each time.
    interval: Some(Duration::from_hours(1)),
    server: None,
    queue: |_| Ok(None),
    first: |reader, _| Ok(first_cursor(reader.find(&variables::START)?)),
    cursor_at: |since, _, _| Cursor::encode(&Progress::behind(Some(since))).ok(),
    reached,
    settled: reached,
    read: |reader| {
        let settings = variables::settings(reader)?;
        let secret = settings.api_key.clone();
        let build = move |context: &Context| -> Arc<dyn Source> { Arc::new(Digicert::new(settings.clone(), context)) };
        Ok(Configured::new(build).with_secrets([secret]))
    },
};

/// The time between two new runs when runs keep failing.
const BETWEEN_RESCUES: Duration = Duration::from_secs(600);

/// The settings of a report.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The report API's address, with its path.
    pub api_url: Url,
    /// The API key.
    pub api_key: Secret,
    /// The report's identifier.
    pub report_id: String,
    /// The files of TLS.
    pub tls: Tls,
    /// How often auditsync reads the history.
    pub poll_interval: Duration,
    /// Whether auditsync starts runs, or reads those that the server schedules.
    pub starts_runs: bool,
    /// How long a run may take.
    pub max_wait: Duration,
    /// The time of the oldest row to deliver; none for all.
    pub start: Option<Timestamp>,
    /// The column with the time.
    pub time_column: TimeColumn,
    /// How much older than the newest row a late row may be and still be delivered.
    pub overlap: Duration,
    /// The names of variables, for messages.
    pub names: Names,
}

/// The column with the time.
#[derive(Debug, Clone)]
pub struct TimeColumn {
    /// Its heading.
    pub heading: Arc<str>,
    /// The variable that names it.
    pub variable: VariableName,
}

/// The names under which an operator sets, or would set, the variables that messages name.
#[derive(Debug, Clone)]
pub struct Names {
    api_url: VariableName,
    report_id: VariableName,
    max_wait: VariableName,
    overlap: VariableName,
}

/// The report as a source.
#[derive(Debug)]
pub struct Digicert {
    api: Arc<Api>,
    settings: Settings,
    clock: Clock,
    reading: Mutex<Option<Reading>>,
    /// When this process took the baseline for the run that it waits for or reads.
    asked: Mutex<Option<Instant>>,
    /// When this process last started a run.
    started: Mutex<Option<Instant>>,
    /// The run that this process could not read, and how often it tried.
    tries: Mutex<Tries>,
    /// The run that could not be downloaded, and how many times in a row.
    broken: Mutex<Tries>,
}

/// What to do if the history is too long to be read back far enough.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Fails,
    Warned,
}

impl Digicert {
    /// Makes the source of the pipeline in `context`.
    pub fn new(settings: Settings, context: &Context) -> Self {
        let api = Api::new(context, &settings);
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

    /// The runs of the report that began after `baseline`, the oldest first. Reads the history back to the baseline, or
    /// until `enough` holds for a run. `cut` decides what happens if the history is too long for that.
    async fn runs(&self, baseline: &Baseline, cut: Cut, enough: impl Fn(&Shown) -> bool) -> Result<Vec<Shown>, Error> {
        let is_ours = |shown: &Shown| shown.report.eq_ignore_ascii_case(&self.settings.report_id);
        let is_before = |shown: &Shown| baseline.began.is_some_and(|began| shown.run.began < began);
        let is_enough = |shown: &Shown| is_before(shown) || (is_ours(shown) && enough(shown));
        let History { runs, cut: missing } = self.api.history(|runs| runs.iter().any(is_enough)).await?;
        match (missing, cut) {
            (None, _) => {}
            (Some(error), Cut::Fails) => return Err(error),
            (Some(error), Cut::Warned) => {
                tracing::warn!(error = %Chain(&error), "the history is too long; older runs are skipped");
            }
        }
        let mut runs: Vec<_> = runs.into_iter().filter(is_ours).collect();
        // A run that began between two pages shifted the others, so a run may be in both.
        runs.sort_by(|one, other| (one.run.began, &one.run.id).cmp(&(other.run.began, &other.run.id)));
        runs.dedup_by(|one, other| one.run.id == other.run.id);
        let other = |shown: &&Shown| shown.report_type.as_deref().is_some_and(|kind| kind != AUDIT_LOGS);
        if let Some(other) = runs.iter().find(other) {
            let kind = other.report_type.as_deref().unwrap_or_default();
            let (kind, variable) = (self.api.quotes.text(kind), self.settings.names.report_id.clone());
            return Err(Error::OtherType { report: self.report(), kind, variable });
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
            Step::Reading(stand) => self.read(progress, stand, begun).await,
        }
    }

    /// Notes the runs that exist now. A run that begins from now on shows everything up to now.
    async fn take_baseline(&self, progress: Progress) -> Result<Page, Error> {
        let asked = Instant::now();
        // The newest run of any report shows the server's present.
        let is_newest = |runs: &[Shown]| runs.iter().any(|shown| history::is_credible(shown, self.now()));
        let History { runs, .. } = self.api.history(is_newest).await?;
        *self.asked.lock() = Some(asked);
        let now = self.now();
        let baseline = progress.baseline.clone().max(history::present(&runs, now));
        nothing_but(&Progress { baseline, ..progress }.at(Step::Waiting(Waiting::from(now))), Then::Now)
    }

    /// Looks for the run that this source waits for, and starts one if there is none.
    async fn wait(&self, progress: Progress, waiting: Waiting) -> Result<Page, Error> {
        let (baseline, given_up) = (&progress.baseline, waiting.given_up);
        let is_usable = |shown: &Shown| given_up.is_none_or(|given_up| shown.run.began > given_up);
        let is_ready =
            |shown: &Shown| shown.status == Status::Ready && is_usable(shown) && baseline.is_before(&shown.run);
        let runs = self.runs(baseline, Cut::Fails, is_ready).await?;
        let now = self.now();
        let age = Duration::try_from(now.duration_since(waiting.since)).unwrap_or_default();
        let (report, within, names) = (self.report(), self.settings.max_wait, &self.settings.names);
        let error = match history::turn(&runs, &waiting, age, within) {
            Turn::Read(run) => {
                tracing::debug!(run = run.id, began = %run.began, "a run is ready");
                return nothing_but(&progress.at(Step::Reading(Stand::at(run, now, waiting))), Then::Now);
            }
            Turn::Wait => return nothing_but(&progress.at(Step::Waiting(waiting)), self.later()),
            Turn::Start => {
                self.start_run().await?;
                let waiting = Waiting { started: waiting.started + 1, since: self.now(), ..waiting };
                if waiting.started > 1 {
                    tracing::warn!(
                        started = waiting.started,
                        "a run failed, was unreadable or took too long; starting another one"
                    );
                }
                return nothing_but(&progress.at(Step::Waiting(waiting)), self.later());
            }
            Turn::Failed { failed, newest } => Error::Failing { report, failed, run: newest.unwrap_or_default() },
            Turn::TooSlow { run: Some(run) } => {
                Error::TooSlow { report, run, within, variable: names.max_wait.clone() }
            }
            Turn::TooSlow { run: None } => Error::NoRun { report, within, variable: names.report_id.clone() },
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
        tracing::debug!(report = self.settings.report_id, "started a run of the report");
        Ok(())
    }

    fn later(&self) -> Then {
        Then::After(self.settings.poll_interval)
    }

    /// Looks for runs that the server scheduled. The first sync takes the newest; later ones take each run in turn.
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
                    let stand = Stand::at(run, now, Waiting::from(now));
                    return nothing_but(&progress.at(Step::Reading(stand)), Then::Now);
                }
                Status::Generating if age <= self.settings.max_wait => return nothing_but(&progress, self.later()),
                Status::Generating => {}
                Status::Failed => {
                    tracing::warn!(run = run.id, "a scheduled run failed; the next run shows its rows");
                    progress = after(progress, &run);
                }
            }
        }
        nothing_but(&progress, Then::CaughtUp)
    }
}

/// Makes a page without rows that leads to `next`.
fn nothing_but(next: &Progress, then: Then) -> Result<Page, Error> {
    let next = Cursor::encode(next).map_err(Error::Cursor)?;
    Ok(Page { events: Vec::new(), deduplicated: 0, next, progressed: false, then })
}

/// The cursor before every row from `start` on; none for the whole report.
fn first_cursor(start: Option<Timestamp>) -> Cursor {
    // A row of exactly that time counts.
    let just_before = |start: Timestamp| start.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(start);
    let progress = Progress::behind(start.map(just_before));
    // The start limits rows, not runs: a run that began before it may show them.
    Cursor::encode(&Progress { baseline: Baseline::default(), ..progress }).unwrap_or_default()
}

/// The time up to which every row is delivered; needs no connection.
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
        first_cursor(self.settings.start)
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
    use super::history::Run;
    use super::*;

    #[test]
    fn a_cursor_survives_the_document() {
        let run = Run { id: "a".to_owned(), began: Timestamp::UNIX_EPOCH, splits: Some(3) };
        let now = Timestamp::UNIX_EPOCH;
        let reading = Step::Reading(Stand { rows: 7, sum: 5, ..Stand::at(run, now, Waiting::from(now)) });
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
