//! Several pipelines in one process: each in a task of its own, and one that fails for good holds up no other.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::Pipeline;
use crate::engine::shutdown::Shutdown;
use crate::engine::{Engine, Error, Mode, Outcome};
use crate::failure::Chain;
use crate::pipeline_name::PipelineName;
use crate::telemetry::liveness::Liveness;

/// A pipeline that failed for good starts again after this long, while others go on.
const RESTART: Duration = Duration::from_secs(300);

/// How a pipeline ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself.
    Run(Result<Outcome, Error>),
    /// By a panic: a bug.
    Panicked,
}

/// A pipeline, and where its progress is noted.
#[derive(Debug)]
pub(crate) struct Supervised {
    pub(crate) pipeline: Pipeline,
    pub(crate) liveness: Liveness,
}

/// Runs all of them until each has ended.
pub(crate) async fn run(pipelines: Vec<Supervised>, shutdown: &Shutdown) -> Vec<(PipelineName, Ended)> {
    let is_alone = pipelines.len() == 1;
    let mut running = JoinSet::new();
    for Supervised { pipeline, liveness } in pipelines {
        let (name, shutdown) = (pipeline.name.clone(), shutdown.clone());
        let span = tracing::info_span!("pipeline", %name);
        running.spawn(async move { (name, supervise(pipeline, liveness, shutdown, is_alone).await) }.instrument(span));
    }
    running.join_all().await
}

/// Runs a pipeline. In a daemon with several, one that failed for good starts again later.
async fn supervise(pipeline: Pipeline, liveness: Liveness, shutdown: Shutdown, is_alone: bool) -> Ended {
    let context = pipeline.context();
    let forgetful = (!pipeline.store().kind.is_lasting).then(|| pipeline.store().build());
    loop {
        let store = forgetful.clone().unwrap_or_else(|| pipeline.store().build());
        let parts = pipeline.parts(&context, store, liveness.clone());
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            source = parts.source.location(),
            destination = parts.destination.location(),
            state = parts.store.location(),
            mode = ?pipeline.settings.mode,
            interval = %humantime::format_duration(pipeline.settings.interval),
            "the pipeline starts"
        );
        let engine = Engine::new(parts, pipeline.settings, shutdown.clone());
        let ended = match tokio::spawn(engine.run().in_current_span()).await {
            Ok(ended) => Ended::Run(ended),
            Err(_) => Ended::Panicked,
        };
        let reason = match &ended {
            Ended::Run(Ok(_)) => return ended,
            _ if is_alone || pipeline.settings.mode == Mode::Once => return ended,
            Ended::Run(Err(error)) => Chain(error).to_string(),
            Ended::Panicked => "a bug ended it; please report the lines above".to_owned(),
        };
        let restart_in = humantime::format_duration(RESTART);
        tracing::error!(%restart_in, "the pipeline failed: {reason}; the others go on, and it starts again later");
        context.metrics.pipeline_failed();
        context.metrics.is_active(false);
        liveness.failed(format_args!("the pipeline failed, and starts again within {restart_in}"));
        liveness.set_status(format_args!("failed; starts again in {restart_in}"));
        if !shutdown.sleep(RESTART).await {
            return Ended::Run(Ok(Outcome::Stopped));
        }
    }
}
