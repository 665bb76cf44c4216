//! Decides whether the API's records are stable: whether the API returns the same records again for the same time.
//!
//! One answer without the known records is as likely a passing fault as a server whose records change. The server may
//! be rebuilding an index, or a replica may lag. So auditsync delivers nothing of it, and requests it again. Only if
//! the contradiction lasts does it read the range without its overlap. Each later range still begins with its overlap,
//! whose first page shows when the records are stable again.

use std::time::Duration;

use tokio::time::Instant;

use super::cursor::{Cut, SectigoCursor};
use super::moment::Moment;
use super::range::{Contradiction, InRange, PageToken, Sifted};
use crate::event::Event;

/// The number of contradictions that show that records are not stable. Two may come from one slow replica.
const CONTRADICTIONS: u32 = 3;

/// The time over which they must be spread. A server that restarts or rebuilds an index takes a minute or two. The
/// value is well below the default `SECTIGO_AUDIT_RETRY_BUDGET`, so that a single run can get past it.
const SPREAD: Duration = Duration::from_secs(120);

/// The API's stability, as known since the process started.
#[derive(Debug, Default)]
pub struct Stability {
    is_off: bool,
    contradicted: Option<Contradicted>,
}

/// Contradictions in a row, all for the same range.
#[derive(Debug, Clone, Copy)]
struct Contradicted {
    since: Moment,
    times: u32,
    first: Instant,
}

/// The outcome of a page.
#[derive(Debug)]
pub struct Outcome {
    /// The page's result, or the cursor to continue with without it.
    pub sifted: Sifted,
    /// A change to log.
    pub turn: Option<Turn>,
}

/// A change of the API's stability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The records turned out not to be stable.
    Off,
    /// They are stable again.
    On,
}

impl Stability {
    /// Takes a page at `now` as [`InRange::take`] does, unless the records are not stable.
    pub fn sift(
        &mut self,
        range: InRange,
        records: Vec<Event>,
        token: Option<PageToken>,
        cut: Cut,
        now: Instant,
    ) -> Result<Outcome, Contradiction> {
        let is_probe = self.is_off && range.is_probe();
        let since = range.since();
        match range.clone().take(records, token) {
            // Without one known record, delivering this page could repeat the whole overlap.
            Ok(sifted) if is_probe && sifted.deduplicated == 0 => Ok(without_overlap(range, cut, None)),
            Ok(sifted) => {
                if sifted.deduplicated > 0 || matches!(sifted.next, SectigoCursor::Idle { .. }) {
                    self.contradicted = None;
                }
                let turn = (is_probe && std::mem::take(&mut self.is_off)).then_some(Turn::On);
                Ok(Outcome { sifted, turn })
            }
            Err(Contradiction::Unstable { .. }) if self.is_off => Ok(without_overlap(range, cut, None)),
            Err(Contradiction::Unstable { .. }) if self.lasts(since, now) => {
                (self.is_off, self.contradicted) = (true, None);
                Ok(without_overlap(range, cut, Some(Turn::Off)))
            }
            Err(contradiction) => Err(contradiction),
        }
    }

    /// Counts a contradiction. True if it has lasted long enough.
    fn lasts(&mut self, since: Moment, now: Instant) -> bool {
        let known = self.contradicted.filter(|known| known.since == since);
        let known = known.unwrap_or(Contradicted { since, times: 0, first: now });
        let counted = Contradicted { times: known.times.saturating_add(1), ..known };
        self.contradicted = Some(counted);
        counted.times >= CONTRADICTIONS && now.duration_since(counted.first) >= SPREAD
    }
}

/// Drops the page, and continues with its range without the overlap.
fn without_overlap(range: InRange, cut: Cut, turn: Option<Turn>) -> Outcome {
    let next = SectigoCursor::InRange(range.despite_contradiction(cut));
    Outcome { sifted: Sifted { fresh: Vec::new(), deduplicated: 0, shrunk: false, doubtful: 0, next }, turn }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;
    use crate::source::sectigo::page;

    const CUT: Cut = Cut { window: Duration::from_secs(3600), overlap: Duration::from_secs(300) };

    fn at(time: &str) -> Moment {
        Moment::from(format!("2026-03-01T{time}Z").parse::<Timestamp>().unwrap())
    }

    /// A server whose records hold `salt`; another salt makes different records.
    struct World {
        records: Vec<(Moment, String)>,
        salt: u32,
        stability: Stability,
        cursor: SectigoCursor,
        delivered: Vec<String>,
        turns: Vec<Turn>,
        asked: usize,
    }

    impl World {
        /// Delivers thirty records of the last minute.
        fn new() -> Self {
            let mut world = Self {
                records: Vec::new(),
                salt: 0,
                stability: Stability::default(),
                cursor: SectigoCursor::starting_at(at("11:00:00")),
                delivered: Vec::new(),
                turns: Vec::new(),
                asked: 0,
            };
            world.happens("11:59:00", 30);
            world.sync("12:00:00", Instant::now()).unwrap();
            world
        }

        /// This many records, a second apart.
        fn happens(&mut self, from: &str, count: u64) {
            for n in 0..count {
                let name = format!("{from}+{n}");
                self.records.push((at(from).after(Duration::from_secs(n)), name));
            }
        }

        /// Reads up to `end`; the server does not show the records in `hidden`.
        fn sync_hiding(&mut self, end: &str, now: Instant, hidden: fn(Moment) -> bool) -> Result<(), Contradiction> {
            while let Some(range) = self.cursor.clone().enter(at(end), CUT) {
                self.asked += 1;
                assert!(self.asked < 1000, "it goes round in a circle");
                let shown = self
                    .records
                    .iter()
                    .filter(|(time, _)| range.from() < *time && *time <= range.until() && !hidden(*time));
                let records: Vec<_> = shown
                    .map(|(time, name)| format!(r#"{{"id":"{name}","created":"{time}","salt":{}}}"#, self.salt))
                    .collect();
                let records = page::records(&Bytes::from(format!("[{}]", records.join(",")))).unwrap();
                let Outcome { sifted, turn } = self.stability.sift(range, records, None, CUT, now)?;
                self.turns.extend(turn);
                let id = |event: &Event| event.text(crate::event::Field::Id).unwrap().into_owned();
                self.delivered.extend(sifted.fresh.iter().map(id));
                // The state document is written and read in between.
                self.cursor = serde_json::from_str(&serde_json::to_string(&sifted.next).unwrap()).unwrap();
            }
            Ok(())
        }

        fn sync(&mut self, end: &str, now: Instant) -> Result<(), Contradiction> {
            self.sync_hiding(end, now, |_| false)
        }

        fn sync_empty(&mut self, end: &str, now: Instant) -> Result<(), Contradiction> {
            self.sync_hiding(end, now, |_| true)
        }

        /// Empty answers for two minutes.
        fn switch_off(&mut self, now: Instant) {
            for seconds in [0, 60] {
                let contradiction = self.sync_empty("12:00:30", now + Duration::from_secs(seconds)).unwrap_err();
                assert_eq!(contradiction, Contradiction::Unstable { expected: 30 });
            }
            self.sync_empty("12:00:30", now + Duration::from_secs(120)).unwrap();
            assert_eq!(self.turns, [Turn::Off]);
        }

        fn assert_all_once(&self) {
            let times = |name: &str| self.delivered.iter().filter(|delivered| *delivered == name).count();
            let wrong: Vec<_> =
                self.records.iter().map(|(_, name)| (name, times(name))).filter(|(_, n)| *n != 1).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn one_empty_answer_costs_no_late_record() {
        let (mut world, now) = (World::new(), Instant::now());
        world.happens("11:58:00", 5);
        for n in 0..100 {
            // Any number of times within a short time.
            assert!(world.sync_empty("12:00:30", now + Duration::from_secs(n)).is_err());
        }
        world.sync("12:00:30", now + Duration::from_secs(101)).unwrap();
        assert_eq!(world.turns, []);
        world.assert_all_once();
    }

    #[test]
    fn contradictions_that_are_few_or_of_other_ranges_do_not_add_up() {
        let (mut world, now) = (World::new(), Instant::now());
        assert!(world.sync_empty("12:00:30", now).is_err());
        assert!(world.sync_empty("12:00:30", now + Duration::from_secs(3600)).is_err(), "two are too few");
        world.sync("12:00:30", now + Duration::from_secs(3601)).unwrap();
        assert!(world.sync_empty("12:01:00", now + Duration::from_secs(3602)).is_err());
        assert!(world.sync_empty("12:01:00", now + Duration::from_secs(3603)).is_err());
        assert!(world.sync_empty("12:01:00", now + Duration::from_secs(3604)).is_err(), "counted from the start");
    }

    #[test]
    fn the_overlap_comes_back_with_what_became_visible_late_meanwhile() {
        let (mut world, now) = (World::new(), Instant::now());
        world.switch_off(now);
        world.happens("12:00:10", 15);
        world.happens("12:00:40", 15);
        world.sync_empty("12:01:00", now + Duration::from_secs(180)).unwrap();
        world.sync("12:01:30", now + Duration::from_secs(210)).unwrap();
        assert_eq!(world.turns, [Turn::Off, Turn::On]);
        world.happens("12:01:10", 1);
        world.sync("12:02:00", now + Duration::from_secs(240)).unwrap();
        world.assert_all_once();
        assert!(world.sync_empty("12:02:30", now + Duration::from_secs(270)).is_err(), "protected as before");
    }

    #[test]
    fn an_outage_longer_than_the_overlap_ends_with_the_first_known_record() {
        let (mut world, now) = (World::new(), Instant::now());
        world.switch_off(now);
        for (n, end) in (3..).zip(["12:02:00", "12:04:00", "12:06:00", "12:08:00", "12:10:00"]) {
            world.sync_empty(end, now + Duration::from_secs(n * 60)).unwrap();
        }
        world.happens("12:10:10", 3);
        world.sync_hiding("12:10:30", now + Duration::from_secs(600), |time| time <= at("12:10:00")).unwrap();
        world.happens("12:09:00", 4);
        world.sync("12:11:00", now + Duration::from_secs(630)).unwrap();
        assert_eq!(world.turns, [Turn::Off, Turn::On]);
        world.assert_all_once();
    }

    #[test]
    fn records_that_are_never_stable_are_delivered_once_and_the_memory_is_bounded() {
        let (mut world, now) = (World::new(), Instant::now());
        world.switch_off(now);
        for minute in 1..50 {
            let (begin, end) = (format!("12:{minute:02}:01"), format!("12:{:02}:00", minute + 1));
            world.happens(&begin, 30);
            world.salt += 1;
            world.sync(&end, now + Duration::from_secs(200 + 60 * minute)).unwrap();
            assert!(serde_json::to_string(&world.cursor).unwrap().len() < 11 * 4096 + 1000);
        }
        assert_eq!(world.turns, [Turn::Off]);
        world.assert_all_once();
    }
}
