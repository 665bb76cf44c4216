//! Types that sources, destinations and state stores share: their labels, what they are built from, and the findings of `check`.

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::dead_letter::DeadLetters;
use crate::failure::Failure;
use crate::http;
use crate::pipeline_name::PipelineName;
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;

pub use claim::{Claim, Exclusive};

mod claim;

/// A system that a pipeline calls, as logs and metric labels name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The system from which events are read.
    Source,
    /// The system to which events are delivered.
    Destination,
    /// The server that issues access tokens for the source.
    TokenEndpoint,
    /// The system that stores the state.
    StateStore,
}

impl Component {
    /// The component's metric label.
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

/// The parts that a pipeline gives to each of its components.
#[derive(Debug, Clone)]
pub struct Context {
    /// The name of the pipeline.
    pub pipeline: PipelineName,
    /// This machine's clocks.
    pub clock: Clock,
    /// The pipeline's own HTTP client, with its own connections.
    pub http: Arc<http::Client>,
    /// The pipeline's counters.
    pub metrics: Metrics,
    /// The pipeline's dead letters.
    pub dead_letters: DeadLetters,
}

impl Context {
    /// Makes the context of `pipeline`, with the system's clocks.
    pub fn new(pipeline: PipelineName, http: http::Settings, dead_letters: DeadLetters) -> Self {
        let metrics = Metrics::of(&pipeline);
        let http = Arc::new(http::Client::new(http, metrics.clone()));
        Self { pipeline, clock: Clock::system(), http, metrics, dead_letters }
    }

    /// Makes the context for a dry run: dead letters are only logged.
    #[must_use]
    pub(crate) fn only_logging(self) -> Self {
        Self { dead_letters: self.dead_letters.only_logged(), ..self }
    }
}

type Build<T, C> = dyn Fn(&C) -> Arc<T> + Send + Sync;

/// A component with valid variables. It can be built from a `C` several times, since a pipeline that failed starts with new parts.
pub struct Configured<T: ?Sized, C = Context> {
    secrets: Vec<Secret>,
    build: Box<Build<T, C>>,
}

impl<T: ?Sized, C> Configured<T, C> {
    /// Makes a configured component, which `build` builds.
    pub fn new(build: impl Fn(&C) -> Arc<T> + Send + Sync + 'static) -> Self {
        Self { secrets: Vec::new(), build: Box::new(build) }
    }

    /// Adds the secrets that the component uses.
    #[must_use]
    pub fn with_secrets(self, secrets: impl IntoIterator<Item = Secret>) -> Self {
        Self { secrets: secrets.into_iter().collect(), ..self }
    }

    /// The secrets that the component uses.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// Builds the component, without calling its system.
    pub fn build(&self, from: &C) -> Arc<T> {
        (self.build)(from)
    }
}

impl<T: ?Sized, C> fmt::Debug for Configured<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

/// The result of `auditsync check` for one part of a component.
#[derive(Debug)]
pub struct Check {
    /// The part, in a word or two, such as `access token`.
    pub part: &'static str,
    /// The finding.
    pub finding: Finding,
}

/// The finding of a check of one part.
#[derive(Debug)]
pub enum Finding {
    /// It works. The text says what was seen.
    Works(String),
    /// It works, but something can break a promise. The text says what, and what to do.
    Risk(String),
    /// It could not be tried. The text says why.
    Unknown(String),
    /// It does not work.
    Failed(Failure),
}

impl Check {
    /// Reports that the `part` works, with what was `seen`.
    pub fn works(part: &'static str, seen: impl Into<String>) -> Self {
        Self { part, finding: Finding::Works(seen.into()) }
    }

    /// Reports that the `part` could not be tried because of `cause`.
    pub fn unknown(part: &'static str, cause: impl Into<String>) -> Self {
        Self { part, finding: Finding::Unknown(cause.into()) }
    }

    /// Reports that the `part` does not work because of `cause`.
    pub fn failed(part: &'static str, cause: impl Into<Failure>) -> Self {
        Self { part, finding: Finding::Failed(cause.into()) }
    }
}
