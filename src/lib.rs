//! **auditsync** copies audit events from sources to destinations and never loses its place.
//!
//! ```text
//! source ──page──▶ engine ──events──▶ destination
//!                   │  ▲
//!             save  ▼  │ load        the cursor moves only after the destination has accepted the page
//!                state store
//! ```
//!
//! A (source, destination) pair is a *pipeline*. A process runs one or several, each with its own cursor, lease, retries, health and metrics.
//!
//! # A tour
//!
//! | module | job |
//! |---|---|
//! | [`cli`] | the commands and their exit codes |
//! | [`pipeline`] | builds pipelines from names and variables, and runs them; [`pipeline::registry`] lists the components |
//! | [`engine`] | reading, delivering, committing, retrying, shutting down |
//! | [`source`] | where events come from: [`source::sectigo`], [`source::digicert`], `cloudtrail`, `teleport`, `receiver` |
//! | [`destination`] | where they go: [`destination::datadog`], [`destination::fluentd`], [`destination::stdout`] |
//! | [`state`] | where the cursor is stored: [`state::localfs`], `redis`, `s3`, `gcs`, [`state::memory`]; and the [`state::lease`] |
//! | [`config`] | how variables are declared (once, as typed constants) and read; every mistake in one message |
//! | [`component`] | what sources, destinations and stores have in common |
//! | [`event`] | one audit event: the raw record and the fields read from it |
//! | [`fingerprint`], `members` | a hash that tells one record from another; where the parts of a JSON value are |
//! | [`failure`] | what a failed call means to the engine |
//! | [`screen`] | which events are delivered, and which of their fields are redacted |
//! | [`dead_letter`] | a file for the records that a destination refuses |
//! | `aws` | code that the parts that use AWS share |
//! | [`http`], [`oauth`] | the HTTP policy of every client; access tokens |
//! | [`clock`], [`server_time`] | this machine's clocks, and a server's |
//! | [`secret`] | values that are never shown |
//! | `notice` | messages to people, through a webhook |
//! | [`systemd`] | notifications to the supervisor |
//! | [`telemetry`] | the program's own logs, its [metrics](telemetry::metrics), and its [liveness](telemetry::liveness) |
//!
//! Dependencies point downwards: `cli` → `pipeline` → `engine` → `source`, `destination`, `state` → `event`, `http`, `telemetry` → `failure`.
//!
//! # What holds everywhere
//!
//! - A source, a destination or a store never waits and never retries. It classifies its failures ([`failure::Class`]), and the engine
//!   decides what to do ([`engine::decision`]).
//! - Only its source can read a cursor.
//! - A store replaces the state only by compare-and-swap.
//! - Text from a server reaches the log only through [`http::Excerpt`].

#[cfg(feature = "s3")]
mod aws;
pub mod cli;
pub mod clock;
pub mod component;
pub mod config;
pub mod dead_letter;
pub mod destination;
pub mod engine;
pub mod event;
pub mod failure;
pub mod fingerprint;
pub mod http;
mod members;
mod notice;
pub mod oauth;
pub mod pipeline;
pub mod pipeline_name;
pub mod screen;
pub mod secret;
pub mod server_time;
pub mod source;
pub mod state;
pub mod systemd;
mod task;
pub mod telemetry;
pub mod variable_name;
