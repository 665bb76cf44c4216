//! `auditsync check`: tries every part by itself, and prints a line for each.

use std::fmt::Display;

use super::exit::Exit;
use super::{begin, print};
use crate::component::{Check, Finding};
use crate::failure::Chain;
use crate::pipeline::{Config, Pipeline};
use crate::source::Source;
use crate::state::needless::WHY;
use crate::state::{self, Caution, Claim, StateStore};
use crate::telemetry::liveness::Liveness;

/// Tries every part and prints a line for each. Returns the exit code of the gravest failure.
pub(super) async fn check(config: Config) -> Exit {
    begin(config.telemetry, &config.warnings);
    let has_several = config.pipelines.len() > 1;
    line("ok", "configuration", "every variable is valid");
    let mut gravest = Exit::Done;
    for pipeline in config.pipelines {
        if has_several {
            print(&format!("\n{}", pipeline.name));
        }
        gravest = gravest.max(check_pipeline(pipeline).await);
    }
    gravest
}

async fn check_pipeline(pipeline: Pipeline) -> Exit {
    let context = pipeline.context();
    let parts = pipeline.parts(&context, pipeline.store.build(), Liveness::default());
    let mut checks = parts.source.check(context.clock.local()).await;
    // Like an event, the test entry carries the source's time where that is known.
    let mut now = context.clock.local();
    now.wall = parts.source.server_time(now).unwrap_or(now.wall);
    checks.extend(parts.destination.check(now).await);
    let mut gravest = Exit::Done;
    for Check { part, finding } in checks {
        match finding {
            Finding::Works(seen) => line("ok", part, seen),
            Finding::Risk(what) => line("warning", part, what),
            Finding::Unknown(why) => line("unknown", part, why),
            Finding::Failed(failure) => {
                line("FAILED", part, Chain(&failure));
                gravest = gravest.max(failure.class().into());
            }
        }
    }
    if pipeline.store.is_needless {
        line("ok", "state", format_args!("none: {WHY}"));
        return gravest;
    }
    match check_state(parts.store.as_ref(), &pipeline, parts.source.as_ref()).await {
        Ok(state) => {
            line("ok", "state", state);
            for caution in parts.store.cautions().await {
                match caution {
                    Caution::Risk(what) => line("warning", "state", what),
                    Caution::Unknown(what) => line("unknown", "state", what),
                }
            }
        }
        Err(error) => {
            line("FAILED", "state", Chain(&error));
            gravest = gravest.max(Exit::from(&error));
        }
    }
    gravest
}

/// Reads the state and proves that it can be written. It changes nothing, since another instance may be active.
async fn check_state(store: &dyn StateStore, pipeline: &Pipeline, source: &dyn Source) -> Result<String, state::Error> {
    let location = store.location();
    let claim = store.claim().await?;
    let held = match store.load().await? {
        Some((document, _)) => Some(document.read_for(&pipeline.name, &location)?),
        None => None,
    };
    let reached = match &held {
        None => "nothing yet".to_owned(),
        Some(state) => {
            let corrupt = |cause| state::Error::Corrupt { location: location.clone(), cause: Box::new(cause) };
            format!("delivered up to {}", source.reached(&state.cursor).map_err(corrupt)?)
        }
    };
    match claim {
        Claim::Busy { holder } => {
            return Ok(format!("{location}: {reached}; in use by {holder}, so it was not written"));
        }
        Claim::Granted => {
            store.probe().await?;
            return Ok(format!("{location}: {reached}; can be written"));
        }
        Claim::ByLease => store.probe().await?,
    }
    let holder = match held.and_then(|state| state.lease) {
        Some(lease) => {
            let ttl = humantime::format_duration(lease.length());
            format!("{} holds the lease, for {ttl} after each heartbeat", lease.holder)
        }
        None => "the lease is free".to_owned(),
    };
    Ok(format!("{location}: {reached}; can be written, by one instance at a time; {holder}"))
}

/// Prints a line for a part.
fn line(result: &str, part: &str, line: impl Display) {
    print(&format!("{result:<8} {part:<14} {line}"));
}
