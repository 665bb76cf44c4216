//! The real source and the real destination over servers in memory, under simulated time.
//!
//! Nothing of the program is a model here: requests leave through [`auditsync::http::Transport`]. So the oracle sees the wire alone: which
//! records the intake kept, which it dropped because of their time, and which came twice. Each property names what it is about.

mod network;
mod plan;
mod store;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use auditsync::destination::datadog::{self, Compression, Datadog, Labels};
use auditsync::http;
use auditsync::secret::Secret;
use auditsync::source::sectigo::{self, Sectigo};
use auditsync::sync::clock::Clock;
use auditsync::sync::stop::Stop;
use auditsync::sync::{Mode, Outcome, Settings, Sync};
use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::time::sleep;

use crate::plan::Spell;
use network::Network;
use plan::{Burst, Change, Dates, Dislike, HOUR, IntakeFault, Plan, SourceFault, Turn};
use store::Store;
use world::{LOOKBACK, World};

const GRACE: Duration = Duration::from_secs(3600);

/// How long the daemon has when everything is well again.
const RECOVERY: Duration = Duration::from_secs(2 * 3600);

thread_local! {
    /// To set up a client takes longer than a case.
    static CLIENT: Arc<http::Client> = {
        let settings = http::Settings { timeout: Duration::from_secs(30) };
        Arc::new(http::Client::over(Arc::new(network::Present), settings))
    };
}

/// Runs a case; the error says what went wrong.
fn run(plan: &Plan) -> Result<(), String> {
    fastrand::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(simulate(plan))
}

async fn simulate(plan: &Plan) -> Result<(), String> {
    let world = Arc::new(World::new(plan));
    Network::new(Arc::clone(&world)).install();
    let store = Arc::new(Store::new(Arc::clone(&world)));
    let folder = tempfile::tempdir().unwrap();
    let rejected = folder.path().join("rejected.ndjson");
    let dead = || std::fs::read_to_string(&rejected).unwrap_or_default();

    let case = (&world, &store, rejected.as_path());
    let turning = turns(&world, plan.turns.clone());
    let living = live(case, Duration::from_secs(plan.lasts.into()));
    tokio::join!(turning, living);
    if world.is_only_clock() {
        // A clock that is wrong, or was, holds up nothing. A host that was suspended has had time since.
        world.check_all(world.now() - SignedDuration::from_secs(1500), &dead());
    }
    if let Some((from, until)) = plan.alternates {
        let (requests, most) = (world.inner().alternated, 60 + (until - from) as usize / 5);
        if requests > most {
            world.violated(format!("{requests} requests while 401 and 503 came in turns; at most {most} are sensible"));
        }
    }
    world.verdict()?;
    world.heal();
    live(case, RECOVERY).await;
    world.verdict().map_err(|what| format!("when all was well again: {what}"))?;
    world.check_all(world.now() - SignedDuration::from_secs(600), &dead());
    let end = world.now() - SignedDuration::from_secs(900);
    if store.position().is_none_or(|position| position < end) {
        world.violated(format!("stuck: it came to {:?}, and not to {end}", store.position()));
    }
    world.verdict().map_err(|what| format!("when all was well again: {what}"))
}

/// What befalls this machine's clocks.
async fn turns(world: &World, mut turns: Vec<Turn>) {
    turns.sort_by_key(|turn| turn.at);
    for Turn { at, what } in turns {
        sleep(Duration::from_secs(at.into()).saturating_sub(Duration::from_secs(world.elapsed()))).await;
        match what {
            Change::Ahead(ahead) => world.set_ahead(ahead),
            Change::Suspended(seconds) => world.suspend(seconds.into()),
        }
    }
}

/// The daemon runs for so long and is stopped. It must not end by itself.
async fn live((world, store, rejected): (&Arc<World>, &Arc<Store>, &Path), length: Duration) {
    let stop = Stop::new(GRACE);
    let mut running = Box::pin(daemon(world, store, rejected, &stop).run());
    let ended = tokio::select! {
        biased;
        ended = &mut running => return world.violated(format!("the daemon ended by itself with {ended:?}")),
        () = sleep(length) => {
            stop.request();
            running.await
        }
    };
    match ended {
        Ok(Outcome::Interrupted { .. }) => world.permit(0..world.records.len()),
        Ok(_) => {}
        Err(error) => world.violated(format!("a stop ended with {error:?}")),
    }
}

fn daemon(world: &World, store: &Arc<Store>, rejected: &Path, stop: &Stop) -> Sync {
    let client = CLIENT.with(Arc::clone);
    let url = |text: &str| text.parse().unwrap();
    let source = sectigo::Settings {
        api_url: url("http://localhost:1"),
        client_id: "client".to_owned(),
        client_secret: Secret::from_value("SECTIGO_AUDIT_API_CLIENT_SECRET", "hidden-secret".into()),
        token_url: Some(url("http://localhost:2/token")),
        lookback: Duration::from_secs(LOOKBACK),
        delay: Duration::from_secs(30),
        window: Duration::from_secs(3600),
        overlap: Duration::from_secs(300),
    };
    let labels =
        Labels { source: "sectigo".into(), service: "audit".into(), hostname: "host".into(), tags: String::new() };
    let destination = datadog::Settings {
        intake_url: url("http://localhost:3"),
        intake: datadog::Intake::Datadog,
        intake_variable: "DD_SITE".into(),
        site: "datadoghq.com".to_owned(),
        api_url: url("http://localhost:4"),
        api_key: Secret::from_value("DD_API_KEY", "0123456789abcdef0123456789abcdef".into()),
        compression: Compression::Identity,
        labels,
        rejected_path: Some(rejected.to_owned()),
    };
    let settings = Settings {
        mode: Mode::Loop,
        interval: Duration::from_secs(world.plan.interval.into()),
        retry_budget: Duration::from_secs(300),
        shutdown_grace: GRACE,
        lease_ttl: Duration::from_secs(15),
    };
    Sync::new(
        Arc::new(Sectigo::new(source, Arc::clone(&client))),
        Arc::new(Datadog::new(destination, "sectigo", client)),
        Arc::clone(store) as Arc<dyn auditsync::state::StateStore>,
        settings,
        Clock::showing(world::wall),
        stop.clone(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, max_shrink_time: 30_000, ..crate::cases() })]

    /// Point 2.
    #[test]
    fn whatever_this_machines_clock_shows_nothing_is_lost_or_late(plan in plan::clocks()) {
        run(&plan).map_err(TestCaseError::fail)?;
    }

    /// Point 1.
    #[test]
    fn after_quiet_days_events_carry_their_own_times(plan in plan::quiet_days()) {
        run(&plan).map_err(TestCaseError::fail)?;
    }

    /// Points 5, 7 and 8.
    #[test]
    fn a_status_out_of_nowhere_costs_nothing(plan in plan::refusals()) {
        run(&plan).map_err(TestCaseError::fail)?;
    }

    /// Points 3 and 4.
    #[test]
    fn pages_that_change_lose_and_repeat_nothing(plan in plan::pages()) {
        run(&plan).map_err(TestCaseError::fail)?;
    }

    /// Points 9 and 11.
    #[test]
    fn an_entry_that_the_intake_dislikes_holds_up_no_other(plan in plan::dislikes()) {
        run(&plan).map_err(TestCaseError::fail)?;
    }
}

/// Point 1.
#[test]
fn sixty_quiet_hours_and_a_reset_date_nothing_back() {
    let quiet = 60 * 3600;
    let bursts = vec![Burst { at: -600, count: 1, ..BURST }, Burst { at: quiet, count: 1, ..BURST }];
    let intake = vec![Spell { after: 1, fault: IntakeFault::Reset, times: 1 }];
    run(&Plan { bursts, intake, interval: 600, lasts: quiet.unsigned_abs() + 7200, ..Plan::quiet() }).unwrap();
}

/// Point 1.
#[test]
fn an_outage_of_twenty_hours_dates_what_waited_anew() {
    let bursts = vec![Burst { at: -600, count: 1, ..BURST }, Burst { at: 60, count: 1, ..BURST }];
    let down = Some((60, 20 * 3600));
    run(&Plan { bursts, down, lasts: 22 * 3600, interval: 600, ..Plan::quiet() }).unwrap();
}

/// Point 1.
#[test]
fn a_host_that_was_suspended_dates_nothing_anew() {
    let turns = vec![Turn { at: 300, what: Change::Suspended(20 * 3600) }];
    let bursts = vec![Burst { at: -600, count: 1, ..BURST }, Burst { at: 20 * 3600, count: 3, step: 60, ..BURST }];
    let intake = vec![Spell { after: 1, fault: IntakeFault::Reset, times: 1 }];
    run(&Plan { bursts, turns, intake, ..Plan::quiet() }).unwrap();
}

/// Point 2.
#[test]
fn a_clock_that_is_ahead_at_the_start_loses_nothing() {
    for ahead in [1000, 17 * HOUR, 72 * HOUR] {
        run(&Plan { ahead, ..Plan::quiet() }).unwrap_or_else(|what| panic!("{ahead} s ahead: {what}"));
    }
}

/// Point 2.
#[test]
fn a_clock_that_is_behind_at_the_start_loses_and_delays_nothing() {
    for ahead in [-HOUR, -18 * HOUR, -72 * HOUR] {
        run(&Plan { ahead, ..Plan::quiet() }).unwrap_or_else(|what| panic!("{ahead} s ahead: {what}"));
    }
}

/// Point 2.
#[test]
fn a_clock_that_jumps_in_mid_run_loses_and_delays_nothing() {
    for ahead in [-HOUR, -72 * HOUR, HOUR, 17 * HOUR, 72 * HOUR] {
        let turns = vec![Turn { at: 300, what: Change::Ahead(ahead) }];
        let bursts = vec![Burst { at: 0, count: 60, step: 30, ..BURST }];
        run(&Plan { turns, bursts, ..Plan::quiet() }).unwrap_or_else(|what| panic!("{ahead} s ahead: {what}"));
    }
}

/// Beyond point 2: only some of the API's answers tell its time.
#[test]
fn a_clock_that_jumps_while_an_answer_has_no_date_loses_nothing() {
    let bursts = vec![Burst { at: 0, count: 200, step: 10, ..BURST }];
    for at in (300..660).step_by(60) {
        let turns = vec![Turn { at, what: Change::Ahead(72 * HOUR) }];
        let plan = Plan { turns, bursts: bursts.clone(), source_dates: Dates::Mostly, ..Plan::quiet() };
        run(&plan).unwrap_or_else(|what| panic!("a jump at {at} s: {what}"));
    }
}

/// Point 3.
#[test]
fn a_transient_empty_page_does_not_end_the_protection_of_late_records() {
    let dense = Burst { at: 0, count: 200, step: 6, ..BURST };
    let late = Burst { at: 900, count: 3, step: 1, late: 250, ..BURST };
    let source = vec![Spell { after: 10, fault: SourceFault::Empty, times: 1 }];
    run(&Plan { bursts: vec![dense, late], source, page: 100, ..Plan::quiet() }).unwrap();
}

/// Point 4.
#[test]
fn a_pagination_without_an_end_is_left() {
    let source = vec![Spell { after: 1, fault: SourceFault::Endless, times: 1 }];
    run(&Plan { source, bursts: vec![Burst { at: -600, count: 150, step: 1, ..BURST }], ..Plan::quiet() }).unwrap();
}

/// Point 4.
#[test]
fn a_page_that_repeats_is_not_delivered_twice() {
    let source = vec![Spell { after: 1, fault: SourceFault::Repeats, times: 1 }];
    run(&Plan { source, ..Plan::quiet() }).unwrap();
}

/// Point 5.
#[test]
fn a_single_refusal_of_a_page_repeats_nothing() {
    let bursts = vec![Burst { at: -1200, count: 30, step: 10, ..BURST }];
    for status in [400, 404, 405, 407, 421, 431, 302] {
        for after in 1..4 {
            let source = vec![Spell { after, fault: SourceFault::Status(status), times: 1 }];
            let plan = Plan { source, bursts: bursts.clone(), ..Plan::quiet() };
            run(&plan).unwrap_or_else(|what| panic!("{status} after {after}: {what}"));
        }
    }
}

/// Point 7.
#[test]
fn a_passing_refusal_at_the_first_contact_does_not_end_the_daemon() {
    for status in [400, 404, 405, 407, 421, 431, 302] {
        let source = vec![Spell { after: 0, fault: SourceFault::Status(status), times: 1 }];
        run(&Plan { source, ..Plan::quiet() }).unwrap_or_else(|what| panic!("the source's {status}: {what}"));
    }
    for status in [404, 405, 407, 421, 302] {
        let intake = vec![Spell { after: 0, fault: IntakeFault::Status(status), times: 1 }];
        run(&Plan { intake, ..Plan::quiet() }).unwrap_or_else(|what| panic!("the intake's {status}: {what}"));
    }
}

/// Point 8.
#[test]
fn a_block_page_of_any_kind_is_no_acceptance() {
    for kind in ["text/html", "text/plain", "application/xhtml+xml", ""] {
        let intake = vec![Spell { after: 0, fault: IntakeFault::Portal(kind), times: 1 }];
        run(&Plan { intake, ..Plan::quiet() }).unwrap_or_else(|what| panic!("{kind:?}: {what}"));
    }
}

/// Point 9.
#[test]
fn one_entry_that_is_always_refused_holds_up_no_other() {
    for status in [400, 403, 408, 413, 422, 500, 503] {
        let bursts = vec![
            Burst { at: -600, count: 2, ..BURST },
            Burst { at: 0, count: 8, marked: Some(3), ..BURST },
            Burst { at: 600, count: 5, ..BURST },
        ];
        let plan = Plan { bursts, dislikes: Dislike::Status(status), ..Plan::quiet() };
        run(&plan).unwrap_or_else(|what| panic!("{status}: {what}"));
    }
}

/// Point 9.
#[test]
fn one_entry_that_is_never_answered_holds_up_no_other() {
    let bursts = vec![
        Burst { at: -600, count: 2, ..BURST },
        Burst { at: 0, count: 8, marked: Some(3), ..BURST },
        Burst { at: 600, count: 5, ..BURST },
    ];
    run(&Plan { bursts, dislikes: Dislike::Unanswered, ..Plan::quiet() }).unwrap();
}

/// Point 11.
#[test]
fn a_lapse_of_the_lease_while_an_entry_is_isolated_repeats_nothing() {
    let bursts = vec![Burst { at: -600, count: 16, step: 1, marked: Some(15), ..BURST }];
    let slow = (1..8).map(|_| Spell { after: 0, fault: IntakeFault::Slow(5), times: 1 }).collect::<Vec<_>>();
    for from in 0..4 {
        let (dislikes, lease) = (Dislike::Status(400), Some((from, 60)));
        let plan = Plan { bursts: bursts.clone(), dislikes, lease, intake: slow.clone(), page: 100, ..Plan::quiet() };
        run(&plan).unwrap_or_else(|what| panic!("an outage of the store from {from} s on: {what}"));
    }
}

/// A record at the start.
const BURST: Burst = Burst { at: 0, count: 1, step: 0, late: 0, marked: None };

/// Point 14.
#[test]
fn where_401_and_503_come_in_turns_the_daemon_backs_off() {
    run(&Plan { alternates: Some((300, 2100)), ..Plan::quiet() }).unwrap();
}
