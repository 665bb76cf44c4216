//! The engine's signs of life, and what they mean: does it move, and does it succeed?
//!
//! The engine tells before it waits for what, and for how long that may take. So a long wait that has its reason (a slow answer, a
//! `Retry-After`, the rest until the next synchronisation) is no hang, and one that should have been over is.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::Chain;

/// What is granted beyond the time that something may take: for timers, disks and processors that are busy.
const SLACK: Duration = Duration::from_secs(20);

/// A call to the source may be three exchanges: for the token's place, for the token, and for the page.
const EXCHANGES: u32 = 3;

/// A call to a store is several requests, each bounded by its client to some seconds; on a disk nothing bounds it.
const STORE_CALL: Duration = Duration::from_secs(30);

/// A synchronisation succeeds in time if it does within so many intervals.
const INTERVALS: u32 = 3;

/// How long things take by the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The time from the start of one synchronisation to the start of the next.
    pub interval: Duration,
    /// The longest time for one HTTP exchange.
    pub exchange: Duration,
}

/// What the engine tells of itself. Clones share it.
#[derive(Debug, Clone)]
pub struct Pulse {
    pace: Pace,
    signs: Arc<Mutex<Signs>>,
    standing: Arc<watch::Sender<String>>,
}

#[derive(Debug)]
struct Signs {
    next_id: u64,
    /// What is waited for.
    waits: BTreeMap<u64, Wait>,
    /// When the last wait began or ended.
    moved: Instant,
    holder: Option<String>,
    success: Option<(Instant, Timestamp)>,
    last_error: Option<Told>,
}

#[derive(Debug)]
struct Wait {
    what: &'static str,
    longest: Duration,
    since: Instant,
}

/// An error as it was told, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// When it was told last.
    pub at: Timestamp,
    /// The error, without what a server had said: that may be a part of a record.
    pub error: String,
}

/// The answer of `/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether the engine moves.
    #[serde(skip)]
    pub is_good: bool,
    /// `alive` or `stuck`.
    pub status: &'static str,
    /// Why it is said to be stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether it does its part.
    #[serde(skip)]
    pub is_good: bool,
    /// `ready`, `standing by` or `not ready`.
    pub status: &'static str,
    /// Why, for a person.
    pub reason: String,
    /// When a synchronisation, or a page of a backlog, was last delivered and committed.
    pub last_success: Option<Timestamp>,
    /// The error that was told last, be it over by now or not.
    pub last_error: Option<Told>,
}

impl Default for Pulse {
    /// One that nobody looks at.
    fn default() -> Self {
        Self::new(Pace { interval: Duration::ZERO, exchange: Duration::ZERO })
    }
}

impl Pulse {
    /// Nothing has happened yet.
    pub fn new(pace: Pace) -> Self {
        let signs = Signs {
            next_id: 0,
            waits: BTreeMap::new(),
            moved: Instant::now(),
            holder: None,
            success: None,
            last_error: None,
        };
        Self { pace, signs: Arc::new(Mutex::new(signs)), standing: Arc::default() }
    }

    /// A call to the source or the destination begins. It may take as long as its exchanges may.
    pub fn calls(&self, whom: &'static str) -> Waiting {
        self.begin(whom, self.pace.exchange.saturating_mul(EXCHANGES))
    }

    /// A call to the state store begins.
    pub fn calls_store(&self, store: &'static str) -> Waiting {
        self.begin(store, STORE_CALL)
    }

    /// A pause of this length begins.
    pub fn pauses(&self, length: Duration) -> Waiting {
        self.begin("end of a pause", length)
    }

    fn begin(&self, what: &'static str, longest: Duration) -> Waiting {
        let mut signs = self.signs();
        let (id, since) = (signs.next_id, Instant::now());
        signs.next_id += 1;
        signs.waits.insert(id, Wait { what, longest: longest.saturating_add(SLACK), since });
        signs.moved = since;
        drop(signs);
        Waiting { pulse: self.clone(), id }
    }

    /// Another instance works on the state.
    pub fn stands_by(&self, holder: &str) {
        self.signs().holder = Some(holder.to_owned());
    }

    /// This instance works on the state now.
    pub fn takes_charge(&self) {
        self.signs().holder = None;
    }

    /// A synchronisation, or a page of a backlog, was delivered and committed.
    pub fn succeeds(&self) {
        self.signs().success = Some((Instant::now(), Timestamp::now()));
    }

    /// An error was told in the log.
    pub fn told(&self, error: &(dyn Error + 'static)) {
        let error = without_quotes(&Chain(error).to_string());
        self.signs().last_error = Some(Told { at: Timestamp::now(), error });
    }

    /// How the work stands, in words for an operator; control characters are left out.
    pub fn stands(&self, standing: impl Display) {
        self.standing.send_replace(standing.to_string().replace(char::is_control, " "));
    }

    /// How the work stands, now and whenever that changes.
    pub fn standing(&self) -> watch::Receiver<String> {
        self.standing.subscribe()
    }

    /// Whether the engine moves as it should.
    pub fn health(&self) -> Health {
        let reason = self.signs().hang();
        let status = if reason.is_none() { "alive" } else { "stuck" };
        Health { is_good: reason.is_none(), status, reason }
    }

    /// Whether the last synchronisation succeeded, and not too long ago. To stand by is all that a second instance has to do.
    pub fn readiness(&self) -> Readiness {
        self.readiness_at(Timestamp::now())
    }

    fn readiness_at(&self, now: Timestamp) -> Readiness {
        let signs = self.signs();
        let limit = self.pace.interval.saturating_mul(INTERVALS);
        let (status, reason) = match (&signs.holder, signs.success) {
            (Some(holder), _) => ("standing by", format!("another instance works on the state: {holder}")),
            (None, None) => ("not ready", "no synchronisation has succeeded since the start".to_owned()),
            (None, Some((when, time))) => {
                // While the host is suspended, only the wall clock goes on.
                let by_wall = Duration::try_from(now.duration_since(time)).unwrap_or_default();
                let elapsed = when.elapsed().max(by_wall);
                let ago = format!("the last success was {} ago", whole_seconds(elapsed));
                if elapsed <= limit {
                    ("ready", ago)
                } else {
                    ("not ready", format!("{ago}, which is over {INTERVALS} intervals ({})", whole_seconds(limit)))
                }
            }
        };
        Readiness {
            is_good: status != "not ready",
            status,
            reason,
            last_success: signs.success.map(|(_, time)| time),
            last_error: signs.last_error.clone(),
        }
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signs {
    /// What should have been over by now.
    fn hang(&self) -> Option<String> {
        let overdue = self.waits.values().filter(|wait| wait.since.elapsed() > wait.longest);
        if let Some(wait) = overdue.min_by_key(|wait| wait.since) {
            let (waited, longest) = (whole_seconds(wait.since.elapsed()), whole_seconds(wait.longest));
            return Some(format!(
                "it has waited for the {} for {waited}, which should take {longest} at most",
                wait.what
            ));
        }
        // Between two waits there is next to nothing to do.
        let is_still = self.waits.is_empty() && self.moved.elapsed() > SLACK;
        is_still.then(|| format!("nothing has moved for {}", whole_seconds(self.moved.elapsed())))
    }
}

/// Something is waited for, until this is dropped.
#[derive(Debug)]
pub struct Waiting {
    pulse: Pulse,
    id: u64,
}

impl Waiting {
    /// For whoever sees the parts of what is waited for.
    pub fn beat(&self) -> Beat {
        Beat(Some((self.pulse.clone(), self.id)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut signs = self.pulse.signs();
        signs.waits.remove(&self.id);
        signs.moved = Instant::now();
    }
}

/// Told after each part of something long: what is left has its whole time again.
#[derive(Debug, Clone, Default)]
pub struct Beat(Option<(Pulse, u64)>);

impl Beat {
    /// A part is done.
    pub fn beats(&self) {
        let Some((pulse, id)) = &self.0 else { return };
        if let Some(wait) = pulse.signs().waits.get_mut(id) {
            wait.since = Instant::now();
        }
    }
}

/// `text` without what stands in double quotes, as everything does that comes from a server ([`crate::http::Excerpt`]).
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

fn whole_seconds(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pulse() -> Pulse {
        Pulse::new(Pace { interval: seconds(60), exchange: seconds(30) })
    }

    fn stuck(pulse: &Pulse) -> Option<String> {
        pulse.health().reason
    }

    #[tokio::test]
    async fn a_standing_is_one_line() {
        let pulse = pulse();
        let standing = pulse.standing();
        pulse.stands("a\nREADY=0\r\u{7}b");
        assert_eq!(*standing.borrow(), "a READY=0  b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_was_suspended_is_not_ready_by_a_success_of_yesterday() {
        let pulse = pulse();
        pulse.succeeds();
        let in_hours = |hours| pulse.readiness_at(Timestamp::now() + jiff::SignedDuration::from_hours(hours));
        assert!(in_hours(0).is_good);
        assert!(!in_hours(20).is_good, "{:?}", in_hours(20));
        assert!(in_hours(-20).is_good, "the clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_that_has_its_reason_is_no_hang() {
        let pulse = pulse();
        let pause = pulse.pauses(seconds(900));
        advance(seconds(900)).await;
        assert_eq!(stuck(&pulse), None);
        drop(pause);
        let call = pulse.calls("source");
        advance(seconds(90)).await;
        assert_eq!(stuck(&pulse), None);
        advance(seconds(21)).await;
        let reason = stuck(&pulse).unwrap();
        assert_eq!(reason, "it has waited for the source for 1m 51s, which should take 1m 50s at most");
        assert!(!pulse.health().is_good);
        drop(call);
        assert_eq!(stuck(&pulse), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_wait_that_is_overdue_is_not_hidden_by_another_that_is_not() {
        let pulse = pulse();
        let _call = pulse.calls("destination");
        for _ in 0..20 {
            let _write = pulse.calls_store("state store");
            advance(seconds(10)).await;
        }
        assert!(stuck(&pulse).unwrap().contains("waited for the destination"));
    }

    #[tokio::test(start_paused = true)]
    async fn something_long_is_alive_as_long_as_its_parts_are() {
        let pulse = pulse();
        let call = pulse.calls("destination");
        for _ in 0..100 {
            advance(seconds(30)).await;
            call.beat().beats();
        }
        assert_eq!(stuck(&pulse), None);
        advance(seconds(151)).await;
        assert!(stuck(&pulse).is_some());
        let late = call.beat();
        drop(call);
        late.beats();
        assert_eq!(stuck(&pulse), None);
    }

    #[tokio::test(start_paused = true)]
    async fn to_wait_for_nothing_is_to_be_stuck() {
        let pulse = pulse();
        advance(SLACK).await;
        assert_eq!(stuck(&pulse), None);
        advance(seconds(1)).await;
        assert_eq!(stuck(&pulse).unwrap(), "nothing has moved for 21s");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_for_three_intervals_after_a_success() {
        let pulse = pulse();
        assert_eq!(pulse.readiness().reason, "no synchronisation has succeeded since the start");
        assert!(!pulse.readiness().is_good);
        pulse.succeeds();
        advance(seconds(180)).await;
        assert_eq!((pulse.readiness().is_good, pulse.readiness().status), (true, "ready"));
        advance(seconds(1)).await;
        let late = pulse.readiness();
        assert_eq!((late.is_good, late.status), (false, "not ready"));
        assert_eq!(late.reason, "the last success was 3m 1s ago, which is over 3 intervals (3m)");
        assert!(late.last_success.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_by_does_its_part() {
        let pulse = pulse();
        pulse.stands_by("process 7 on node-1");
        let standing_by = pulse.readiness();
        assert_eq!((standing_by.is_good, standing_by.status), (true, "standing by"));
        assert!(standing_by.reason.ends_with("process 7 on node-1"));
        pulse.takes_charge();
        assert!(!pulse.readiness().is_good);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_told_last_stays_and_shows_nothing_that_a_server_said() {
        #[derive(Debug, thiserror::Error)]
        #[error("https://a.example answered 400: \"{}\"; check DD_SITE", .0.escape_debug())]
        struct Refused(&'static str);
        let pulse = pulse();
        pulse.told(&Refused(r#"{"user":"\"eve\\"}"#));
        pulse.succeeds();
        let told = pulse.readiness().last_error.unwrap();
        assert_eq!(told.error, "https://a.example answered 400: \"…\"; check DD_SITE");
        for (text, expected) in [("\"cut", "\"…"), ("a \"\" b", "a \"…\" b"), (r"a \ b", r"a \ b")] {
            assert_eq!(without_quotes(text), expected);
        }
    }
}
