//! Runs a case: several lives of the engine in turn over one world, then a healthy one, and then the oracle's verdict.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::{sleep, timeout};

use auditsync::clock::Clock;
use auditsync::engine::{Engine, Error, Mode, Outcome, Parts, Settings};
use auditsync::state;
use auditsync::telemetry::liveness::{Liveness, Pace};
use auditsync::telemetry::metrics::Metrics;

use crate::destination::ModelDestination;
use crate::plan::{Cue, End, LifePlan, Plan};
use crate::source::ModelSource;
use crate::store::{ModelStore, land_straggler};
use crate::world::{Life, World};

/// A life is stopped after this long if it has not ended before.
const LONGEST_LIFE: Duration = Duration::from_secs(1000);

/// A healthy run that takes longer does not end at all.
const LONGEST_RECOVERY: Duration = Duration::from_secs(1_000_000);

/// The outcome of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// The number of permitted repeats.
    pub(crate) permitted: usize,
}

/// How a life ended.
enum Ending {
    Ended(Result<Outcome, Error>),
    Crashed,
}

/// Runs a case under simulated time; the error says what went wrong.
pub(crate) fn run(plan: &Plan) -> Result<Summary, String> {
    fastrand::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(simulate(plan))
}

async fn simulate(plan: &Plan) -> Result<Summary, String> {
    let world = Arc::new(World::new(plan));
    for (number, life) in plan.lives.iter().enumerate() {
        live(&world, number, life).await;
        world.ledger().verdict().map_err(|what| format!("life {number}: {what}"))?;
        sleep(Duration::from_millis(life.rest.into())).await;
    }
    world.heal();
    if plan.tokens_expire {
        world.api().expire();
    }
    let unseen = world.history.all_visible().duration_since(world.now());
    sleep(Duration::try_from(unseen).unwrap_or_default()).await;
    for number in 0..2 {
        recover(&world, plan.lives.len() + number).await;
        world.ledger().verdict().map_err(|what| format!("healthy run {number}: {what}"))?;
        sleep(Duration::from_secs(60)).await;
    }
    let permitted = world.ledger().permitted();
    Ok(Summary { permitted })
}

/// One run of the engine, with the faults that the plan has for it.
async fn live(world: &Arc<World>, number: usize, plan: &LifePlan) {
    let life = Arc::new(Life::new(number, Some(plan)));
    begin(world);
    let clock = Clock::starting_at(world.now());
    clock.set_ahead(world.bounded(plan.ahead, &life));
    let budget = Duration::from_secs(world.knobs.budget.into());
    let engine = engine(world, &life, plan.mode, budget, &clock, plan.busy);
    let set_clock = async {
        if let Some((at, ahead)) = plan.clock_set {
            sleep(Duration::from_millis(at.into())).await;
            clock.set_ahead(world.bounded(ahead, &life));
        }
        std::future::pending().await
    };
    let ending = tokio::select! {
        biased;
        never = set_clock => never,
        ending = run_until_over(world, &life, engine, plan) => ending,
    };
    if life.goes_round() {
        world.ledger().violated("it goes round in a circle");
    }
    // A save that is still on its way to the store arrives now or never.
    land_straggler(world, number, true);
    match ending {
        Ending::Ended(Ok(Outcome::Done | Outcome::Stopped)) => world.ledger().ended_well(),
        Ending::Ended(Ok(Outcome::Interrupted { uncertain })) => {
            let may_repeat = world.ledger().uncertain();
            if uncertain < may_repeat {
                world
                    .ledger()
                    .violated(format!("{may_repeat} events may be repeated, but only {uncertain} are reported"));
            }
            world.ledger().broke_off();
        }
        Ending::Ended(Err(Error::State(state::Error::Conflict { .. }))) if !world.documents().was_overtaken(number) => {
            world.ledger().violated("a conflict was seen, but there is no other writer");
        }
        Ending::Ended(Err(_)) | Ending::Crashed => world.ledger().broke_off(),
    }
}

/// Waits for a life's end, and ends it when the plan says so.
async fn run_until_over(world: &World, life: &Life, engine: Engine, plan: &LifePlan) -> Ending {
    let mut running = std::pin::pin!(engine.run());
    let at = match plan.cue {
        Cue::Time(millis) => Duration::from_millis(millis.into()),
        Cue::Call(_) | Cue::Delivery(_) => LONGEST_LIFE,
    };
    tokio::select! {
        biased;
        ended = &mut running => return Ending::Ended(ended),
        () = life.over() => return Ending::Crashed,
        () = life.shutdown.requested() => {}
        () = sleep(at) => {
            if plan.end == End::Crash {
                return Ending::Crashed;
            }
            life.shutdown.request();
        }
    }
    let longest = Duration::from_secs(world.knobs.shutdown_timeout.into());
    let patience = match plan.end {
        End::StopTwice(millis) => longest.min(Duration::from_millis(millis.into())),
        End::Crash | End::Stop => longest,
    };
    let too_long = async {
        sleep(patience).await;
        if patience < longest {
            life.shutdown.request();
        }
        sleep(Duration::from_millis(1)).await;
    };
    tokio::select! {
        biased;
        ended = &mut running => Ending::Ended(ended),
        () = life.over() => Ending::Crashed,
        () = too_long => {
            world.ledger().violated("a shutdown took longer than its timeout");
            Ending::Crashed
        }
    }
}

/// A run without any faults.
async fn recover(world: &Arc<World>, number: usize) {
    let life = Arc::new(Life::new(number, None));
    begin(world);
    let end = world.now() - SignedDuration::from_secs(i64::from(world.knobs.delay) + 1);
    // The engine requests a refused page token again for some seconds, and a range without its known records for two
    // minutes.
    let budget = Duration::from_secs(world.knobs.budget.max(300).into());
    let engine = engine(world, &life, Mode::Once, budget, &Clock::starting_at(world.now()), 0);
    let ending = tokio::select! {
        biased;
        ended = timeout(LONGEST_RECOVERY, engine.run()) => ended.ok(),
        () = life.over() => None,
    };
    match ending {
        Some(Ok(Outcome::Done)) => {}
        other => return world.ledger().violated(format!("a healthy run ended with {other:?}")),
    }
    let stored = world.documents().held().map(|(written, _)| written.document.read("the model").unwrap().cursor);
    let mut ledger = world.ledger();
    ledger.ended_well();
    ledger.check_confirmed(&stored.unwrap_or_default());
    match ledger.position() {
        Some(position) if position >= end => ledger.settle(position),
        position => ledger.violated(format!("a healthy run came to {position:?} and not to {end}")),
    }
}

/// Records in the ledger what the next run finds in the store.
fn begin(world: &World) {
    let held = world.documents().held().map(|(written, _)| written.clone());
    let position = held.as_ref().map(|written| {
        let state = written.document.read("model").unwrap();
        (auditsync::source::sectigo::KIND.reached)(&state.cursor).unwrap()
    });
    world.ledger().begin_life(held.map_or(0, |written| written.behind), position);
}

fn engine(world: &Arc<World>, life: &Arc<Life>, mode: Mode, retry_budget: Duration, clock: &Clock, busy: u8) -> Engine {
    let knobs = world.knobs;
    let settings = Settings {
        mode,
        interval: Duration::from_secs(knobs.interval.into()),
        retry_budget,
        shutdown_timeout: Duration::from_secs(knobs.shutdown_timeout.into()),
        lease_ttl: Duration::from_secs(60),
    };
    let pipeline = "model:model".into();
    let parts = Parts {
        metrics: Metrics::of(&pipeline),
        pipeline,
        source: Arc::new(ModelSource::new(Arc::clone(world), Arc::clone(life), clock.clone())),
        destination: Arc::new(ModelDestination::new(Arc::clone(world), Arc::clone(life))),
        store: Arc::new(ModelStore::new(Arc::clone(world), Arc::clone(life), busy)),
        screen: auditsync::screen::Screen::default(),
        clock: clock.clone(),
        liveness: Liveness::new(Pace { interval: settings.interval, exchange: Duration::from_secs(60) }),
    };
    Engine::new(parts, settings, life.shutdown.clone())
}
