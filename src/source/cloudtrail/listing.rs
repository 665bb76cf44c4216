//! Makes pages from a listed bucket: with the plan, the files in it, and the cursor after each page.
//!
//! A [`Session`] is the knowledge of a process beside the cursor: the plan, the files fetched ahead, and the records
//! delivered lately. It belongs to one cursor. A call with another cursor begins a new session. Otherwise a session
//! that counts undelivered records as delivered would lose them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::ahead::Wanted;
use super::bucket::{leave_out, location};
use super::cursor::{Current, MOST, Progress};
use super::digest::state::Verified;
use super::digest::verifier::{Next, Verifier};
use super::error::{Error, Unreadable};
use super::known::Known;
use super::letters::Letters;
use super::plan::{Plan, Planned};
use super::reader::{Filling, Reader, Taken};
use super::survey::{Survey, Terrain};
use super::variables::{ACCOUNTS, LOG_PREFIX, REGIONS};
use crate::aws::call::CallError;
use crate::aws::digest::Sha256;
use crate::clock::LocalTime;
use crate::component::Check;
use crate::source::{Cursor, Page, Then};
use crate::task;
use crate::telemetry::metrics::Metrics;

/// The number of files with which a page is full.
const PAGE_FILES: usize = 1000;

/// The time after which a page with events takes no more.
const PAGE_TIME: Duration = Duration::from_secs(2);

/// The time after which a call returns an empty page while the listing continues.
const LISTING_TIME: Duration = Duration::from_secs(10);

/// The time before the bucket is listed again, if the state has no room for the newest files.
const ROOM_TIME: Duration = Duration::from_secs(30);

/// The time after which verifying ends with more digests left, so that new files are delivered.
const VERIFYING_TIME: Duration = Duration::from_secs(60);

/// The time before verifying continues beside a queue, if it ended with more digests left.
const VERIFYING_PAUSE: Duration = Duration::from_secs(60);

/// The number of failures of one object in a row after which the error says how to go on without it.
const MOST_FAILURES: u32 = 3;

/// Delivers a bucket by listing it.
pub(super) struct Listing {
    terrain: Terrain,
    letters: Arc<Letters>,
    deduplicates: bool,
    /// Verifies what digest files list, if that is wanted.
    verifier: Option<tokio::sync::Mutex<Verifier>>,
    /// Beside a queue, the listing sweeps: it delivers and counts the files that it shows for sure and that no message has named. None
    /// without a queue.
    sweeps: Option<BesideQueue>,
    session: tokio::sync::Mutex<Option<Session>>,
}

/// What a listing beside a queue needs.
pub(super) struct BesideQueue {
    pub(super) metrics: Metrics,
    /// No record before this time is delivered, whether a message names its file or a sweep finds it. A message whose file a sweep has
    /// read is deleted, so a sweep must deliver each record that the queue would deliver.
    pub(super) since: Timestamp,
}

/// The purpose of a round of listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// All files.
    Files,
    /// Digest files only. Every log file that was written up to this time and named by a message is delivered.
    Digests(Timestamp),
}

/// What a process knows beside a cursor.
struct Session {
    cursor: Cursor,
    known: Known,
    reader: Reader,
    work: Work,
    /// An error to return after the last page.
    pending: Option<Error>,
    failing: Failing,
}

/// The object that failed last, and the number of its failures in a row.
#[derive(Default)]
struct Failing(Option<(String, u32)>);

/// A survey that runs.
struct Surveying {
    task: AbortOnDropHandle<(Survey, Result<(), Error>)>,
    /// Whether the bucket has answered since the last page.
    has_answered: Arc<AtomicBool>,
}

/// The work under way.
enum Work {
    /// Nothing: the bucket must be listed.
    None,
    Surveying(Surveying),
    /// A survey that an error stopped.
    Stopped(Box<Survey>),
    Planned(Plan),
    /// Digest files are being verified.
    Verifying {
        /// Everything in the listing that began at this time is delivered.
        listed: Timestamp,
        since: Instant,
    },
}

impl Work {
    fn verifying(listed: Timestamp) -> Self {
        Self::Verifying { listed, since: Instant::now() }
    }
}

impl Listing {
    pub(super) fn new(
        terrain: Terrain,
        letters: Arc<Letters>,
        deduplicates: bool,
        verifier: Option<Verifier>,
        sweeps: Option<BesideQueue>,
    ) -> Self {
        let verifier = verifier.map(tokio::sync::Mutex::new);
        Self { terrain, letters, deduplicates, verifier, sweeps, session: tokio::sync::Mutex::default() }
    }

    /// The part of the bucket that it lists.
    pub(super) fn terrain(&self) -> &Terrain {
        &self.terrain
    }

    /// Reads `cursor`. If the cursor says nothing of the digest files to verify, verifying begins now.
    pub(super) fn known(&self, cursor: &Cursor) -> Result<Known, Error> {
        let Known { progress, verified } = Known::of(cursor)?;
        let beginning = || Verified::beginning(&progress);
        let verified = self.verifier.is_some().then(|| verified.unwrap_or_else(beginning));
        Ok(Known { progress, verified })
    }

    /// Checks the digest files, if they are verified.
    pub(super) async fn check_digests(&self, now: Timestamp) -> Vec<Check> {
        match &self.verifier {
            Some(verifier) => verifier.lock().await.checks(now).await,
            None => Vec::new(),
        }
    }

    /// The page after `cursor`. `known` may hold more than the cursor does.
    pub(super) async fn next_page(
        &self,
        cursor: &Cursor,
        known: Option<&Known>,
        begun: LocalTime,
        round: Round,
    ) -> Result<Page, Error> {
        let mut kept = self.session.lock().await;
        // If this call is dropped, the session is dropped too: it may count a page that was not returned.
        let mut session = match kept.take() {
            Some(session) if session.cursor == *cursor => session,
            _ => {
                if let Some(verifier) = &self.verifier {
                    verifier.lock().await.begin_again();
                }
                self.session(cursor, known.cloned())?
            }
        };
        let page = self.page(&mut session, begun, round).await;
        match &page {
            Ok(page) => session.cursor = page.next.clone(),
            // The session counts the page's records as delivered, but the page is not returned. A new session reads
            // them again.
            Err(error) if error.is_about_dead_letters() => return page,
            Err(_) => {}
        }
        *kept = Some(session);
        page
    }

    /// Returns what is known after `cursor`. If the last page ended at `cursor`, that is more than the cursor holds.
    pub(super) async fn behind(&self, cursor: &Cursor) -> Result<Known, Error> {
        let session = self.session.lock().await;
        match session.as_ref().filter(|session| session.cursor == *cursor) {
            Some(session) => Ok(session.known.clone()),
            None => self.known(cursor),
        }
    }

    /// Stops the work under way.
    pub(super) fn pause(&self) {
        if let Ok(mut session) = self.session.try_lock() {
            *session = None;
        }
    }

    fn session(&self, cursor: &Cursor, known: Option<Known>) -> Result<Session, Error> {
        let known = known.map_or_else(|| self.known(cursor), Ok)?;
        let buckets = Arc::clone(&self.terrain.buckets);
        let since = self.sweeps.as_ref().map_or(known.progress.since, |beside| beside.since);
        let reader = Reader::new(buckets, since, self.deduplicates, known.verified.is_some());
        let (cursor, failing) = (cursor.clone(), Failing::default());
        Ok(Session { cursor, known, reader, work: Work::None, pending: None, failing })
    }

    async fn page(&self, session: &mut Session, begun: LocalTime, round: Round) -> Result<Page, Error> {
        if let Some(error) = session.pending.take() {
            return Err(error);
        }
        if let (Work::None, Round::Digests(listed)) = (&session.work, round) {
            session.work = Work::verifying(listed);
        }
        if matches!(session.work, Work::None | Work::Verifying { .. }) && session.known.progress.current.is_some() {
            return self.finish_file(session).await;
        }
        if let Work::Verifying { listed, since } = session.work {
            return self.verify(session, listed, since).await;
        }
        if !matches!(session.work, Work::Planned(_))
            && let Some(page) = self.survey(session, begun).await?
        {
            return Ok(page);
        }
        self.planned_page(session).await
    }

    /// Lists the bucket. Returns a page without events if that takes longer than a call may.
    async fn survey(&self, session: &mut Session, begun: LocalTime) -> Result<Option<Page>, Error> {
        let work = std::mem::replace(&mut session.work, Work::None);
        let mut surveying = match work {
            Work::Surveying(surveying) => surveying,
            Work::Stopped(survey) => begin(*survey),
            Work::None | Work::Planned(_) | Work::Verifying { .. } => {
                let now = self.terrain.server_clock.at(begun, self.terrain.clock.local()).unwrap_or(begun.wall);
                let progress = &session.known.progress;
                let class = if self.sweeps.is_some() { progress.sweep(now) } else { progress.due(now) };
                begin(Survey::new(self.terrain.clone(), progress, class))
            }
        };
        let Ok(ended) = timeout(LISTING_TIME, &mut surveying.task).await else {
            // The survey continues after an error. So each answer is progress, although the cursor stays where it is.
            let progressed = surveying.has_answered.swap(false, Ordering::Relaxed);
            session.work = Work::Surveying(surveying);
            return Ok(Some(Page { progressed, ..session.empty(Then::Now) }));
        };
        let (survey, ended) = task::outcome(ended).map_err(Error::Interrupted)?;
        if let Err(error) = ended {
            session.work = Work::Stopped(Box::new(survey));
            return Err(error);
        }
        if survey.folders() == 0 {
            tracing::warn!(
                location = self.terrain.root(),
                "there is no folder of log files; correct {}, {} and {}, or wait until the trail has delivered its first file",
                LOG_PREFIX.spec.name,
                ACCOUNTS.spec.name,
                REGIONS.spec.name
            );
        }
        session.work = Work::Planned(survey.into_plan());
        Ok(None)
    }

    /// A page of the files that are planned.
    async fn planned_page(&self, session: &mut Session) -> Result<Page, Error> {
        let Session { known: Known { progress, verified }, reader, work, pending, failing, .. } = session;
        let Work::Planned(plan) = work else { return Ok(session.empty(Then::CaughtUp)) };
        let (mut page, mut files, begun) = (Filling::default(), 0, Instant::now());
        let (mut has_moved, mut shrunk, mut has_room) = (false, false, true);
        if self.sweeps.is_some() {
            // The messages of later files may still be on their way.
            plan.end_at(plan.coverage.certain());
        }
        while let Some(file) = plan.first().cloned() {
            let is_late = begun.elapsed() >= PAGE_TIME && !page.events.is_empty();
            if page.is_full() || files >= PAGE_FILES || is_late {
                break;
            }
            has_room = progress.has_room(plan.coverage, file.class, file.modified);
            if !has_room {
                break;
            }
            reader.fetch_ahead(|| plan.next_ahead().cloned().map(|file| self.wanted(plan.key(&file), &file)));
            let wanted = self.wanted(plan.key(&file), &file);
            let mut records = progress
                .current
                .as_ref()
                .filter(|current| current.key == wanted.key)
                .map_or(0, |current| current.records);
            let before = records;
            let taken = reader.take(&wanted, &mut records, &mut page).await;
            note(verified, &taken, &wanted.key, file.modified);
            match self.settle(&wanted, records, taken, &mut page).await {
                Ok(true) => {
                    files += 1;
                    progress.current = progress.current.take().filter(|current| current.key != wanted.key);
                    shrunk |= progress.delivered(plan.coverage, file.class, file.modified, &wanted.key);
                    self.swept(progress, &wanted.key);
                    plan.pop();
                    has_moved = true;
                }
                Ok(false) => {
                    progress.current = Some(current(&wanted, &file, records));
                    has_moved = true;
                    break;
                }
                Err(error) if error.is_about_dead_letters() => return Err(error),
                Err(error) => {
                    let error = failing.note(&wanted.key, error);
                    // Its records may all be dead letters. The cursor must pass them, so that each is written only once.
                    if records > before {
                        progress.current = Some(current(&wanted, &file, records));
                        has_moved = true;
                    }
                    if page.events.is_empty() && !has_moved {
                        return Err(error);
                    }
                    *pending = Some(error);
                    break;
                }
            }
        }
        if files > 0 && self.sweeps.is_some() {
            tracing::info!(files, "a sweep delivered log files that no message of the queue has brought");
        }
        if shrunk {
            tracing::warn!(
                most = MOST,
                "more files came within ten minutes than the state can hold; a file that appears in a listing over a minute after it was written may be missed"
            );
        }
        let then = match (plan.len(), plan.is_cut) {
            _ if !has_room => {
                tracing::warn!(
                    most = MOST,
                    waiting = plan.len(),
                    "more files came within the last minutes than the state can hold; the newest ones wait, and the bucket is listed again"
                );
                *work = Work::None;
                Then::After(ROOM_TIME)
            }
            (0, false) => {
                progress.finished(plan.coverage, plan.newest);
                if self.sweeps.is_some() {
                    progress.make_room(plan.coverage);
                }
                if verified.is_some() {
                    *work = Work::verifying(plan.coverage.began);
                    Then::Now
                } else {
                    *work = Work::None;
                    Then::CaughtUp
                }
            }
            (0, true) => {
                *work = Work::None;
                Then::Now
            }
            _ => Then::Now,
        };
        session.filled(page, has_moved, then)
    }

    /// The rest of a file of which a part was delivered before this session began.
    async fn finish_file(&self, session: &mut Session) -> Result<Page, Error> {
        let Known { progress, verified } = &mut session.known;
        let Some(mut current) = progress.current.clone() else { return Ok(session.empty(Then::Now)) };
        let wanted = Wanted { bucket: Arc::clone(&self.terrain.bucket), key: current.key.clone(), size: current.size };
        let mut page = Filling::default();
        let before = current.records;
        let taken = session.reader.take(&wanted, &mut current.records, &mut page).await;
        note(verified, &taken, &wanted.key, current.modified);
        match self.settle(&wanted, current.records, taken, &mut page).await {
            Ok(true) => {
                progress.delivered_alone(current.class, current.modified, &current.key);
                self.swept(progress, &current.key);
                progress.current = None;
            }
            Ok(false) => progress.current = Some(current),
            Err(error) if error.is_about_dead_letters() => return Err(error),
            Err(error) => {
                let error = session.failing.note(&current.key, error);
                if current.records == before {
                    return Err(error);
                }
                session.pending = Some(error);
                progress.current = Some(current);
            }
        }
        session.filled(page, true, Then::Now)
    }

    /// A digest file is verified. What it lists and was not delivered is delivered next.
    async fn verify(&self, session: &mut Session, listed: Timestamp, since: Instant) -> Result<Page, Error> {
        let Known { progress, verified } = &mut session.known;
        let (Some(by), Some(verified)) = (&self.verifier, verified) else {
            session.work = Work::None;
            return Ok(session.empty(Then::CaughtUp));
        };
        let local = self.terrain.clock.local();
        let now = self.terrain.server_clock.at(local, local).unwrap_or(local.wall);
        let then = match by.lock().await.step(verified, progress, listed, now).await {
            Next::More if since.elapsed() >= VERIFYING_TIME => {
                session.work = Work::None;
                if self.sweeps.is_some() { Then::After(VERIFYING_PAUSE) } else { Then::Now }
            }
            Next::More => Then::Now,
            Next::Deliver(current) => {
                progress.current = Some(current);
                Then::Now
            }
            Next::Done => {
                session.work = Work::None;
                Then::CaughtUp
            }
        };
        session.filled(Filling::default(), then != Then::CaughtUp, then)
    }

    /// Counts a delivered file, if this is a sweep beside a queue. No message has named the file.
    fn swept(&self, progress: &mut Progress, key: &str) {
        if let Some(BesideQueue { metrics, .. }) = &self.sweeps {
            progress.swept(key);
            metrics.swept();
            tracing::debug!(
                location = location(&self.terrain.bucket, key),
                "a sweep delivered a log file that no message of the queue has brought"
            );
        }
    }

    /// Makes dead letters of what cannot be read of a file. Returns whether the file is finished.
    async fn settle(
        &self,
        wanted: &Wanted,
        records: u64,
        taken: Result<Taken, Error>,
        page: &mut Filling,
    ) -> Result<bool, Error> {
        // The cursor after the page passes these records, whatever became of the file.
        for invalid in page.invalid.drain(..) {
            self.letters.record(wanted, &invalid).await?;
        }
        match taken? {
            Taken::Part => Ok(false),
            Taken::Whole { .. } => Ok(true),
            Taken::Unreadable(reason) => {
                self.letters.file(wanted, records, &reason).await?;
                Ok(true)
            }
        }
    }

    fn wanted(&self, key: String, file: &Planned) -> Wanted {
        Wanted { bucket: Arc::clone(&self.terrain.bucket), key, size: file.size }
    }
}

impl Failing {
    /// Notes that the object under `key` failed. If it keeps failing, the error says how to go on without it.
    fn note(&mut self, key: &str, error: Error) -> Error {
        let before = self.0.take().filter(|(known, _)| known == key).map_or(0, |(_, times)| times);
        let times = before + 1;
        self.0 = Some((key.to_owned(), times));
        match error {
            Error::Call(call @ (CallError::Unavailable { .. } | CallError::Slow { .. })) if times >= MOST_FAILURES => {
                Error::Failing { times, leave_out: leave_out(key), call }
            }
            error => error,
        }
    }
}

/// If a file was read to its end, keeps its hash for the digest that lists it.
fn note(verified: &mut Option<Verified>, taken: &Result<Taken, Error>, key: &str, modified: Timestamp) {
    let Some(verified) = verified else { return };
    match taken {
        Ok(Taken::Whole { digest: Some(digest) }) => verified.delivered(key, modified, *digest),
        // The verifier looks for a missing file again when its digest comes.
        Ok(Taken::Unreadable(Unreadable::Gone)) => {}
        // No digest lists such content, and the digest must not make the file be delivered again.
        Ok(Taken::Unreadable(reason)) if reason.is_of_other_content() => {
            verified.delivered(key, modified, Sha256::of(b""));
        }
        Ok(Taken::Unreadable(_)) => verified.given_up(key, modified),
        _ => {}
    }
}

fn begin(mut survey: Survey) -> Surveying {
    let has_answered = survey.has_answered();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let ended = survey.run().await;
        (survey, ended)
    }));
    Surveying { task, has_answered }
}

fn current(wanted: &Wanted, file: &Planned, records: u64) -> Current {
    Current { key: wanted.key.clone(), modified: file.modified, size: file.size, class: file.class, records }
}

impl Session {
    fn filled(&self, page: Filling, progressed: bool, then: Then) -> Result<Page, Error> {
        if page.too_old > 0 {
            tracing::debug!(records = page.too_old, since = %self.reader.since, "records from before the start are left out");
        }
        let next = self.known.encode()?;
        Ok(Page { events: page.events, deduplicated: page.deduplicated, next, progressed, then })
    }

    /// Makes a page without events that leaves the cursor where it is.
    fn empty(&self, then: Then) -> Page {
        Page { events: Vec::new(), deduplicated: 0, next: self.cursor.clone(), progressed: false, then }
    }
}
