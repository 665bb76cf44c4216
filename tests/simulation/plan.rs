//! The parts of a case, and how proptest draws cases.
//!
//! A plan is small and holds everything: faults come as short spells after a number of calls that succeed, records as
//! bursts. So a failing case shrinks to the few calls that matter.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use auditsync::engine::Mode;

/// Milliseconds.
const HOUR: u32 = 3600 * 1000;

/// Milliseconds.
const DAY: u32 = 24 * HOUR;

/// A clock is wrong by less than this many seconds: three days.
const DAYS_OFF: i32 = 3 * 24 * 3600;

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The seed of the shuffled order and of the engine's jitter.
    pub(crate) seed: u64,
    pub(crate) knobs: Knobs,
    pub(crate) bursts: Vec<Burst>,
    pub(crate) paging: Paging,
    pub(crate) source: Vec<Spell<SourceFault>>,
    pub(crate) destination: Vec<Spell<DestinationFault>>,
    pub(crate) store: Vec<Spell<StoreFault>>,
    /// Faults of the calls that inform the source of a stored cursor.
    pub(crate) confirmations: Vec<Spell<ConfirmationFault>>,
    pub(crate) lives: Vec<LifePlan>,
    /// Whether the last, healthy run finds the earlier page tokens refused.
    pub(crate) tokens_expire: bool,
    /// The most seconds beyond the delay by which a record is late.
    pub(crate) beyond_delay: u32,
}

impl Plan {
    /// A case without records, faults or lives, and with the default settings.
    pub(crate) fn quiet() -> Self {
        let knobs = Knobs {
            delay: 30,
            window: 3600,
            overlap: 300,
            lookback: 1500,
            interval: 60,
            budget: 300,
            shutdown_timeout: 25,
            paced: false,
            buffer: None,
            pause: None,
            dated: true,
            rewrites: false,
            source_latency: 180,
            destination_latency: 180,
            store_latency: 3,
        };
        Self {
            seed: 0,
            knobs,
            bursts: Vec::new(),
            paging: Paging { sizes: vec![5], order: Order::Ascending, last: LastPage::NoToken },
            source: Vec::new(),
            destination: Vec::new(),
            store: Vec::new(),
            confirmations: Vec::new(),
            lives: Vec::new(),
            tokens_expire: false,
            beyond_delay: 0,
        }
    }
}

/// The settings of all parts. Spans are seconds, latencies milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knobs {
    pub(crate) delay: u32,
    pub(crate) window: u32,
    pub(crate) overlap: u32,
    pub(crate) lookback: u32,
    pub(crate) interval: u32,
    pub(crate) budget: u32,
    pub(crate) shutdown_timeout: u32,
    /// Whether the store requires a second between two writes.
    pub(crate) paced: bool,
    /// The number of events that the destination gathers before it sends them; none without a buffer.
    pub(crate) buffer: Option<u8>,
    /// How long the source needs between two pages, in seconds; none if the next page can be read at once.
    pub(crate) pause: Option<u8>,
    /// Whether the server's answers carry its time.
    pub(crate) dated: bool,
    /// Whether the server writes a record's keys in another order each time.
    pub(crate) rewrites: bool,
    pub(crate) source_latency: u16,
    pub(crate) destination_latency: u16,
    pub(crate) store_latency: u16,
}

/// Some records in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burst {
    /// The first record's time: whole seconds from the start of the simulation, and milliseconds on top.
    pub(crate) at: i32,
    pub(crate) millis: u16,
    pub(crate) count: u8,
    /// Milliseconds from one to the next.
    pub(crate) step: u16,
    /// Further records equal to each, at the same time.
    pub(crate) copies: u8,
    pub(crate) told: Told,
    /// How late they become visible, in hundredths of the longest.
    pub(crate) late: u8,
}

/// The time that a record states for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Right,
    Nothing,
    /// Wrong by this many seconds.
    Wrong(i16),
}

#[derive(Debug, Clone)]
pub(crate) struct Paging {
    /// The number of records on the first page that the server returns, the second, and so on, over and over. A page
    /// may therefore have another length when it is requested again.
    pub(crate) sizes: Vec<u8>,
    pub(crate) order: Order,
    pub(crate) last: LastPage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
    Shuffled,
}

/// How the server marks the last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastPage {
    NoToken,
    Empty,
    EmptyWithToken,
}

/// After this many calls that succeed, this many that fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spell<F> {
    pub(crate) after: u8,
    pub(crate) fault: F,
    pub(crate) times: u8,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum SourceFault {
    /// Takes this many milliseconds more.
    Slow(u16),
    /// Answers that the engine should wait for this many seconds, or names no time.
    Unavailable(Option<u8>),
    AccessTokenRefused,
    /// A 4xx of this status.
    Refused(u16),
    Unreadable,
    /// Refuses all page tokens that it has returned so far.
    PageTokensExpire,
    /// The answer carries no `Date`.
    Undated,
    /// The first page of a range lacks the records of the overlap, as if the server had forgotten them.
    Forgetful,
}

/// A part of the events: each bit stands for an eighth of them.
pub(crate) type Part = u8;

#[derive(Debug, Clone, Copy)]
pub(crate) enum DestinationFault {
    Slow(u16),
    Unavailable(Option<u8>),
    /// Accepts a part and fails with the rest.
    TakesPart(Part),
    /// Accepts a part, but the answer is lost.
    Unanswered(Part),
    /// Refuses one event by itself.
    RefusesOne(u8),
    RefusesAll,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum StoreFault {
    Slow(u16),
    /// Fails before anything is written.
    Fails,
    /// Writes, but the answer is lost.
    Unanswered,
    /// Fails, and writes this many milliseconds later.
    Late(u16),
    /// Writes, and then goes back to a document that is this many saves older.
    GoesBack(u8),
    /// Another writer saves before it.
    Overtaken,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ConfirmationFault {
    Slow(u16),
    Fails,
}

/// One run of the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LifePlan {
    pub(crate) mode: Mode,
    /// By how many seconds this machine's clock is ahead of the server's.
    pub(crate) ahead: i32,
    /// When the clock jumps, in milliseconds, and to how many seconds ahead.
    pub(crate) clock_set: Option<(u32, i32)>,
    /// How often the store refuses the claim on the state first.
    pub(crate) busy: u8,
    pub(crate) cue: Cue,
    pub(crate) end: End,
    /// Milliseconds until the next one.
    pub(crate) rest: u32,
}

impl LifePlan {
    /// The same without quiet days, which take thousands of ranges.
    fn within(self, knobs: &Knobs) -> Self {
        if knobs.window >= 600 {
            return self;
        }
        let cue = if let Cue::Time(at) = self.cue { Cue::Time(at % HOUR) } else { self.cue };
        Self { cue, rest: self.rest % HOUR, ..self }
    }
}

/// When the driver ends a life.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cue {
    /// After this many milliseconds.
    Time(u32),
    /// At this many beginnings and ends of calls.
    Call(u16),
    /// At this many beginnings and ends of deliveries.
    Delivery(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Crash,
    Stop,
    /// A second request this many milliseconds after the first.
    StopTwice(u16),
}

/// What kind of trouble a case may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Everything.
    Any,
    /// Everything that cannot narrow a range, so that the overlap keeps its whole length.
    NothingNarrows,
    /// Nothing that can cause a repeat.
    Mild,
}

/// Cases with this trouble. Records come late by the delay at most; with `late`, by the overlap on top.
pub(crate) fn plans(trouble: Trouble, late: bool) -> impl Strategy<Value = Plan> {
    let overlap: Vec<u32> = if late { vec![20, 90, 300] } else { vec![0, 1, 20, 300] };
    (
        (any::<u64>(), knobs(trouble, overlap), vec(burst(late), 1..14), paging(), any::<bool>()),
        spells(source_fault(trouble)),
        spells(destination_fault(trouble)),
        (spells(store_fault(trouble)), spells(confirmation_fault())),
        vec(life(trouble), 0..6),
    )
        .prop_map(
            move |((seed, knobs, bursts, paging, expire), source, destination, (store, confirmations), lives)| Plan {
                lives: lives.into_iter().map(|life| life.within(&knobs)).collect(),
                seed,
                beyond_delay: if late { knobs.overlap } else { 0 },
                tokens_expire: expire && trouble == Trouble::Any,
                knobs,
                bursts,
                paging,
                source,
                destination,
                store,
                confirmations,
            },
        )
}

fn knobs(trouble: Trouble, overlap: Vec<u32>) -> impl Strategy<Value = Knobs> {
    let mild = trouble == Trouble::Mild;
    // If nothing may be cut short, these are long enough to outlast all faults.
    let (budget, shutdown_timeout) = if mild { (vec![7200], vec![7200]) } else { (vec![5, 60, 300], vec![1, 5, 25]) };
    let latency = || select(vec![0_u16, 3, 180, 1300]);
    (
        (select(vec![0_u32, 5, 30]), select(vec![45_u32, 600, 3600]), select(overlap)),
        (
            select(vec![0_u32, 300, 1500, 1500]),
            select(vec![60_u32, 300, 1800]),
            select(budget),
            select(shutdown_timeout),
        ),
        (any::<bool>(), proptest::option::weighted(0.25, 1_u8..60), any::<bool>(), any::<bool>()),
        proptest::option::weighted(0.15, 0_u8..40),
        (latency(), latency(), latency()),
    )
        .prop_map(|(cut, times, (paced, buffer, dated, rewrites), pause, latencies)| Knobs {
            pause,
            delay: cut.0,
            window: cut.1,
            overlap: cut.2,
            lookback: times.0,
            interval: times.1,
            budget: times.2,
            shutdown_timeout: times.3,
            paced,
            buffer,
            dated,
            rewrites,
            source_latency: latencies.0,
            destination_latency: latencies.1,
            store_latency: latencies.2,
        })
}

fn burst(late_ones: bool) -> impl Strategy<Value = Burst> {
    // Many records lie just before the start, where the engine reads a backlog; some come while it runs.
    let at = prop_oneof![-100_i32..300, -1600_i32..0, 0_i32..3000];
    let count = prop_oneof![3 => 1_u8..8, 1 => 15_u8..45];
    let told = prop_oneof![12 => Just(Told::Right), 2 => Just(Told::Nothing)];
    // The source can take twenty wrong times for a history that changes, and then gives up the overlap.
    let told = if late_ones {
        told.boxed()
    } else {
        prop_oneof![14 => told, 1 => (-400_i16..400).prop_map(Told::Wrong)].boxed()
    };
    let step = select(vec![0_u16, 1, 250, 1000, 7000]);
    let copies = prop_oneof![6 => Just(0_u8), 1 => 1_u8..3];
    let late = prop_oneof![Just(0_u8), Just(100), 1_u8..100];
    (at, select(vec![0_u16, 1, 500, 999]), count, step, copies, told, late)
        .prop_map(|(at, millis, count, step, copies, told, late)| Burst { at, millis, count, step, copies, told, late })
}

fn paging() -> impl Strategy<Value = Paging> {
    let order = select(vec![Order::Ascending, Order::Descending, Order::Shuffled]);
    let last = select(vec![LastPage::NoToken, LastPage::Empty, LastPage::EmptyWithToken]);
    let size = prop_oneof![3 => 1_u8..6, 1 => 1_u8..60];
    (vec(size, 1..4), order, last).prop_map(|(sizes, order, last)| Paging { sizes, order, last })
}

fn spells<F: std::fmt::Debug + Copy + 'static>(fault: BoxedStrategy<F>) -> impl Strategy<Value = Vec<Spell<F>>> {
    let spell = (0_u8..15, fault, prop_oneof![3 => Just(1_u8), 1 => 2_u8..7]);
    vec(spell.prop_map(|(after, fault, times)| Spell { after, fault, times }), 0..7)
}

fn source_fault(trouble: Trouble) -> BoxedStrategy<SourceFault> {
    let slow = prop_oneof![0_u16..3000, 0_u16..40_000].prop_map(SourceFault::Slow);
    let unavailable = proptest::option::of(0_u8..90).prop_map(SourceFault::Unavailable);
    let mild = prop_oneof![
        3 => slow,
        3 => unavailable,
        1 => Just(SourceFault::AccessTokenRefused),
        1 => select(vec![402_u16, 405, 407, 421, 431, 451]).prop_map(SourceFault::Refused),
        1 => Just(SourceFault::Undated),
    ];
    if trouble != Trouble::Any {
        return mild.boxed();
    }
    prop_oneof![
        3 => mild,
        1 => Just(SourceFault::Unreadable),
        2 => select(vec![400_u16, 404, 409, 410, 414, 422]).prop_map(SourceFault::Refused),
        1 => Just(SourceFault::PageTokensExpire),
        1 => Just(SourceFault::Forgetful),
    ]
    .boxed()
}

fn destination_fault(trouble: Trouble) -> BoxedStrategy<DestinationFault> {
    let slow = prop_oneof![0_u16..3000, 0_u16..40_000].prop_map(DestinationFault::Slow);
    let unavailable = proptest::option::of(0_u8..90).prop_map(DestinationFault::Unavailable);
    let mild = prop_oneof![
        2 => slow,
        2 => unavailable,
        3 => any::<Part>().prop_map(DestinationFault::TakesPart),
        1 => any::<u8>().prop_map(DestinationFault::RefusesOne),
        1 => Just(DestinationFault::RefusesAll),
    ];
    if trouble == Trouble::Mild {
        return mild.boxed();
    }
    prop_oneof![4 => mild, 1 => any::<Part>().prop_map(DestinationFault::Unanswered)].boxed()
}

fn store_fault(trouble: Trouble) -> BoxedStrategy<StoreFault> {
    let slow = (0_u16..3000).prop_map(StoreFault::Slow);
    let late = (0_u16..5000).prop_map(StoreFault::Late);
    let mild = prop_oneof![1 => slow, 2 => Just(StoreFault::Fails), 2 => Just(StoreFault::Unanswered), 1 => late];
    if trouble == Trouble::Mild {
        return mild.boxed();
    }
    prop_oneof![8 => mild, 2 => (0_u8..4).prop_map(StoreFault::GoesBack), 1 => Just(StoreFault::Overtaken)].boxed()
}

fn confirmation_fault() -> BoxedStrategy<ConfirmationFault> {
    prop_oneof![(0_u16..3000).prop_map(ConfirmationFault::Slow), Just(ConfirmationFault::Fails)].boxed()
}

fn life(trouble: Trouble) -> impl Strategy<Value = LifePlan> {
    let mode = select(vec![Mode::Loop, Mode::Once]);
    let time = prop_oneof![
        12 => 0_u32..6_000,
        12 => 0_u32..120_000,
        12 => 0_u32..1_000_000,
        1 => 0..DAY,
    ]
    .prop_map(Cue::Time);
    let cue = prop_oneof![
        1 => time,
        1 => (0_u16..400).prop_map(Cue::Call),
        2 => (0_u16..30).prop_map(Cue::Delivery),
    ];
    let end = if trouble == Trouble::Mild {
        Just(End::Stop).boxed()
    } else {
        prop_oneof![2 => Just(End::Crash), 2 => Just(End::Stop), 1 => (0_u16..30_000).prop_map(End::StopTwice)].boxed()
    };
    let off = || prop_oneof![3 => -200_i32..200, 1 => -DAYS_OFF..DAYS_OFF];
    let ahead = prop_oneof![3 => Just(0_i32), 1 => off()];
    let clock_set = proptest::option::weighted(0.2, (0_u32..200_000, off()));
    let busy = prop_oneof![5 => Just(0_u8), 1 => 1_u8..4];
    let rest = prop_oneof![40 => 0_u32..600_000, 1 => 0..3 * DAY];
    (mode, ahead, clock_set, busy, cue, end, rest).prop_map(|(mode, ahead, clock_set, busy, cue, end, rest)| LifePlan {
        mode,
        ahead,
        clock_set,
        busy,
        cue,
        end,
        rest,
    })
}
