//! `auditsync run`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use super::exit::Exit;
use super::{begin, bug, signals, supervised};
use crate::engine::shutdown::Shutdown;
use crate::engine::{Mode, Outcome};
use crate::failure::Chain;
use crate::notice::{self, Watched};
use crate::pipeline::supervisor::{self, Ended, Supervised};
use crate::pipeline::{Config, Pipeline};
use crate::pipeline_name::PipelineName;
use crate::telemetry::listener::{Listener, Observed};
use crate::telemetry::liveness::Liveness;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::exporter;
use crate::variable_name::VariableName;

/// Runs every pipeline until it ends.
pub(super) async fn run(config: Config, once: bool) -> Exit {
    begin(config.telemetry, &config.warnings);
    let secrets = config.secret_files();
    let Config { mut pipelines, listen, listen_variable, notice, .. } = config;
    if once {
        pipelines.iter_mut().for_each(only_once);
    }
    // A process with one daemon among its pipelines is a daemon.
    let is_daemon = pipelines.iter().any(|pipeline| pipeline.settings.mode == Mode::Loop);
    let supervisor = supervised::notifier();
    let shutdown = Shutdown::default();
    let timeout = pipelines.iter().map(|pipeline| pipeline.settings.shutdown_timeout).max().unwrap_or_default();
    if let Err(exit) = signals::obey(shutdown.clone(), timeout, secrets, supervisor.clone()) {
        return exit;
    }
    let runs_once = |pipeline: &Pipeline| pipeline.settings.mode == Mode::Once;
    let one_shots: Vec<_> = pipelines.iter().filter(|one| runs_once(one)).map(|one| one.name.clone()).collect();
    let pipelines: Vec<_> = pipelines.into_iter().map(supervise).collect();
    let is_alone = pipelines.len() == 1;
    let observed: Vec<_> = pipelines.iter().map(|pipeline| observe(pipeline, is_alone)).collect();
    if let Some(address) = listen
        && let Err(exit) = serve(address, &listen_variable, is_daemon, observed.clone()).await
    {
        return exit;
    }
    let notices = notice.zip(pipelines.first()).map(|(url, first)| {
        let settings = first.pipeline.http.clone();
        let watched = observed.iter().zip(&pipelines).map(|(observed, Supervised { pipeline, .. })| Watched {
            observed: observed.clone(),
            dead_letters: pipeline.dead_letters.clone(),
        });
        notice::watch(watched.collect(), url, settings)
    });
    if let Some(supervisor) = &supervisor {
        // Ready even if sources and destinations do not answer: the engine waits for the end of an outage.
        supervisor.ready();
        supervised::attend(supervisor, observed);
    }
    let ended = supervisor::run(pipelines, &shutdown).await;
    if let Some(notices) = notices {
        notices.finish().await;
    }
    let exits = ended.iter().map(|(name, ended)| {
        let _span = tracing::info_span!("pipeline", %name).entered();
        let exit = exit_of(ended, is_daemon);
        if let (Ended::Run(Err(error)), Some(supervisor)) = (ended, &supervisor) {
            supervisor.failed(format_args!("ended with exit code {}: {}", exit.code(), Chain(error)));
        }
        // Only a signal ends a daemon with several pipelines, and to end at a signal is success. What failed meanwhile is in the log.
        if is_daemon && (shutdown.is_requested() || one_shots.contains(name)) { Exit::Done } else { exit }
    });
    let exit = exits.max().unwrap_or(Exit::Done);
    if let Some(supervisor) = &supervisor {
        supervisor.stopping(Duration::ZERO);
    }
    tracing::debug!(exit_code = exit.code(), "auditsync ends");
    exit
}

fn only_once(pipeline: &mut Pipeline) {
    if pipeline.settings.mode == Mode::Loop && pipeline.store.is_forgetful() {
        let (backend, kind) = (&pipeline.store.variable, pipeline.store.kind.name);
        tracing::warn!("with {backend}={kind}, the state is lost at the end of each run, so each run starts over");
    }
    pipeline.settings.mode = Mode::Once;
}

pub(super) fn supervise(pipeline: Pipeline) -> Supervised {
    Supervised { liveness: Liveness::new(pipeline.pace()), pipeline }
}

fn observe(Supervised { pipeline, liveness }: &Supervised, is_alone: bool) -> Observed {
    let metrics = Metrics::of(&pipeline.name);
    Observed { name: pipeline.name.clone(), liveness: liveness.clone(), metrics, is_alone }
}

/// Logs how a pipeline ended, and returns its exit code.
pub(super) fn exit_of(ended: &Ended, is_daemon: bool) -> Exit {
    match ended {
        Ended::Run(Ok(Outcome::Done)) => Exit::Done,
        Ended::Run(Ok(outcome @ (Outcome::Stopped | Outcome::Interrupted { .. }))) => {
            if *outcome == Outcome::Stopped {
                tracing::info!("stopped; everything delivered is committed");
            }
            // A one-shot that was stopped is not complete.
            if is_daemon { Exit::Done } else { Exit::TryAgain }
        }
        Ended::Run(Err(error)) => {
            let exit = Exit::from(error);
            tracing::error!(exit_code = exit.code(), "{}", Chain(error));
            exit
        }
        Ended::Panicked => bug(),
    }
}

/// Answers probes and Prometheus from now on. Metrics are counted only where this listener serves them.
///
/// A one-shot runs without the listener if the address is in use. It may share its variables with a daemon or with an earlier run that has
/// not ended.
async fn serve(
    address: SocketAddr,
    variable: &VariableName,
    is_daemon: bool,
    observed: Vec<Observed>,
) -> Result<(), Exit> {
    let listener = match Listener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if !is_daemon && error.kind() == ErrorKind::AddrInUse => {
            tracing::warn!(%error, "{variable}={address}: another process answers there; this run does not answer probes");
            return Ok(());
        }
        Err(error) => {
            // A one-shot may hold the address, which is free again when it ends.
            let exit = if error.kind() == ErrorKind::AddrInUse { Exit::TryAgain } else { Exit::Configuration };
            tracing::error!(
                %error, exit_code = exit.code(),
                "{variable}={address}: cannot listen there; choose an address of this machine and a free port"
            );
            return Err(exit);
        }
    };
    let names: Vec<PipelineName> = observed.iter().map(|observed| observed.name.clone()).collect();
    let scrape = exporter::install(&names).map_err(|error| {
        tracing::error!("{}", Chain(&error));
        Exit::Bug
    })?;
    listener.serve(observed, scrape);
    tracing::info!(%address, "answering /healthz, /readyz and /metrics");
    Ok(())
}
