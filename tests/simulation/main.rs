//! The engine under simulated time: generated histories, generated faults, and an oracle that knows the promises.
//!
//! Every case is a sequence of lives over one world. A life is a run of the real engine, with the real computation of
//! ranges and positions. It ends by itself, by a stop, or by a crash at any moment; the server, the store and the
//! [`ledger`] outlive it. When all faults are over, a healthy run has to reach the end. Then every record has arrived,
//! and none more often than the design permits.

#![allow(clippy::unwrap_used, reason = "a model that cannot do its work must fail the test")]

mod api;
mod destination;
mod documents;
mod driver;
mod history;
mod ledger;
mod plan;
mod source;
mod store;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use auditsync::engine::Mode;
use plan::{
    Burst, Cue, End, Knobs, LastPage, LifePlan, Order, Paging, Plan, SourceFault, Spell, StoreFault, Told, Trouble,
    plans,
};

/// `PROPTEST_CASES` sets the number of cases. proptest prints a failing case whole, so no file has to keep it.
fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn nothing_is_lost_and_repeats_are_only_where_permitted(plan in plans(Trouble::Any, false)) {
        driver::run(&plan).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_clean_stop_repeats_nothing(plan in plans(Trouble::Mild, false)) {
        let summary = driver::run(&plan).map_err(TestCaseError::fail)?;
        prop_assert_eq!(summary.permitted, 0);
    }

    #[test]
    fn records_late_within_the_overlap_are_delivered_once(plan in plans(Trouble::NothingNarrows, true)) {
        driver::run(&plan).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn a_burst_of_late_records_is_not_taken_for_a_history_that_changes() {
    let known = Burst { at: -100, millis: 0, count: 30, step: 1000, copies: 0, told: Told::Right, late: 0 };
    let late = Burst { at: -250, count: 25, late: 100, ..known };
    let life = LifePlan {
        mode: Mode::Once,
        ahead: 0,
        clock_set: None,
        busy: 0,
        cue: Cue::Time(100_000),
        end: End::Stop,
        rest: 0,
    };
    let plan = Plan {
        bursts: vec![known, late],
        paging: Paging { sizes: vec![20], order: Order::Ascending, last: LastPage::NoToken },
        lives: vec![life],
        beyond_delay: 300,
        ..Plan::quiet()
    };
    driver::run(&plan).unwrap();
}

#[test]
fn records_that_tell_a_wrong_time_do_not_end_a_healthy_run() {
    // By their own time they lie in the overlap of the next range, but the server does not return them there.
    let burst = Burst { at: -400, millis: 0, count: 25, step: 1000, copies: 0, told: Told::Wrong(200), late: 0 };
    let (cue, end) = (Cue::Time(30_000), End::Stop);
    let life = LifePlan { mode: Mode::Once, ahead: 0, clock_set: None, busy: 0, cue, end, rest: 60_000 };
    let quiet = Plan::quiet();
    let knobs = Knobs { budget: 5, ..quiet.knobs };
    driver::run(&Plan { knobs, bursts: vec![burst], lives: vec![life], ..quiet }).unwrap();
}

#[test]
fn a_store_that_goes_back_to_a_first_cursor_from_a_wrong_clock_has_it_corrected_again() {
    let burst = Burst { at: 0, millis: 0, count: 2, step: 7000, copies: 0, told: Told::Right, late: 0 };
    let (mode, cue, end) = (Mode::Loop, Cue::Time(0), End::Stop);
    let life = LifePlan { mode, ahead: 122, clock_set: None, busy: 0, cue, end, rest: 0 };
    let quiet = Plan::quiet();
    let latencies = Knobs { source_latency: 0, destination_latency: 0, store_latency: 0, ..quiet.knobs };
    let plan = Plan {
        knobs: Knobs { delay: 0, window: 45, overlap: 0, lookback: 0, interval: 300, ..latencies },
        bursts: vec![burst],
        paging: Paging { sizes: vec![1], ..quiet.paging },
        store: vec![Spell { after: 2, fault: StoreFault::GoesBack(1), times: 1 }],
        lives: vec![life],
        ..quiet
    };
    driver::run(&plan).unwrap();
}

/// The first page of the second range holds a late record and a record of the range, in the order of time by chance.
#[test]
fn a_late_record_on_a_shuffled_page_is_not_taken_for_a_history_that_changes() {
    let burst = Burst { at: 0, millis: 0, count: 2, step: 0, copies: 0, told: Told::Right, late: 0 };
    let bursts = [
        burst,
        Burst { count: 41, ..burst },
        Burst { count: 7, ..burst },
        Burst { count: 5, copies: 1, ..burst },
        Burst { count: 3, ..burst },
        Burst { count: 5, step: 1, late: 100, ..burst },
        Burst { count: 29, step: 7000, ..burst },
        Burst { at: 1, count: 5, ..burst },
    ];
    let end = End::Crash;
    let life = LifePlan { mode: Mode::Loop, ahead: 0, clock_set: None, busy: 0, cue: Cue::Time(0), end, rest: 104_563 };
    let stopped = LifePlan { cue: Cue::Delivery(0), end: End::Stop, rest: 0, ..life };
    let quiet = Plan::quiet();
    let at_once = Knobs { source_latency: 0, destination_latency: 0, store_latency: 0, ..quiet.knobs };
    let plan = Plan {
        seed: 966_824_949_711_930_969,
        knobs: Knobs { delay: 0, window: 600, lookback: 0, budget: 5, shutdown_timeout: 1, dated: false, ..at_once },
        bursts: bursts.to_vec(),
        paging: Paging { sizes: vec![2], order: Order::Shuffled, last: LastPage::NoToken },
        lives: vec![life, stopped],
        beyond_delay: 300,
        ..quiet
    };
    driver::run(&plan).unwrap();
}

#[test]
fn a_page_token_that_has_expired_does_not_hold_up_the_smallest_range() {
    let burst = Burst { at: -3, millis: 500, count: 6, step: 1, copies: 0, told: Told::Right, late: 0 };
    let end = End::Crash;
    let life = LifePlan { mode: Mode::Loop, ahead: 0, clock_set: None, busy: 0, cue: Cue::Delivery(6), end, rest: 0 };
    let quiet = Plan::quiet();
    let plan = Plan {
        knobs: Knobs { delay: 0, window: 1, overlap: 0, lookback: 5, ..quiet.knobs },
        bursts: vec![burst],
        paging: Paging { sizes: vec![1], ..quiet.paging },
        source: vec![Spell { after: 3, fault: SourceFault::Refused(400), times: 1 }],
        lives: vec![life],
        tokens_expire: true,
        ..quiet
    };
    driver::run(&plan).unwrap();
}

#[test]
fn a_clock_that_jumps_ahead_while_answers_carry_no_date_skips_nothing() {
    let burst = Burst { at: 100, millis: 0, count: 40, step: 7000, copies: 0, told: Told::Right, late: 0 };
    let life = LifePlan {
        mode: Mode::Loop,
        ahead: 0,
        clock_set: Some((90_000, 172_800)),
        busy: 0,
        cue: Cue::Time(600_000),
        end: End::Stop,
        rest: 0,
    };
    let quiet = Plan::quiet();
    let plan = Plan {
        bursts: vec![burst],
        source: vec![Spell { after: 2, fault: SourceFault::Undated, times: 100 }],
        lives: vec![life],
        ..quiet
    };
    driver::run(&plan).unwrap();
}
