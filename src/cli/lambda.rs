//! Runs the binary as a custom runtime of AWS Lambda, with one sync for each invocation.
//!
//! Lambda kills a function at its deadline and freezes it after its answer
//! (docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html). So a sync ends before the deadline, and nothing runs after the answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::exit::Exit;
use super::run::{exit_of, supervise};
use super::surroundings::Surroundings;
use super::{begin, mistaken, say};
use crate::config::{ConfigError, Environment};
use crate::engine::shutdown::Shutdown;
use crate::engine::{self, Mode, Outcome};
use crate::failure::Chain;
use crate::pipeline::registry::Wanted;
use crate::pipeline::supervisor::{self, Ended, Supervised};
use crate::pipeline::{Config, Purpose};
use crate::pipeline_name::PipelineName;
use crate::state;
use crate::telemetry::liveness::Readiness;

/// The shortest reserve before the deadline. The reserve is a tenth of the time, at least this, but at most a third of the time.
const LEAST_RESERVE: Duration = Duration::from_secs(5);

/// The longest time to report to Lambda why the function cannot start.
const LONGEST_REPORT: Duration = Duration::from_secs(2);

/// Whether this process runs as a function of AWS Lambda.
pub(super) fn is_here() -> bool {
    Surroundings::read().aws_lambda_runtime_api.is_some()
}

/// Answers invocations until Lambda ends the process.
pub(super) async fn serve(environment: Environment, wanted: Vec<Wanted>) -> Exit {
    match Config::read(&environment, &wanted, Purpose::Lambda) {
        Ok(config) => begin(config.telemetry, &config.warnings),
        Err(error) => {
            report_unfit(&error).await;
            return mistaken(error);
        }
    }
    let given = Arc::new((environment, wanted));
    let answer = service_fn(|event: LambdaEvent<Value>| {
        let given = Arc::clone(&given);
        async move { invoke(&given.0, &given.1, left(event.context.deadline)).await }
    });
    match lambda_runtime::run(answer).await {
        Ok(()) => Exit::Done,
        Err(error) => {
            say(&format!("auditsync: the runtime API of AWS Lambda failed: {}", Chain(error.as_ref())));
            Exit::TryAgain
        }
    }
}

/// Reports the mistakes of the configuration to Lambda, which shows them as the reason why the function did not start. The log has them
/// too, so a failure of this call loses nothing.
async fn report_unfit(error: &ConfigError) {
    let Some(api) = Surroundings::read().aws_lambda_runtime_api else { return };
    let body = json!({"errorMessage": error.to_string(), "errorType": type_of(Exit::Configuration), "stackTrace": []});
    let Ok(client) = reqwest::Client::builder().no_proxy().timeout(LONGEST_REPORT).build() else { return };
    let call = client.post(format!("http://{api}/2018-06-01/runtime/init/error")).body(body.to_string());
    let _ = call.header("Lambda-Runtime-Function-Error-Type", "Runtime.Configuration").send().await;
}

/// The time until `deadline`, which is in milliseconds since 1970.
fn left(deadline: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(deadline).saturating_sub(now)
}

/// The last part of the time `left`, in which nothing new begins.
fn reserve(left: Duration) -> Duration {
    (left / 10).max(LEAST_RESERVE).min(left / 3)
}

/// The answer to an invocation in which no pipeline failed.
#[derive(Debug, Serialize)]
struct Answer {
    /// Whether the deadline came before everything was delivered. The next invocation continues.
    more: bool,
    pipelines: Vec<OfOne>,
}

#[derive(Debug, Serialize)]
struct OfOne {
    pipeline: PipelineName,
    result: Success,
    status: String,
}

/// How a pipeline ended without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Success {
    /// Everything up to now is delivered.
    Done,
    /// The deadline came first.
    More,
    /// Another instance is active.
    Standby,
}

/// Why an invocation failed: the gravest exit code, and each pipeline's error.
#[derive(Debug)]
struct Failed {
    exit: Exit,
    message: String,
}

impl From<Failed> for Diagnostic {
    fn from(Failed { exit, message }: Failed) -> Self {
        Self { error_type: type_of(exit).to_owned(), error_message: message }
    }
}

/// The type of an error, by which an alarm can tell kinds apart.
const fn type_of(exit: Exit) -> &'static str {
    match exit {
        Exit::Done | Exit::TryAgain => "AuditSync.TryAgain",
        Exit::State | Exit::Unproven => "AuditSync.State",
        Exit::Credentials => "AuditSync.Credentials",
        Exit::Bug => "AuditSync.Bug",
        Exit::Usage | Exit::Configuration => "AuditSync.Configuration",
    }
}

/// Runs one sync of every pipeline. It reads the configuration again, since a secret may have been replaced.
async fn invoke(environment: &Environment, wanted: &[Wanted], left: Duration) -> Result<Answer, Failed> {
    let config = Config::read(environment, wanted, Purpose::Lambda)
        .map_err(|error| Failed { exit: Exit::Configuration, message: error.to_string() })?;
    let (reserve, shutdown) = (reserve(left), Shutdown::default());
    let pipelines: Vec<_> = config
        .pipelines
        .into_iter()
        .map(|mut pipeline| {
            bound(&mut pipeline.settings, left, reserve);
            supervise(pipeline)
        })
        .collect();
    let observed: HashMap<_, _> = pipelines
        .iter()
        .map(|Supervised { pipeline, liveness }| (pipeline.name.to_string(), liveness.clone()))
        .collect();
    let ended = tokio::select! {
        ended = supervisor::run(pipelines, &shutdown) => ended,
        never = request_after(left.saturating_sub(reserve), &shutdown) => match never {},
    };
    let mut failures: Vec<(Exit, String)> = Vec::new();
    let mut answer = Answer { more: false, pipelines: Vec::new() };
    for (pipeline, ended) in ended {
        let _span = tracing::info_span!("pipeline", name = %pipeline).entered();
        let Some(liveness) = observed.get(pipeline.as_str()) else { continue };
        match result(&ended, &liveness.readiness()) {
            Ok(result) => {
                answer.more |= result == Success::More;
                answer.pipelines.push(OfOne { pipeline, result, status: liveness.status().borrow().clone() });
            }
            Err(what) => failures.push((exit_of(&ended, false), format!("{pipeline}: {what}"))),
        }
    }
    let Some(exit) = failures.iter().map(|(exit, _)| *exit).max() else { return Ok(answer) };
    let messages: Vec<_> = failures.into_iter().map(|(_, message)| message).collect();
    Err(Failed { exit, message: messages.join("; ") })
}

/// Limits the settings to one sync that ends, or abandons the pages in flight, before the deadline.
fn bound(settings: &mut engine::Settings, left: Duration, reserve: Duration) {
    settings.mode = Mode::Once;
    settings.retry_budget = settings.retry_budget.min(left.saturating_sub(reserve));
    // The rest of the reserve is for the answer.
    settings.shutdown_timeout = settings.shutdown_timeout.min(reserve * 4 / 5);
    // Lambda may kill a function before it has released its lease. That lease must expire within the time of the next invocation.
    let longest = Duration::from_secs((left.saturating_sub(reserve) / 2).as_secs().max(1));
    settings.lease_ttl = settings.lease_ttl.min(longest);
}

async fn request_after(time: Duration, shutdown: &Shutdown) -> Infallible {
    sleep(time).await;
    tracing::info!(
        "the deadline of the invocation is near; auditsync finishes the pages in flight, and the next invocation continues"
    );
    shutdown.request();
    std::future::pending().await
}

/// How a pipeline ended, or why it failed.
fn result(ended: &Ended, readiness: &Readiness) -> Result<Success, String> {
    match ended {
        Ended::Run(Ok(Outcome::Done)) => Ok(Success::Done),
        Ended::Run(Ok(Outcome::Stopped | Outcome::Interrupted { .. })) if readiness.is_standby() => {
            Ok(Success::Standby)
        }
        Ended::Run(Ok(Outcome::Stopped | Outcome::Interrupted { .. })) if readiness.last_success.is_some() => {
            Ok(Success::More)
        }
        Ended::Run(Ok(_)) => {
            let last = readiness
                .last_error
                .as_ref()
                .map_or("nothing failed, and nothing answered in time", |last| &last.error);
            Err(format!("nothing was delivered before the deadline; {last}"))
        }
        Ended::Run(Err(engine::Error::State(state::Error::Busy { .. }))) => Ok(Success::Standby),
        Ended::Run(Err(error)) => Err(Chain(error).to_string()),
        Ended::Panicked => Err("a bug ended it; please report the lines in the log".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_time_is_left_before_the_deadline() {
        let reserve = |seconds| reserve(Duration::from_secs(seconds)).as_secs();
        assert_eq!((reserve(900), reserve(60), reserve(30)), (90, 6, 5));
        assert_eq!((reserve(9), reserve(0)), (3, 0), "of a short time, a third");
    }
}
