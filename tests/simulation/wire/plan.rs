//! What a case on the wire consists of, and how cases are drawn.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::plan::Spell;

pub(crate) const HOUR: i64 = 3600;

/// One case. Times are true ones, in seconds from the start.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) bursts: Vec<Burst>,
    /// Records of a page.
    pub(crate) page: u8,
    pub(crate) interval: u32,
    /// How long the daemon runs before everything is well.
    pub(crate) lasts: u32,
    /// By how much this machine's clock is ahead at the start.
    pub(crate) ahead: i64,
    pub(crate) turns: Vec<Turn>,
    pub(crate) source_dates: Dates,
    pub(crate) intake_dates: Dates,
    /// What is wrong with requests for records.
    pub(crate) source: Vec<Spell<SourceFault>>,
    /// What is wrong with requests to the intake.
    pub(crate) intake: Vec<Spell<IntakeFault>>,
    /// From when on, and until when, requests for records are answered 401 and 503 in turns.
    pub(crate) alternates: Option<(u32, u32)>,
    /// From when on, and until when, no connection to the intake can be made.
    pub(crate) down: Option<(u32, u32)>,
    /// How the intake answers a request that carries a marked record.
    pub(crate) dislikes: Dislike,
    /// Where the store is shared and a lease is needed: from when on, and for how many seconds, the store cannot be reached.
    pub(crate) lease: Option<(u32, u32)>,
}

/// Some records in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burst {
    pub(crate) at: i32,
    pub(crate) count: u8,
    /// Seconds from one to the next.
    pub(crate) step: u8,
    /// Seconds until they can be seen.
    pub(crate) late: u16,
    /// Which record of them the intake dislikes.
    pub(crate) marked: Option<u8>,
}

/// Something befalls this machine's clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) at: u32,
    pub(crate) what: Change,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// The clock of the day is ahead by so many seconds from now on.
    Ahead(i64),
    /// The machine is suspended for so many seconds: its monotonic clock stands still.
    Suspended(u32),
}

/// Which answers carry a `Date`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dates {
    Always,
    Never,
    /// All but every third.
    Mostly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceFault {
    /// Answers with this status, and nothing else is wrong.
    Status(u16),
    /// The connection breaks.
    Reset,
    /// An empty page although there are records.
    Empty,
    /// The page that a page token leads to is the one before it, whose token leads on.
    Repeats,
    /// The last page of the range has a token, never seen before, that leads to the first page once more.
    Endless,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntakeFault {
    /// Answers with this status and takes nothing.
    Status(u16),
    /// Breaks before anything is taken.
    Reset,
    /// Takes everything and does not answer.
    Unanswered,
    /// Takes everything after so many seconds.
    Slow(u8),
    /// Something in between answers 200 in its place.
    Portal(&'static str),
}

/// How marked records are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dislike {
    Not,
    /// Always, in each form.
    Status(u16),
    /// At random.
    Flapping(u16),
    /// It is never answered.
    Unanswered,
}

impl Plan {
    /// Some records, and nothing wrong.
    pub(crate) fn quiet() -> Self {
        Self {
            seed: 0,
            bursts: vec![Burst { at: -600, count: 8, step: 60, late: 0, marked: None }],
            page: 5,
            interval: 60,
            lasts: 3600,
            ahead: 0,
            turns: Vec::new(),
            source_dates: Dates::Always,
            intake_dates: Dates::Always,
            source: Vec::new(),
            intake: Vec::new(),
            alternates: None,
            down: None,
            dislikes: Dislike::Not,
            lease: None,
        }
    }
}

fn burst(times: std::ops::Range<i32>) -> impl Strategy<Value = Burst> {
    (times, 1_u8..12, select(vec![0_u8, 1, 7, 60])).prop_map(|(at, count, step)| Burst {
        at,
        count,
        step,
        late: 0,
        marked: None,
    })
}

fn dates() -> impl Strategy<Value = Dates> {
    prop_oneof![2 => Just(Dates::Always), 1 => Just(Dates::Never), 1 => Just(Dates::Mostly)]
}

/// Spells of at most `most` calls, and `apart` calls from one to the next, so that none lasts.
/// Spells of at most `most` calls, and `apart` calls from one to the next, so that none lasts.
fn spells<F: std::fmt::Debug + Copy + 'static>(
    fault: impl Strategy<Value = F>,
    most: u8,
    apart: u8,
) -> impl Strategy<Value = Vec<Spell<F>>> {
    let spell = (0_u8..12, fault, 1..=most).prop_map(|(after, fault, times)| Spell { after, fault, times });
    vec(spell, 0..4).prop_map(move |mut spells| {
        for spell in spells.iter_mut().skip(1) {
            spell.after += apart;
        }
        spells
    })
}

/// A clock that is wrong by seconds to days, in either direction.
fn wrong() -> impl Strategy<Value = i64> {
    prop_oneof![
        2 => -200_i64..200,
        2 => -3 * HOUR..3 * HOUR,
        3 => -72 * HOUR..72 * HOUR,
        1 => select(vec![-HOUR, 17 * HOUR, -18 * HOUR, 400 * 24 * HOUR]),
    ]
}

/// Clocks of this machine that are wrong and jump; both servers tell the time, at least mostly.
pub(crate) fn clocks() -> impl Strategy<Value = Plan> {
    let what = prop_oneof![
        2 => wrong().prop_map(Change::Ahead),
        1 => (1_u32..200_000).prop_map(Change::Suspended),
    ];
    let turn = (1_u32..7000, what).prop_map(|(at, what)| Turn { at, what });
    let told = || prop_oneof![3 => Just(Dates::Always), 1 => Just(Dates::Mostly)];
    (any::<u64>(), vec(burst(-1400..6000), 1..5), wrong(), vec(turn, 0..3), told(), told(), any::<bool>()).prop_map(
        |(seed, bursts, ahead, turns, source_dates, intake_dates, right)| Plan {
            seed,
            bursts,
            ahead: if right { 0 } else { ahead },
            turns,
            source_dates,
            intake_dates,
            interval: 120,
            lasts: 10_000,
            ..Plan::quiet()
        },
    )
}

/// Hours to days without a record, or in which the intake cannot be reached; then records, and connections that break. This machine's clock
/// is right, and whether servers tell the time varies.
pub(crate) fn quiet_days() -> impl Strategy<Value = Plan> {
    let quiet = 60_i32..60 * 3600;
    (any::<u64>(), vec(burst(-1400..0), 1..3), quiet, 0_u8..3, any::<bool>(), dates(), dates()).prop_map(
        |(seed, mut bursts, quiet, times, is_down, source_dates, intake_dates)| {
            bursts.push(Burst { at: if is_down { 60 } else { quiet }, count: 6, step: 1, late: 0, marked: None });
            let quiet = quiet.unsigned_abs();
            Plan {
                seed,
                page: 100,
                interval: 600,
                lasts: quiet + 4000,
                source_dates,
                intake_dates,
                intake: vec![Spell { after: 1, fault: IntakeFault::Reset, times }],
                down: is_down.then_some((60, quiet)),
                bursts,
                ..Plan::quiet()
            }
        },
    )
}

/// Statuses out of nowhere.
pub(crate) fn refusals() -> impl Strategy<Value = Plan> {
    let status = select(vec![400_u16, 404, 405, 407, 421, 431, 302, 503, 429]);
    let fault = prop_oneof![6 => status.prop_map(SourceFault::Status), 1 => Just(SourceFault::Reset)];
    let portal = select(vec!["text/plain", "application/xhtml+xml", ""]).prop_map(IntakeFault::Portal);
    let status = select(vec![404_u16, 405, 407, 421, 302, 408, 429, 500]).prop_map(IntakeFault::Status);
    let intake = prop_oneof![3 => status, 2 => portal, 1 => Just(IntakeFault::Reset)];
    (any::<u64>(), vec(burst(-1400..3000), 1..6), 1_u8..8, spells(fault, 2, 1), spells(intake, 2, 1)).prop_map(
        |(seed, bursts, page, source, intake)| Plan {
            seed,
            bursts,
            page,
            source,
            intake,
            interval: 120,
            lasts: 6000,
            ..Plan::quiet()
        },
    )
}

/// Pages that change: empty ones, pages that repeat, and paginations without an end. Records come late, but within the overlap.
pub(crate) fn pages() -> impl Strategy<Value = Plan> {
    let fault =
        prop_oneof![2 => Just(SourceFault::Empty), 1 => Just(SourceFault::Repeats), 1 => Just(SourceFault::Endless)];
    let late = (0_i32..3000, 1_u8..12, 30_u16..150).prop_map(|(at, count, late)| Burst {
        at,
        count,
        step: 1,
        late,
        marked: None,
    });
    let dense = (0_i32..1000, 100_u8..255).prop_map(|(at, count)| Burst { at, count, step: 6, late: 0, marked: None });
    let burst = prop_oneof![2 => burst(-200..3000), 2 => late, 2 => dense];
    (any::<u64>(), vec(burst, 1..6), select(vec![3_u8, 10, 100]), spells(fault, 1, 4))
        .prop_map(|(seed, bursts, page, source)| Plan { seed, bursts, page, source, lasts: 4000, ..Plan::quiet() })
}

/// An intake that takes some entries and refuses others.
pub(crate) fn dislikes() -> impl Strategy<Value = Plan> {
    let statuses = || select(vec![400_u16, 403, 408, 413, 422, 500, 503]);
    let dislikes = prop_oneof![
        4 => statuses().prop_map(Dislike::Status),
        2 => statuses().prop_map(Dislike::Flapping),
        1 => Just(Dislike::Unanswered),
    ];
    // Not the first entries: what refuses these is not known to accept any.
    let marked = (burst(200..2000), 0_u8..12).prop_map(|(burst, marked)| Burst { marked: Some(marked), ..burst });
    let slow = spells(prop_oneof![(1_u8..20).prop_map(IntakeFault::Slow), Just(IntakeFault::Unanswered)], 1, 1);
    let lease = proptest::option::of((0_u32..300, 20_u32..120));
    (any::<u64>(), marked, vec(burst(-1400..3000), 1..5), select(vec![5_u8, 100]), dislikes, slow, lease).prop_map(
        |(seed, marked, mut bursts, page, dislikes, intake, lease)| {
            bursts.extend([Burst { at: -600, count: 2, step: 1, late: 0, marked: None }, marked]);
            Plan { seed, bursts, page, dislikes, intake, lease, interval: 120, lasts: 6000, ..Plan::quiet() }
        },
    )
}
