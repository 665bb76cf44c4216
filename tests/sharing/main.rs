//! Several engines on one shared store under simulated time: whatever happens to them and the store, only one works at
//! a time.
//!
//! The source has rows of numbered events, so an oracle can judge whether each request and each save was allowed. The
//! sink acknowledges each page, or gathers many pages. After a crash it may know what it already has. An instance runs
//! one pipeline or both; it crashes, stops, or stands still. The store stands still, loses requests, loses answers, and
//! lets saves take effect late.

#![allow(clippy::unwrap_used, reason = "a model that cannot do its work must fail the test")]

mod instance;
mod plan;
mod row;
mod sink;
mod store;
mod world;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use plan::{Accident, Confirmations, End, Fault, InstancePlan, Loss, Outage, Plan, plans};
use sink::GATHERED_FOR;

/// `PROPTEST_CASES` sets the number of cases. proptest prints a failing case whole, so no file has to keep it.
fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn one_works_at_a_time_and_nothing_is_lost(plan in plans()) {
        let summary = instance::run(&plan).map_err(TestCaseError::fail)?;
        prop_assert!(!plan.resumes || summary.repeats == 0, "{summary:?} with a sink that knows what it has");
    }

    #[test]
    fn without_crashes_and_outages_nothing_is_repeated(plan in plans()) {
        // A stop waits, within its timeout, for the answer to a page and to the gathered events.
        let calm = |instance: InstancePlan| InstancePlan { end: End::Stop, latency: instance.latency.min(8000), ..instance };
        let instances = plan.instances.iter().copied().map(calm).collect();
        let plan = Plan { instances, outages: Vec::new(), ..plan };
        let summary = instance::run(&plan).map_err(TestCaseError::fail)?;
        prop_assert_eq!(summary.repeats, 0);
    }
}

/// Two instances; the first is at work and meets `outage`.
fn two(end: End, outages: Vec<Outage>) -> Plan {
    let instance = InstancePlan { runs: &[0], starts: 0, lasts: 400, end, latency: 300 };
    Plan { instances: vec![instance, InstancePlan { starts: 1, end: End::Stop, ..instance }], outages, ..Plan::quiet() }
}

#[test]
fn a_store_that_stands_still_for_long_is_waited_for() {
    for fault in [Fault::Silent, Fault::Late, Fault::Refuses, Fault::LosesAnswers] {
        let plan = two(End::Stop, vec![Outage { from: 3000, lasts: 200_000, fault, instance: None }]);
        instance::run(&plan).unwrap();
    }
}

#[test]
fn a_stop_does_not_hammer_a_store_that_refuses_its_renewals() {
    // It stops while a page is on its way for twenty seconds. The lease has to be renewed meanwhile.
    let instance = InstancePlan { runs: &[0], starts: 0, lasts: 12, end: End::Stop, latency: 20_000 };
    let outage = Outage { from: 11_000, lasts: 18_000, fault: Fault::Refuses, instance: None };
    let plan = Plan { instances: vec![instance], outages: vec![outage], ..Plan::quiet() };
    let summary = instance::run(&plan).unwrap();
    assert!((1..100).contains(&summary.refused), "{summary:?}");
    // The lease lapses meanwhile. The engine tries to regain it all the same, because the page has begun.
    let summary =
        instance::run(&Plan { instances: vec![InstancePlan { latency: 24_000, ..instance }], ..plan }).unwrap();
    assert!((12..100).contains(&summary.refused), "{summary:?}");
}

#[test]
fn at_a_stop_and_at_a_failover_the_source_is_paused() {
    let mut plan = two(End::Stop, Vec::new());
    plan.instances.truncate(1);
    assert_eq!(instance::run(&plan).unwrap().pauses, 1);
    // The first instance is cut off, and the second follows. At last the second stops; the first has been on standby
    // and has read nothing.
    let outage = Outage { from: 3000, lasts: 200_000, fault: Fault::Silent, instance: Some(0) };
    assert_eq!(instance::run(&two(End::Stop, vec![outage])).unwrap().pauses, 2);
}

#[test]
fn an_outage_of_the_store_at_the_first_start_costs_nothing() {
    for fault in [Fault::Silent, Fault::LosesAnswers] {
        let plan = two(End::Stop, vec![Outage { from: 0, lasts: 1_800_000, fault, instance: None }]);
        let instances = plan.instances.iter().map(|&instance| InstancePlan { lasts: 3000, ..instance }).collect();
        instance::run(&Plan { instances, ..plan }).unwrap();
    }
}

#[test]
fn an_instance_cut_off_from_the_store_is_followed() {
    let plan = two(End::Stop, vec![Outage { from: 3000, lasts: 200_000, fault: Fault::Silent, instance: Some(0) }]);
    let summary = instance::run(&plan).unwrap();
    assert!(summary.repeats <= 2 * plan.page, "{summary:?}");
}

#[test]
fn an_instance_that_stood_still_forgets_what_it_gathered_and_was_about_to_write() {
    // It stands still in the middle of its pages, and the other follows. It wakes up and becomes active again in the
    // middle of the other's pages.
    let first = InstancePlan { runs: &[0], starts: 0, lasts: 40, end: End::StandsStill(60_000), latency: 100 };
    let second = InstancePlan { starts: 1, lasts: 110, end: End::Crash, ..first };
    for (pace, gathers) in [(0, 0), (2900, 0), (0, 55)] {
        let instances = vec![first, second];
        instance::run(&Plan { instances, pace, gathers, events: 30_000, ..Plan::quiet() }).unwrap();
    }
}

#[test]
fn a_store_that_lost_its_data_is_written_again_by_who_knows_best() {
    for kind in [Loss::Everything, Loss::Newest(1), Loss::Newest(3)] {
        // The moments include the one in which the standby looks first.
        for at in (3000..9000).step_by(250) {
            let plan = Plan { accident: Some(Accident { at, kind }), ..two(End::Stop, Vec::new()) };
            let summary = instance::run(&plan).unwrap();
            assert_eq!(summary.repeats, 0, "{kind:?} at {at}");
        }
    }
}

#[test]
fn who_follows_on_a_store_that_lost_its_newest_data_goes_on_from_what_it_has_seen() {
    let first = InstancePlan { runs: &[0], starts: 0, lasts: 22, end: End::Crash, latency: 5000 };
    let second = InstancePlan { starts: 1, lasts: 300, end: End::Stop, ..first };
    for kind in [Loss::Everything, Loss::Newest(4)] {
        let accident = Some(Accident { at: 21_900, kind });
        instance::run(&Plan { instances: vec![first, second], accident, ..Plan::quiet() }).unwrap();
    }
}

#[test]
fn a_newcomer_on_an_emptied_store_is_overruled_by_who_knows_better() {
    // Either a holder whose pages take long, or a standby alone. The newcomer begins when the store is empty.
    for (lasts, end) in [(400, End::Stop), (8, End::Crash)] {
        for at in (9500..10_500).step_by(100) {
            let holder = InstancePlan { runs: &[0], starts: 0, lasts, end, latency: 4000 };
            let standby = InstancePlan { starts: 1, lasts: 400, end: End::Stop, ..holder };
            let newcomer = InstancePlan { starts: 10, ..standby };
            let accident = Some(Accident { at, kind: Loss::Everything });
            let instances = vec![holder, standby, newcomer];
            instance::run(&Plan { instances, accident, ..Plan::quiet() }).unwrap();
        }
    }
}

#[test]
fn of_several_that_begin_at_once_each_follows_the_one_before() {
    // Two instances want to write the first document, and the third finds it. Whichever comes next, none overrules
    // another.
    let life = |starts, lasts| InstancePlan { runs: &[0], starts, lasts, end: End::Stop, latency: 100 };
    for store_latency in (10..400).step_by(10) {
        let instances = vec![life(0, 3), life(0, 8), life(1, 30)];
        let summary = instance::run(&Plan { instances, store_latency, events: 3000, ..Plan::quiet() }).unwrap();
        assert_eq!(summary.repeats, 0);
    }
}

#[test]
fn a_lease_of_ones_own_is_not_waited_for() {
    // The first save takes effect, but its answer is lost. So is the answer to the request that should find out what
    // became of it.
    let mut plan = two(End::Stop, vec![Outage { from: 45, lasts: 4000, fault: Fault::LosesAnswers, instance: None }]);
    plan.instances.truncate(1);
    let summary = instance::run(&plan).unwrap();
    assert!(summary.begun_after.unwrap().as_secs() < plan.lease, "{summary:?}");
}

#[test]
fn a_sink_that_knows_what_it_has_gets_nothing_twice_at_a_crash() {
    let mut repeats = 0;
    for lasts in 1..30 {
        let first = InstancePlan { runs: &[0], starts: 0, lasts, end: End::Crash, latency: 3100 };
        let second = InstancePlan { starts: 1, lasts: 300, end: End::Stop, ..first };
        for gathers in [0, 25] {
            let plan = Plan { instances: vec![first, second], gathers, pace: 2500, ..Plan::quiet() };
            repeats += instance::run(&plan).unwrap().repeats;
            assert_eq!(instance::run(&Plan { resumes: true, ..plan }).unwrap().repeats, 0, "crashed after {lasts} s");
        }
    }
    assert!(repeats > 0, "a crash came when it mattered");
}

#[test]
fn a_resume_that_takes_longer_than_the_lease_keeps_it() {
    let mut plan = Plan { resumes: true, events: 30, ..two(End::Stop, Vec::new()) };
    plan.instances[0].latency = 40_000;
    let summary = instance::run(&plan).unwrap();
    assert!(summary.begun_after.unwrap().as_secs() >= 60, "the first instance resumed and delivered: {summary:?}");
    // If the lease cannot be renewed, the engine cuts the call off, and the other instance follows.
    let outage = Outage { from: 1000, lasts: 60_000, fault: Fault::Silent, instance: Some(0) };
    let summary = instance::run(&Plan { outages: vec![outage], ..plan }).unwrap();
    assert!(summary.begun_after.unwrap().as_secs() < 40, "{summary:?}");
}

#[test]
fn nothing_waits_for_a_source_that_is_not_informed_of_what_is_stored() {
    // The sink gathers twenty pages of five reports. Then a sync follows every thirty seconds.
    let instance = InstancePlan { runs: &[0], starts: 0, lasts: 900, end: End::Stop, latency: 300 };
    let plan = Plan { events: 200, instances: vec![instance], gathers: 1000, ..Plan::quiet() };
    // The last report is under way at the end of the first sync, when the flush is due.
    for (confirmations, report) in [
        (Confirmations::Fail, 60),
        (Confirmations::Late(3600), 60),
        (Confirmations::Late(9), 60),
        (Confirmations::Late(9), 2),
    ] {
        let summary = instance::run(&Plan { confirmations, report: Some(report), ..plan.clone() }).unwrap();
        assert!(summary.gathered_for <= GATHERED_FOR + Duration::from_secs(1), "{confirmations:?}: {summary:?}");
        assert!(summary.stopped_in <= Duration::from_secs(1), "{confirmations:?}: {summary:?}");
        assert!(summary.reads >= 25 + 18, "{confirmations:?}: {summary:?}");
    }
}

#[test]
fn a_stop_waits_for_no_report_and_makes_durable_what_is_gathered() {
    let instance = InstancePlan { runs: &[0], starts: 0, lasts: 65, end: End::Stop, latency: 300 };
    let plan = Plan { instances: vec![instance], report: Some(60), gathers: 1000, ..Plan::quiet() };
    let summary = instance::run(&plan).unwrap();
    assert!(summary.stopped_in <= Duration::from_secs(1) && summary.repeats == 0, "{summary:?}");
    assert!(summary.begun_after.unwrap() < Duration::from_secs(66), "{summary:?}");
}

#[test]
fn who_has_lost_the_lock_makes_nothing_durable() {
    let instance = InstancePlan { runs: &[0], starts: 0, lasts: 100, end: End::Stop, latency: 300 };
    // The first pages are gathered, and the flush is due while the next report is made.
    let plan = Plan { instances: vec![instance], report: Some(60), gathers: 1000, ..Plan::quiet() };
    for lock_lost in (500..90_000).step_by(1500).map(Some) {
        instance::run(&Plan { lock_lost, ..plan.clone() }).unwrap();
    }
}

#[test]
fn each_pipeline_on_one_store_has_its_own_lease() {
    let first = InstancePlan { runs: &[0], starts: 0, lasts: 300, end: End::Stop, latency: 300 };
    let plan = Plan { instances: vec![first, InstancePlan { runs: &[1], ..first }], ..Plan::quiet() };
    let summary = instance::run(&plan).unwrap();
    assert!(summary.begun_after.unwrap().as_secs() < 2, "neither waited for the other: {summary:?}");
    // The second instance follows in both pipelines, and the third is on standby in both.
    let both = InstancePlan { runs: &[0, 1], starts: 1, ..first };
    let instances = vec![InstancePlan { lasts: 4, end: End::Crash, ..first }, both, both];
    let summary = instance::run(&Plan { instances, ..plan }).unwrap();
    assert!(summary.begun_after.unwrap().as_secs() < 3, "{summary:?}");
}
