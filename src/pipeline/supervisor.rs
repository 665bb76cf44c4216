//! Runs several pipelines in one process, each in a task of its own. One that fails for good does not hold up the others.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::Pipeline;
use crate::engine::shutdown::Shutdown;
use crate::engine::{Engine, Error, Mode, Outcome};
use crate::failure::Chain;
use crate::pipeline_name::PipelineName;
use crate::source::Opening;
use crate::telemetry::liveness::Liveness;

/// How long after it failed for good a pipeline starts again.
const RESTART: Duration = Duration::from_secs(300);

/// The longest time that tasks of sources may take after the end of all pipelines.
const LAST_TASKS: Duration = Duration::from_secs(10);

/// How a pipeline ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself.
    Run(Result<Outcome, Error>),
    /// By a panic: a bug.
    Panicked,
}

/// A pipeline, and its liveness.
#[derive(Debug)]
pub(crate) struct Supervised {
    pub(crate) pipeline: Pipeline,
    pub(crate) liveness: Liveness,
}

/// Runs the pipelines until each has ended.
pub(crate) async fn run(pipelines: Vec<Supervised>, shutdown: &Shutdown) -> Vec<(PipelineName, Ended)> {
    let is_alone = pipelines.len() == 1;
    let (stop, tasks) = (shutdown.token().child_token(), TaskTracker::new());
    let mut running = JoinSet::new();
    for Supervised { pipeline, liveness } in pipelines {
        let (name, shutdown) = (pipeline.name.clone(), shutdown.clone());
        let opening = Opening {
            shutdown: stop.clone(),
            liveness,
            tasks: tasks.clone(),
            is_daemon: pipeline.settings.mode == Mode::Loop,
        };
        let span = tracing::info_span!("pipeline", %name);
        running.spawn(async move { (name, supervise(pipeline, opening, shutdown, is_alone).await) }.instrument(span));
    }
    let ended = running.join_all().await;
    stop.cancel();
    finish(&tasks, shutdown).await;
    ended
}

/// Waits for the last tasks of sources, until they take too long or a second request for the shutdown comes.
async fn finish(tasks: &TaskTracker, shutdown: &Shutdown) {
    tasks.close();
    tokio::select! {
        // After a second signal both may be ready.
        biased;
        () = tasks.wait() => return,
        () = sleep(LAST_TASKS) => {}
        () = shutdown.expired(LAST_TASKS) => {}
    }
    tracing::warn!(connections = tasks.len(), "senders were cut off: their requests took too long after the shutdown");
}

/// Runs a pipeline. One that failed for good starts again later in a daemon with several pipelines, and in one whose source has begun to
/// accept connections: without the process, what others push would be lost.
async fn supervise(pipeline: Pipeline, opening: Opening, shutdown: Shutdown, is_alone: bool) -> Ended {
    let liveness = &opening.liveness;
    let context = pipeline.context();
    let forgetful = pipeline.store.is_forgetful().then(|| pipeline.store.build());
    loop {
        let store = forgetful.clone().unwrap_or_else(|| pipeline.store.build());
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
        let (opening, settings, shutdown_of_engine) = (opening.clone(), pipeline.settings, shutdown.clone());
        let running = async move {
            parts.source.open(&opening).await.map_err(Error::Unopened)?;
            Engine::new(parts, settings, shutdown_of_engine).run().await
        };
        let ended = match tokio::spawn(running.in_current_span()).await {
            Ok(ended) => Ended::Run(ended),
            Err(_) => Ended::Panicked,
        };
        let reason = match &ended {
            Ended::Run(Ok(outcome)) => {
                if *outcome == Outcome::Done {
                    liveness.is_over();
                }
                return ended;
            }
            Ended::Run(Err(Error::Unopened(_))) if is_alone => return ended,
            _ if is_alone && (pipeline.settings.mode == Mode::Once || !pipeline.is_server) => return ended,
            Ended::Run(Err(error)) => {
                liveness.logged(error);
                Chain(error).to_string()
            }
            Ended::Panicked => "a bug ended it; please report the lines above".to_owned(),
        };
        if pipeline.settings.mode == Mode::Once {
            tracing::error!("the pipeline failed: {reason}; the others go on");
            context.metrics.pipeline_failed();
            liveness.failed("the pipeline failed; the log has the reason");
            liveness.set_status("failed");
            return ended;
        }
        let restart_in = humantime::format_duration(RESTART);
        tracing::error!(%restart_in, "the pipeline failed: {reason}; it starts again later");
        context.metrics.pipeline_failed();
        context.metrics.is_active(false);
        liveness.failed(format_args!("the pipeline failed, and starts again within {restart_in}"));
        liveness.set_status(format_args!("failed; starts again in {restart_in}"));
        if !shutdown.sleep(RESTART).await {
            return Ended::Run(Ok(Outcome::Stopped));
        }
    }
}

#[cfg(feature = "receiver")]
#[cfg(test)]
mod tests;
