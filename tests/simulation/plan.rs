//! What a case consists of, and how cases are drawn.
//!
//! A plan is small and says everything: faults come as short spells after so many calls that go well, records as bursts. So a failing case
//! shrinks to the few calls that matter.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use auditsync::engine::Mode;

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Decides the shuffled order, and the engine's jitter.
    pub(crate) seed: u64,
    pub(crate) knobs: Knobs,
    pub(crate) bursts: Vec<Burst>,
    pub(crate) paging: Paging,
    pub(crate) source: Vec<Spell<SourceFault>>,
    pub(crate) destination: Vec<Spell<DestinationFault>>,
    pub(crate) store: Vec<Spell<StoreFault>>,
    /// What befalls the calls that inform the source of a stored cursor.
    pub(crate) confirmations: Vec<Spell<ConfirmationFault>>,
    pub(crate) lives: Vec<LifePlan>,
    /// Whether page tokens given out before the last, healthy run are refused in it.
    pub(crate) tokens_expire: bool,
    /// The longest time by which a record is late, in seconds beyond the delay.
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

/// How everything is set up. Spans are seconds, latencies milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Knobs {
    pub(crate) delay: u32,
    pub(crate) window: u32,
    pub(crate) overlap: u32,
    pub(crate) lookback: u32,
    pub(crate) interval: u32,
    pub(crate) budget: u32,
    pub(crate) shutdown_timeout: u32,
    /// Whether the store wants a second between two writes.
    pub(crate) paced: bool,
    /// How many events the destination gathers before it takes them; none without a buffer.
    pub(crate) buffer: Option<u8>,
    /// How long the source needs between two pages, in seconds; none where the next one can be read at once.
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
    /// The first one's time, in seconds from the start of the simulation, and milliseconds on top.
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

/// What a record says of its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Right,
    Nothing,
    /// Wrong by so many seconds.
    Wrong(i16),
}

#[derive(Debug, Clone)]
pub(crate) struct Paging {
    /// Records of the first page, the second, and so on, over and over.
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

/// How the server says that there is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastPage {
    NoToken,
    Empty,
    EmptyWithToken,
}

/// After so many calls that go well, so many that do not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spell<F> {
    pub(crate) after: u8,
    pub(crate) fault: F,
    pub(crate) times: u8,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum SourceFault {
    /// Takes so many milliseconds more.
    Slow(u16),
    /// Asks to wait for so many seconds, if it says anything.
    Unavailable(Option<u8>),
    AccessTokenRefused,
    Refused,
    Unreadable,
    PageTokenRefused,
    /// From now on, all page tokens given out so far are refused.
    PageTokensExpire,
}

/// Which part of the events is meant: each bit stands for an eighth of them.
pub(crate) type Part = u8;

#[derive(Debug, Clone, Copy)]
pub(crate) enum DestinationFault {
    Slow(u16),
    Unavailable(Option<u8>),
    /// Takes a part and fails with the rest.
    TakesPart(Part),
    /// Takes a part, and nobody learns of it.
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
    /// Writes, and nobody learns of it.
    Unanswered,
    /// Fails, and writes so many milliseconds later.
    Late(u16),
    /// Writes, and then holds a document again that is so many saves older.
    GoesBack(u8),
    /// Someone else writes before it.
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
    pub(crate) ahead: i16,
    /// When an operator sets it, in milliseconds, and to how many seconds ahead.
    pub(crate) clock_set: Option<(u32, i16)>,
    /// How often the claim on the state is refused first.
    pub(crate) busy: u8,
    pub(crate) cue: Cue,
    pub(crate) end: End,
    /// Milliseconds until the next one.
    pub(crate) rest: u32,
}

/// When a life is ended from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cue {
    /// After so many milliseconds.
    Time(u32),
    /// At so many beginnings and ends of calls.
    Call(u16),
    /// At so many beginnings and ends of deliveries.
    Delivery(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Crash,
    Stop,
    /// A second request so many milliseconds after the first.
    StopTwice(u16),
}

/// What kind of trouble a case may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Everything.
    Any,
    /// Everything that cannot narrow a range: then the overlap has its whole length.
    NothingNarrows,
    /// Nothing that can cause a repeat.
    Mild,
}

/// Cases with such trouble. Records come late by the delay at most, or with `late` by the overlap on top.
pub(crate) fn plans(trouble: Trouble, late: bool) -> impl Strategy<Value = Plan> {
    let overlap: Vec<u32> = if late { vec![20, 90, 300] } else { vec![0, 1, 20, 300] };
    (
        (any::<u64>(), knobs(trouble, overlap), vec(burst(late), 1..14), paging(), any::<bool>()),
        spells(source_fault(trouble)),
        spells(destination_fault(trouble)),
        (spells(store_fault(trouble)), spells(confirmation_fault())),
        vec(life(trouble), 0..6),
    )
        .prop_map(move |((seed, knobs, bursts, paging, expire), source, destination, (store, confirmations), lives)| Plan {
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
            lives,
        })
}

fn knobs(trouble: Trouble, overlap: Vec<u32>) -> impl Strategy<Value = Knobs> {
    let mild = trouble == Trouble::Mild;
    // Long enough, where nothing may be cut short, to outlast all faults.
    let (budget, shutdown_timeout) = if mild { (vec![7200], vec![7200]) } else { (vec![5, 60, 300], vec![1, 5, 25]) };
    let latency = || select(vec![0_u16, 3, 180, 1300]);
    (
        (select(vec![0_u32, 5, 30]), select(vec![45_u32, 600, 3600]), select(overlap)),
        (select(vec![0_u32, 300, 1500, 1500]), select(vec![60_u32, 300]), select(budget), select(shutdown_timeout)),
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
    // Much of it just before the start, where a backlog is read, and some while it runs.
    let at = prop_oneof![-100_i32..300, -1600_i32..0, 0_i32..3000];
    let count = prop_oneof![3 => 1_u8..8, 1 => 15_u8..45];
    let told = prop_oneof![12 => Just(Told::Right), 2 => Just(Told::Nothing)];
    // Twenty wrong times can pass for a history that changes, and the overlap is then given up.
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
        1 => Just(SourceFault::Refused),
    ];
    if trouble != Trouble::Any {
        return mild.boxed();
    }
    prop_oneof![
        3 => mild,
        1 => Just(SourceFault::Unreadable),
        2 => Just(SourceFault::PageTokenRefused),
        1 => Just(SourceFault::PageTokensExpire),
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
    let time = prop_oneof![0_u32..6_000, 0_u32..120_000, 0_u32..1_000_000].prop_map(Cue::Time);
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
    let ahead = prop_oneof![3 => Just(0_i16), 1 => -200_i16..200];
    let clock_set = proptest::option::weighted(0.2, (0_u32..200_000, -200_i16..200));
    let busy = prop_oneof![5 => Just(0_u8), 1 => 1_u8..4];
    (mode, ahead, clock_set, busy, cue, end, 0_u32..600_000).prop_map(|(mode, ahead, clock_set, busy, cue, end, rest)| LifePlan {
        mode,
        ahead,
        clock_set,
        busy,
        cue,
        end,
        rest,
    })
}
