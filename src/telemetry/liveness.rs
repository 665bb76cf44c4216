//! Tells whether a pipeline is alive (makes progress) and ready (its syncs succeed).
//!
//! Before each wait the engine notes what it waits for, and how long that may take. So an expected wait (a slow answer, a `Retry-After`,
//! the rest until the next sync) counts as healthy. A wait that should be over does not.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::whole_seconds;
use crate::component::Component;
use crate::failure::Chain;

/// The time allowed beyond the longest expected wait, since timers, disks and processors may be busy.
const SLACK: Duration = Duration::from_secs(20);

/// The most exchanges in a call: for the token endpoint's address, for the token, and for the page.
const EXCHANGES: u32 = 3;

/// The longest expected call to a store. It makes several requests, each bounded by its client to some seconds. Nothing bounds a call to
/// a disk.
const STORE_CALL: Duration = Duration::from_secs(30);

/// The number of intervals without a success after which a pipeline is not ready.
const INTERVALS: u32 = 3;

const STANDBY: &str = "standby";
const NOT_READY: &str = "not ready";

/// The configured times that expected waits depend on.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The time from the start of one sync to the start of the next.
    pub interval: Duration,
    /// The longest time for one HTTP exchange.
    pub exchange: Duration,
}

/// The liveness of a pipeline's engine. Clones share it.
#[derive(Debug, Clone)]
pub struct Liveness {
    pace: Pace,
    signs: Arc<Mutex<Observed>>,
    status: Arc<watch::Sender<String>>,
}

#[derive(Debug)]
struct Observed {
    next_id: u64,
    /// The present waits, by number.
    waits: BTreeMap<u64, Wait>,
    /// When the last wait began or ended.
    moved: Instant,
    holder: Option<String>,
    success: Option<(Instant, Timestamp)>,
    last_error: Option<LastError>,
    /// Why the pipeline failed.
    failed: Option<String>,
    /// Whether the run is over, and all its work is done. Other pipelines of the process may go on.
    is_over: bool,
    /// Why the source refuses what is pushed to it, if it does.
    refusal: Option<&'static str>,
    /// The backlog, if the source keeps one.
    backlog: Option<Backlog>,
    /// The longest time that the source should be silent.
    silence: Option<Duration>,
    /// When the source last had news.
    news: Option<Timestamp>,
    begun: Timestamp,
}

/// The entries that a source keeps until they are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// How many entries there are.
    pub entries: u64,
    /// The bytes of the entries.
    pub bytes: u64,
    /// When the oldest entry arrived.
    pub oldest: Option<Timestamp>,
}

#[derive(Debug)]
struct Wait {
    /// The called component; none in a pause.
    called: Option<Component>,
    longest: Duration,
    since: Instant,
}

/// The last logged error, and when it was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When it was logged.
    pub at: Timestamp,
    /// The error without any quoted text of a server, which may be a part of a record.
    pub error: String,
}

/// The answer of `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether the engine makes progress or is in an expected wait.
    #[serde(skip)]
    pub is_good: bool,
    /// `alive` or `stuck`.
    pub status: &'static str,
    /// Why the pipeline counts as stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether the pipeline delivers or is on standby.
    #[serde(skip)]
    pub is_good: bool,
    /// `ready`, `standby` or `not ready`.
    pub status: &'static str,
    /// The reason for the status, in words.
    pub reason: String,
    /// When a sync or a page of a backlog was last delivered and committed.
    pub last_success: Option<Timestamp>,
    /// The last logged error, even if it is over.
    pub last_error: Option<LastError>,
    /// The backlog, if the source keeps one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
}

impl Readiness {
    /// Whether another instance is active.
    pub fn is_standby(&self) -> bool {
        self.status == STANDBY
    }
}

impl Default for Liveness {
    /// A liveness that nobody reads.
    fn default() -> Self {
        Self::new(Pace { interval: Duration::ZERO, exchange: Duration::ZERO })
    }
}

impl Liveness {
    /// Makes the liveness of a pipeline that starts now.
    pub fn new(pace: Pace) -> Self {
        let signs = Observed {
            next_id: 0,
            waits: BTreeMap::new(),
            moved: Instant::now(),
            holder: None,
            success: None,
            last_error: None,
            failed: None,
            is_over: false,
            refusal: None,
            backlog: None,
            silence: None,
            news: None,
            begun: Timestamp::now(),
        };
        Self { pace, signs: Arc::new(Mutex::new(signs)), status: Arc::default() }
    }

    /// Notes that a call to a component begins. It may take as long as its exchanges.
    pub fn calls(&self, component: Component) -> Waiting {
        let longest = match component {
            Component::StateStore => STORE_CALL,
            _ => self.pace.exchange.saturating_mul(EXCHANGES),
        };
        self.begin(Some(component), longest)
    }

    /// Notes that a pause of this length begins.
    pub fn pauses(&self, length: Duration) -> Waiting {
        self.begin(None, length)
    }

    fn begin(&self, called: Option<Component>, longest: Duration) -> Waiting {
        let mut signs = self.signs.lock();
        let (id, since) = (signs.next_id, Instant::now());
        signs.next_id += 1;
        signs.waits.insert(id, Wait { called, longest: longest.saturating_add(SLACK), since });
        signs.moved = since;
        drop(signs);
        Waiting { liveness: self.clone(), id }
    }

    /// Notes that another instance is active and this one is on standby.
    pub fn is_standby(&self, holder: &str) {
        let mut signs = self.signs.lock();
        (signs.holder, signs.failed) = (Some(holder.to_owned()), None);
    }

    /// Notes that this instance is active now.
    pub fn is_active(&self) {
        let mut signs = self.signs.lock();
        (signs.holder, signs.failed) = (None, None);
    }

    /// Notes that a sync or a page of a backlog was delivered and committed.
    pub fn succeeds(&self) {
        self.signs.lock().success = Some((Instant::now(), Timestamp::now()));
    }

    /// Notes an error that was logged.
    pub fn logged(&self, error: &(dyn Error + 'static)) {
        let error = without_quotes(&Chain(error).to_string());
        self.signs.lock().last_error = Some(LastError { at: Timestamp::now(), error });
    }

    /// Notes that the run is over, and all its work is done.
    pub fn is_over(&self) {
        let mut signs = self.signs.lock();
        (signs.holder, signs.is_over) = (None, true);
    }

    /// Notes that the pipeline failed for this reason. Until it is active or on standby again, it is alive and not ready.
    pub fn failed(&self, reason: impl Display) {
        let mut signs = self.signs.lock();
        (signs.holder, signs.failed) = (None, Some(reason.to_string()));
    }

    /// Sets why the source refuses what is pushed to it; none if it does not. While it does, the pipeline is not ready.
    pub fn set_refusal(&self, reason: Option<&'static str>) {
        self.signs.lock().refusal = reason;
    }

    /// Sets the backlog.
    pub fn set_backlog(&self, backlog: Backlog) {
        self.signs.lock().backlog = Some(backlog);
    }

    /// Sets the longest time that the source should be silent.
    pub fn expects_news_within(&self, silence: Duration) {
        self.signs.lock().silence = Some(silence);
    }

    /// Notes that the source had news at this time.
    pub fn has_news(&self, at: Timestamp) {
        let mut signs = self.signs.lock();
        signs.news = signs.news.max(Some(at));
    }

    /// How long the source has been silent, if that is longer than expected.
    pub fn silent_for(&self, now: Timestamp) -> Option<Duration> {
        let signs = self.signs.lock();
        let silent = Duration::try_from(now.duration_since(signs.news.unwrap_or(signs.begun))).unwrap_or_default();
        signs.silence.filter(|expected| silent > *expected).map(|_| silent)
    }

    /// Sets the status of the work, in words for an operator. Control characters become blanks.
    pub fn set_status(&self, status: impl Display) {
        self.status.send_replace(status.to_string().replace(char::is_control, " "));
    }

    /// The status of the work, and its changes.
    pub fn status(&self) -> watch::Receiver<String> {
        self.status.subscribe()
    }

    /// Whether the engine makes progress.
    pub fn health(&self) -> Health {
        let reason = self.signs.lock().hang();
        let status = if reason.is_none() { "alive" } else { "stuck" };
        Health { is_good: reason.is_none(), status, reason }
    }

    /// Whether the last sync succeeded, and not too long ago. An instance on standby is ready, too.
    pub fn readiness(&self) -> Readiness {
        self.readiness_at(Timestamp::now())
    }

    fn readiness_at(&self, now: Timestamp) -> Readiness {
        let signs = self.signs.lock();
        let limit = self.pace.interval.saturating_mul(INTERVALS);
        let failed = signs.failed.clone().or_else(|| signs.refusal.map(str::to_owned));
        let (status, reason) = match (&signs.holder, signs.success) {
            _ if failed.is_some() => (NOT_READY, failed.unwrap_or_default()),
            _ if signs.is_over => ("ready", "its run is done".to_owned()),
            (Some(holder), _) => (STANDBY, format!("another instance is active: {holder}")),
            (None, None) => (NOT_READY, "no sync has succeeded since the start".to_owned()),
            (None, Some((when, time))) => {
                // Only the wall clock advances while the host is suspended.
                let by_wall = Duration::try_from(now.duration_since(time)).unwrap_or_default();
                let elapsed = when.elapsed().max(by_wall);
                let ago = format!("the last success was {} ago", whole_seconds(elapsed));
                if elapsed <= limit {
                    ("ready", ago)
                } else {
                    (NOT_READY, format!("{ago}, which is over {INTERVALS} intervals ({})", whole_seconds(limit)))
                }
            }
        };
        Readiness {
            is_good: status != NOT_READY,
            status,
            reason,
            last_success: signs.success.map(|(_, time)| time),
            last_error: signs.last_error.clone(),
            backlog: signs.backlog,
        }
    }
}

impl Observed {
    /// Finds a wait that should be over by now.
    fn hang(&self) -> Option<String> {
        let overdue = self.waits.values().filter(|wait| wait.since.elapsed() > wait.longest);
        if let Some(wait) = overdue.min_by_key(|wait| wait.since) {
            let (waited, longest) = (whole_seconds(wait.since.elapsed()), whole_seconds(wait.longest));
            let awaited = wait.called.map_or_else(|| "end of a pause".to_owned(), |component| component.to_string());
            return Some(format!("it has waited {waited} for the {awaited}, which should take at most {longest}"));
        }
        // Between two waits the engine does next to nothing. A pipeline that failed or is over has no waits.
        let is_still = self.failed.is_none() && !self.is_over && self.waits.is_empty() && self.moved.elapsed() > SLACK;
        is_still.then(|| format!("there was no progress for {}", whole_seconds(self.moved.elapsed())))
    }
}

/// A wait of the engine, which ends when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    liveness: Liveness,
    id: u64,
}

impl Waiting {
    /// Makes a heartbeat for code that sees parts of the call succeed.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat(Some((self.liveness.clone(), self.id)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut signs = self.liveness.signs.lock();
        signs.waits.remove(&self.id);
        signs.moved = Instant::now();
    }
}

/// Shows, after each part of a long call, that the call makes progress. The rest of the call then has its whole time again.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Option<(Liveness, u64)>);

impl Heartbeat {
    /// Notes that a part is done.
    pub fn beat(&self) {
        let Some((liveness, id)) = &self.0 else { return };
        if let Some(wait) = liveness.signs.lock().waits.get_mut(id) {
            wait.since = Instant::now();
        }
    }
}

/// Removes the content of double quotes from `text`. Everything from a server is in such quotes ([`crate::http::Excerpt`]).
fn without_quotes(text: &str) -> String {
    let (mut kept, mut is_quoted, mut is_escaped) = (String::new(), false, false);
    for character in text.chars() {
        match character {
            '"' if !is_escaped => {
                kept.push_str(if is_quoted { "\"" } else { "\"…" });
                is_quoted = !is_quoted;
            }
            _ if !is_quoted => kept.push(character),
            _ => {}
        }
        is_escaped = is_quoted && character == '\\' && !is_escaped;
    }
    kept
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn liveness() -> Liveness {
        Liveness::new(Pace { interval: seconds(60), exchange: seconds(30) })
    }

    fn stuck(liveness: &Liveness) -> Option<String> {
        liveness.health().reason
    }

    #[tokio::test]
    async fn a_status_is_one_line() {
        let liveness = liveness();
        let status = liveness.status();
        liveness.set_status("a\nREADY=0\r\u{7}b");
        assert_eq!(*status.borrow(), "a READY=0  b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_has_done_its_work_stays_alive_and_ready() {
        let liveness = liveness();
        drop(liveness.calls(Component::Source));
        liveness.succeeds();
        liveness.is_over();
        advance(seconds(86_400)).await;
        assert_eq!((stuck(&liveness), liveness.readiness().status), (None, "ready"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_was_suspended_is_not_ready_by_a_success_of_yesterday() {
        let liveness = liveness();
        liveness.succeeds();
        let in_hours = |hours| liveness.readiness_at(Timestamp::now() + jiff::SignedDuration::from_hours(hours));
        assert!(in_hours(0).is_good);
        assert!(!in_hours(20).is_good, "{:?}", in_hours(20));
        assert!(in_hours(-20).is_good, "the clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn an_expected_wait_counts_as_healthy() {
        let liveness = liveness();
        let pause = liveness.pauses(seconds(900));
        advance(seconds(900)).await;
        assert_eq!(stuck(&liveness), None);
        drop(pause);
        let call = liveness.calls(Component::Source);
        advance(seconds(90)).await;
        assert_eq!(stuck(&liveness), None);
        advance(seconds(21)).await;
        let reason = stuck(&liveness).unwrap();
        assert_eq!(reason, "it has waited 1m 51s for the source, which should take at most 1m 50s");
        assert!(!liveness.health().is_good);
        drop(call);
        assert_eq!(stuck(&liveness), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_wait_that_is_overdue_is_not_hidden_by_another_that_is_not() {
        let liveness = liveness();
        let _call = liveness.calls(Component::Destination);
        for _ in 0..20 {
            let _write = liveness.calls(Component::StateStore);
            advance(seconds(10)).await;
        }
        assert!(stuck(&liveness).unwrap().contains("for the destination, which"));
    }

    #[tokio::test(start_paused = true)]
    async fn something_long_is_alive_as_long_as_its_parts_are() {
        let liveness = liveness();
        let call = liveness.calls(Component::Destination);
        for _ in 0..100 {
            advance(seconds(30)).await;
            call.heartbeat().beat();
        }
        assert_eq!(stuck(&liveness), None);
        advance(seconds(151)).await;
        assert!(stuck(&liveness).is_some());
        let late = call.heartbeat();
        drop(call);
        late.beat();
        assert_eq!(stuck(&liveness), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_and_no_progress_is_a_hang() {
        let liveness = liveness();
        advance(SLACK).await;
        assert_eq!(stuck(&liveness), None);
        advance(seconds(1)).await;
        assert_eq!(stuck(&liveness).unwrap(), "there was no progress for 21s");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_for_three_intervals_after_a_success() {
        let liveness = liveness();
        assert_eq!(liveness.readiness().reason, "no sync has succeeded since the start");
        assert!(!liveness.readiness().is_good);
        liveness.succeeds();
        advance(seconds(180)).await;
        assert_eq!((liveness.readiness().is_good, liveness.readiness().status), (true, "ready"));
        advance(seconds(1)).await;
        let late = liveness.readiness();
        assert_eq!((late.is_good, late.status), (false, "not ready"));
        assert_eq!(late.reason, "the last success was 3m 1s ago, which is over 3 intervals (3m)");
        assert!(late.last_success.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_whose_source_refuses_what_is_pushed_is_not_ready() {
        let liveness = liveness();
        liveness.succeeds();
        liveness.set_refusal(Some("the spool is full"));
        let refusing = liveness.readiness();
        assert_eq!((refusing.is_good, refusing.reason.as_str()), (false, "the spool is full"));
        liveness.set_refusal(None);
        assert!(liveness.readiness().is_good);
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_is_ready() {
        let liveness = liveness();
        liveness.is_standby("process 7 on node-1");
        let standby = liveness.readiness();
        assert_eq!((standby.is_good, standby.status), (true, "standby"));
        assert!(standby.reason.ends_with("process 7 on node-1"));
        liveness.is_active();
        assert!(!liveness.readiness().is_good);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_stays_and_quotes_no_server() {
        #[derive(Debug, thiserror::Error)]
        #[error("https://a.example answered 400: \"{}\"; check DD_SITE", .0.escape_debug())]
        struct Refused(&'static str);
        let liveness = liveness();
        liveness.logged(&Refused(r#"{"user":"\"eve\\"}"#));
        liveness.succeeds();
        let told = liveness.readiness().last_error.unwrap();
        assert_eq!(told.error, "https://a.example answered 400: \"…\"; check DD_SITE");
        for (text, expected) in [("\"cut", "\"…"), ("a \"\" b", "a \"…\" b"), (r"a \ b", r"a \ b")] {
            assert_eq!(without_quotes(text), expected);
        }
    }
}
