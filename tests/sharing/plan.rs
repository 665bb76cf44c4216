//! What happens in a case.

use proptest::prelude::*;

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How many rows of events there are, and how many events the first one has; each further one has fewer.
    pub(crate) rows: usize,
    pub(crate) events: usize,
    /// The number of events on a page.
    pub(crate) page: usize,
    /// How long the source needs to make a report, in seconds; none if it makes no reports.
    pub(crate) report: Option<u8>,
    pub(crate) confirmations: Confirmations,
    /// The number of events that the sink gathers; with 0, each page is durable by itself.
    pub(crate) gathers: usize,
    /// Whether the sink finds out what became of a request without an answer.
    pub(crate) resumes: bool,
    /// The lease, in seconds.
    pub(crate) lease: u64,
    /// How long a call to the store takes, in milliseconds. Its effect comes after half of that.
    pub(crate) store_latency: u64,
    /// The time that the store requires between two saves, in milliseconds.
    pub(crate) pace: u64,
    pub(crate) instances: Vec<InstancePlan>,
    pub(crate) outages: Vec<Outage>,
    pub(crate) accident: Option<Accident>,
    /// When another machine takes the store's lock, in milliseconds; none if the store has no locks.
    pub(crate) lock_lost: Option<u32>,
}

impl Plan {
    /// Nothing happens.
    pub(crate) fn quiet() -> Self {
        Self {
            seed: 0,
            rows: 1,
            events: 300,
            page: 10,
            report: None,
            confirmations: Confirmations::Succeed,
            gathers: 0,
            resumes: false,
            lease: 15,
            store_latency: 20,
            pace: 0,
            instances: Vec::new(),
            outages: Vec::new(),
            accident: None,
            lock_lost: None,
        }
    }
}

/// How the source answers when it learns of a stored cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmations {
    Succeed,
    Fail,
    /// After this many seconds.
    Late(u16),
}

/// The life of one instance; times in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstancePlan {
    /// Which of the pipelines it runs.
    pub(crate) runs: &'static [usize],
    pub(crate) starts: u16,
    pub(crate) lasts: u16,
    pub(crate) end: End,
    /// How long a request to the destination takes, in milliseconds.
    pub(crate) latency: u32,
}

/// What happens at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Crash,
    Stop,
    /// The process stands still for this many milliseconds, and then lives as long again as before.
    StandsStill(u32),
}

/// A period in which the store fails; in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) from: u32,
    pub(crate) lasts: u32,
    pub(crate) fault: Fault,
    /// For this instance alone.
    pub(crate) instance: Option<usize>,
}

/// What is wrong with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Calls get lost.
    Silent,
    /// Calls are refused at once.
    Refuses,
    /// Calls take effect, and their answers get lost.
    LosesAnswers,
    /// The store carries out its calls only when no caller waits any more.
    Late,
}

/// A moment at which the store loses what it held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accident {
    /// In milliseconds.
    pub(crate) at: u32,
    pub(crate) kind: Loss,
}

/// What is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    Everything,
    /// The newest this many saves.
    Newest(usize),
}

pub(crate) fn plans() -> impl Strategy<Value = Plan> {
    let end = prop_oneof![Just(End::Crash), Just(End::Stop), (1000..120_000_u32).prop_map(End::StandsStill)];
    let runs = prop_oneof![6 => Just(&[0][..]), 1 => Just(&[1][..]), 1 => Just(&[0, 1][..])];
    let instance = (runs, 0..120_u16, 1..200_u16, end, prop_oneof![1..500_u32, 500..60_000_u32])
        .prop_map(|(runs, starts, lasts, end, latency)| InstancePlan { runs, starts, lasts, end, latency });
    let fault = prop_oneof![Just(Fault::Silent), Just(Fault::Refuses), Just(Fault::LosesAnswers), Just(Fault::Late)];
    let outage = (0..300_000_u32, 1..90_000_u32, fault, proptest::option::of(0..4_usize))
        .prop_map(|(from, lasts, fault, instance)| Outage { from, lasts, fault, instance });
    let confirmations = prop_oneof![
        4 => Just(Confirmations::Succeed),
        1 => Just(Confirmations::Fail),
        1 => (1..4000_u16).prop_map(Confirmations::Late),
    ];
    (
        any::<u64>(),
        (1..4_usize, 1..400_usize, 1..40_usize, proptest::option::weighted(0.3, 1..40_u8), confirmations),
        (prop_oneof![Just(0), 1..200_usize], any::<bool>()),
        (15..90_u64, 0..2000_u64, prop_oneof![3 => Just(0), 1 => 1..3000_u64]),
        proptest::collection::vec(instance, 1..5),
        proptest::collection::vec(outage, 0..5),
    )
        .prop_map(|(seed, source, (gathers, resumes), (lease, store_latency, pace), instances, outages)| Plan {
            seed,
            rows: source.0,
            events: source.1,
            page: source.2,
            report: source.3,
            confirmations: source.4,
            gathers,
            resumes,
            lease,
            store_latency,
            pace,
            instances,
            outages,
            ..Plan::quiet()
        })
}
