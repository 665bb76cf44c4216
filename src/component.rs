//! What sources, destinations and state stores have in common: how they are named, what they are built from, and what `check` finds.

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::dead_letter::DeadLetters;
use crate::failure::Failure;
use crate::http;
use crate::pipeline_name::PipelineName;
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;

/// A system that a pipeline calls, as logs and metric labels name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The system that events are read from.
    Source,
    /// The system that events are delivered to.
    Destination,
    /// The server that issues access tokens for the source.
    TokenEndpoint,
    /// The system that stores the state.
    StateStore,
}

impl Component {
    /// Its metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::TokenEndpoint => "token_endpoint",
            Self::StateStore => "state_store",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::TokenEndpoint => "token endpoint",
            Self::StateStore => "state store",
        })
    }
}

/// What a pipeline gives to each of its components.
#[derive(Debug, Clone)]
pub struct Context {
    /// The pipeline that the component belongs to.
    pub pipeline: PipelineName,
    /// This machine's clocks.
    pub clock: Clock,
    /// The pipeline's own HTTP client, with its own connections.
    pub http: Arc<http::Client>,
    /// The pipeline's counters.
    pub metrics: Metrics,
    /// Where the pipeline keeps what nobody takes.
    pub dead_letters: DeadLetters,
}

impl Context {
    /// What the components of `pipeline` are built from, with the system's clocks.
    pub fn new(pipeline: PipelineName, http: http::Settings, dead_letters: DeadLetters) -> Self {
        let metrics = Metrics::of(&pipeline);
        let http = Arc::new(http::Client::new(http, metrics.clone()));
        Self { pipeline, clock: Clock::system(), http, metrics, dead_letters }
    }
}

type Build<T, C> = dyn Fn(&C) -> Arc<T> + Send + Sync;

/// A component of which every variable was read and is valid. It can be built again and again from a `C`: a pipeline that failed starts
/// with new parts.
pub struct Configured<T: ?Sized, C = Context> {
    secrets: Vec<Secret>,
    build: Box<Build<T, C>>,
}

impl<T: ?Sized, C> Configured<T, C> {
    /// A component that `build` makes.
    pub fn new(build: impl Fn(&C) -> Arc<T> + Send + Sync + 'static) -> Self {
        Self { secrets: Vec::new(), build: Box::new(build) }
    }

    /// The same, with the secrets that it was given.
    #[must_use]
    pub fn with_secrets(self, secrets: impl IntoIterator<Item = Secret>) -> Self {
        Self { secrets: secrets.into_iter().collect(), ..self }
    }

    /// The secrets that it was given.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// Builds it. Nothing is called yet.
    pub fn build(&self, from: &C) -> Arc<T> {
        (self.build)(from)
    }
}

impl<T: ?Sized, C> fmt::Debug for Configured<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// What `auditsync check` found out about one part of a component.
#[derive(Debug)]
pub struct Check {
    /// The part, in a word or two, such as `access token`.
    pub part: &'static str,
    /// What was found.
    pub finding: Finding,
}

/// What a check of one part found.
#[derive(Debug)]
pub enum Finding {
    /// It works: what was seen.
    Works(String),
    /// It works, and something can break a promise: what, and what to do.
    Risk(String),
    /// It could not be tried: why.
    Unknown(String),
    /// It does not work.
    Failed(Failure),
}

impl Check {
    /// The `part` works: `seen`.
    pub fn works(part: &'static str, seen: impl Into<String>) -> Self {
        Self { part, finding: Finding::Works(seen.into()) }
    }

    /// The `part` could not be tried, because of `cause`.
    pub fn unknown(part: &'static str, cause: impl Into<String>) -> Self {
        Self { part, finding: Finding::Unknown(cause.into()) }
    }

    /// The `part` does not work.
    pub fn failed(part: &'static str, cause: impl Into<Failure>) -> Self {
        Self { part, finding: Finding::Failed(cause.into()) }
    }
}
