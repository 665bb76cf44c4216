//! Runs a case: all instances side by side, then one instance without any trouble, and then the oracle's verdict.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, timeout};

use auditsync::clock::Clock;
use auditsync::engine::shutdown::Shutdown;
use auditsync::engine::{Engine, Mode, Outcome, Parts, Settings};
use auditsync::telemetry::liveness::{Liveness, Pace};
use auditsync::telemetry::metrics::Metrics;

use crate::plan::{End, InstancePlan, Plan};
use crate::row::Rows;
use crate::sink::Sink;
use crate::store::Shared;
use crate::world::{Summary, World};

const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

/// A healthy run that takes longer does not end at all.
const LONGEST_RECOVERY: Duration = Duration::from_secs(100_000);

/// Runs a case under simulated time. Returns its summary; the error says what went wrong.
pub(crate) fn run(plan: &Plan) -> Result<Summary, String> {
    fastrand::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(simulate(plan))
}

async fn simulate(plan: &Plan) -> Result<Summary, String> {
    let worlds = [0, 1].map(|pipeline| Arc::new(World::new(plan, pipeline)));
    let lives = plan.instances.iter().enumerate().map(|(number, plan)| live(&worlds, number, *plan));
    futures_util::future::join_all(lives).await;
    // They start side by side, so each begins while the first cursor of its pipeline is still the beginning.
    let is_run = |pipeline: usize| plan.instances.iter().any(|instance| instance.runs.contains(&pipeline));
    let run = worlds.iter().enumerate().filter(|(pipeline, _)| is_run(*pipeline));
    let recoveries = run.map(|(_, world)| recover(world, plan.instances.len()));
    let mut summary = Summary::default();
    for recovered in futures_util::future::join_all(recoveries).await {
        summary += recovered?;
    }
    Ok(summary)
}

/// A run without any trouble.
async fn recover(world: &Arc<World>, number: usize) -> Result<Summary, String> {
    world.heal();
    let healthy = engine(world, number, Mode::Once, Duration::from_millis(100), Shutdown::default());
    match timeout(LONGEST_RECOVERY, healthy.run()).await {
        Ok(Ok(Outcome::Done)) => {}
        other => return Err(format!("a healthy run ended with {other:?}")),
    }
    // Late saves take effect meanwhile, or never.
    sleep(Duration::from_secs(1)).await;
    world.verdict()
}

async fn live(worlds: &[Arc<World>; 2], number: usize, plan: InstancePlan) {
    sleep(Duration::from_secs(plan.starts.into())).await;
    let shutdown = Shutdown::default();
    let latency = Duration::from_millis(plan.latency.into());
    let worlds = plan.runs.iter().map(|pipeline| &worlds[*pipeline]);
    let run = |world| engine(world, number, Mode::Loop, latency, shutdown.clone()).run();
    let running = futures_util::future::join_all(worlds.clone().map(run));
    let still = match plan.end {
        End::StandsStill(millis) => Duration::from_millis(millis.into()),
        End::Crash | End::Stop => Duration::ZERO,
    };
    let life = Duration::from_secs(plan.lasts.into());
    let mut running = Process { inner: Box::pin(running), still_from: Instant::now() + life, still, asleep: None };
    let life = if still.is_zero() { life } else { life * 2 + still };
    let ended = tokio::select! {
        biased;
        ended = &mut running => Some(ended),
        () = sleep(life) => None,
    };
    let requested = Instant::now();
    let ended = match ended {
        None if plan.end == End::Crash => return,
        None => {
            shutdown.request();
            running.await
        }
        Some(ended) => ended,
    };
    for (world, ended) in worlds.zip(ended) {
        world.stopped_in(requested.elapsed());
        if !matches!(ended, Ok(Outcome::Stopped | Outcome::Interrupted { .. })) {
            world.violated(format!("instance {number} ended with {ended:?}"));
        }
    }
}

/// A process that stands still for a while: none of its tasks run.
struct Process<F> {
    inner: Pin<Box<F>>,
    still_from: Instant,
    still: Duration,
    asleep: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Process<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (from, until) = (self.still_from, self.still_from + self.still);
        if (from..until).contains(&Instant::now()) {
            let asleep = self.asleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            if asleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        self.inner.as_mut().poll(context)
    }
}

fn engine(world: &Arc<World>, instance: usize, mode: Mode, latency: Duration, shutdown: Shutdown) -> Engine {
    let settings = Settings {
        mode,
        interval: Duration::from_secs(30),
        retry_budget: Duration::from_secs(300),
        shutdown_timeout: SHUTDOWN_TIMEOUT,
        lease_ttl: Duration::from_secs(world.plan.lease),
    };
    let parts = Parts {
        metrics: Metrics::of(&world.pipeline),
        pipeline: world.pipeline.clone(),
        source: Arc::new(Rows { world: Arc::clone(world), instance }),
        destination: Arc::new(Sink { world: Arc::clone(world), instance, latency, gathered: Arc::default() }),
        store: Arc::new(Shared { world: Arc::clone(world), instance }),
        screen: auditsync::screen::Screen::default(),
        clock: Clock::starting_at(world.now()),
        liveness: Liveness::new(Pace { interval: settings.interval, exchange: Duration::from_secs(60) }),
    };
    Engine::new(parts, settings, shutdown)
}
