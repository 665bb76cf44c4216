//! What both servers of a case keep, and the oracle: which record arrived, was dropped, or came twice.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::plan::{Dates, Dislike, IntakeFault, Plan, SourceFault};
use crate::history::ORIGIN;
use crate::plan::Spell;

/// What the daemon finds far back at its first start.
pub(crate) const LOOKBACK: u64 = 1500;

/// The intake drops what is older, although it answers 202.
const OLDEST: i64 = 18 * 3600;
/// And what is further ahead.
const FURTHEST: i64 = 2 * 3600;

thread_local! {
    /// When the case began, and by how many seconds this machine's clock of the day is ahead of tokio's since.
    static CLOCK: Cell<Option<(Instant, i64)>> = const { Cell::new(None) };
}

/// This machine's clock of the day.
pub(crate) fn wall() -> Timestamp {
    let (begun, ahead) = CLOCK.get().unwrap();
    ORIGIN + begun.elapsed() + SignedDuration::from_secs(ahead)
}

/// One record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) at: Timestamp,
    pub(crate) visible: Timestamp,
    pub(crate) is_marked: bool,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) records: Vec<Record>,
    begun: Instant,
    inner: Mutex<Inner>,
}

/// What happened so far.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) source: VecDeque<Option<SourceFault>>,
    pub(crate) intake: VecDeque<Option<IntakeFault>>,
    pub(crate) is_healed: bool,
    suspended: i64,
    ahead: i64,
    /// How many answers the servers gave.
    pub(crate) answers: usize,
    /// How often each record arrived and was kept.
    kept: Vec<usize>,
    /// How often each record was accepted and dropped because of its time.
    pub(crate) dropped: Vec<usize>,
    permitted: Vec<usize>,
    /// Times of the requests that were answered 401 and 503 in turns.
    pub(crate) alternated: usize,
    violation: Option<String>,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut records = Vec::new();
        for burst in &plan.bursts {
            for nth in 0..burst.count {
                let number = records.len();
                let at =
                    ORIGIN + SignedDuration::from_secs(i64::from(burst.at) + i64::from(nth) * i64::from(burst.step));
                let visible = at + SignedDuration::from_secs(burst.late.into());
                let is_marked = burst.marked.is_some_and(|marked| marked % burst.count == nth);
                let mark = if is_marked { "<script>" } else { "plain" };
                let text = format!(r#"{{"id":"rec-{number:06}","created":"{at:.3}","details":"{mark}"}}"#);
                records.push(Record { at, visible, is_marked, text });
            }
        }
        let nothing = vec![0; records.len()];
        let inner = Inner {
            source: calls(&plan.source),
            intake: calls(&plan.intake),
            is_healed: false,
            suspended: 0,
            ahead: 0,
            answers: 0,
            kept: nothing.clone(),
            dropped: nothing.clone(),
            permitted: nothing,
            alternated: 0,
            violation: None,
        };
        let world = Self { plan: plan.clone(), records, begun: Instant::now(), inner: Mutex::new(inner) };
        world.set_ahead(plan.ahead);
        world
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The true time, which both servers show.
    pub(crate) fn now(&self) -> Timestamp {
        ORIGIN + self.begun.elapsed() + SignedDuration::from_secs(self.inner().suspended)
    }

    /// Seconds by tokio's clock since the start.
    pub(crate) fn elapsed(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }

    /// This machine's clock of the day is ahead by so many seconds from now on.
    pub(crate) fn set_ahead(&self, ahead: i64) {
        let mut inner = self.inner();
        inner.ahead = ahead;
        CLOCK.set(Some((self.begun, ahead + inner.suspended)));
    }

    /// Time passed that the monotonic clock did not see.
    pub(crate) fn suspend(&self, seconds: i64) {
        let mut inner = self.inner();
        inner.suspended += seconds;
        CLOCK.set(Some((self.begun, inner.ahead + inner.suspended)));
    }

    /// From now on, everything works but what the intake dislikes; and this machine's clock is right.
    pub(crate) fn heal(&self) {
        let mut inner = self.inner();
        inner.source.clear();
        inner.intake.clear();
        inner.is_healed = true;
        drop(inner);
        self.set_ahead(0);
    }

    /// Whether this answer carries a `Date`.
    pub(crate) fn is_dated(&self, dates: Dates) -> bool {
        let mut inner = self.inner();
        inner.answers += 1;
        match dates {
            Dates::Always => true,
            Dates::Never => false,
            Dates::Mostly => inner.answers % 3 != 0,
        }
    }

    /// The intake takes a record with this time.
    pub(crate) fn take(&self, number: usize, stamp: Timestamp) {
        let now = self.now();
        let fits = |time: Timestamp, margin: i64| {
            let age = now.duration_since(time).as_secs();
            (-FURTHEST + margin..=OLDEST - margin).contains(&age)
        };
        let record = &self.records[number];
        let mut inner = self.inner();
        if !fits(stamp, 0) {
            inner.dropped[number] += 1;
            return;
        }
        let own = record.at;
        if fits(own, 5400) && stamp.duration_since(own).abs() > SignedDuration::from_secs(1) {
            inner.violated(format!(
                "rec-{number:06} of {own} carried {stamp} at {now}, though its own time was current"
            ));
        }
        inner.kept[number] += 1;
        let (kept, most) = (inner.kept[number], 1 + inner.permitted[number]);
        if kept > most && !record.is_marked {
            inner.violated(format!("repeated: rec-{number:06} arrived {kept} times, at most {most} were permitted"));
        }
    }

    /// These may come once more.
    pub(crate) fn permit(&self, numbers: impl IntoIterator<Item = usize>) {
        let mut inner = self.inner();
        for number in numbers {
            inner.permitted[number] += 1;
        }
    }

    /// Whether everything that could be seen before `until` has arrived. `dead` are the lines of the rejected file.
    pub(crate) fn check_all(&self, until: Timestamp, dead: &str) {
        let mut inner = self.inner();
        for (number, record) in self.records.iter().enumerate() {
            let is_dead = dead.contains(&format!("rec-{number:06}"));
            if is_dead && !record.is_marked {
                inner.violated(format!("rec-{number:06}, which the intake likes, was put into the rejected file"));
            }
            if record.visible.max(record.at) < until && inner.kept[number] == 0 && !is_dead {
                let dropped = inner.dropped[number];
                inner.violated(format!("lost: rec-{number:06} of {}; accepted and dropped {dropped} times", record.at));
            }
        }
    }

    pub(crate) fn violated(&self, what: impl Into<String>) {
        self.inner().violated(what.into());
    }

    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.inner().violation.clone().map_or(Ok(()), Err)
    }

    /// Whether nothing but this machine's clock is wrong.
    pub(crate) fn is_only_clock(&self) -> bool {
        let Plan { source, intake, alternates, down, dislikes, lease, .. } = &self.plan;
        let is_well = source.is_empty() && intake.is_empty() && alternates.is_none() && down.is_none();
        is_well && *dislikes == Dislike::Not && lease.is_none()
    }
}

impl Inner {
    fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}

fn calls<F: Copy>(spells: &[Spell<F>]) -> VecDeque<Option<F>> {
    let calls = spells.iter().flat_map(|spell| {
        let well = std::iter::repeat_n(None, spell.after.into());
        well.chain(std::iter::repeat_n(Some(spell.fault), spell.times.into()))
    });
    calls.collect()
}
