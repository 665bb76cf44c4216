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
//! | [`cli`] | the commands, and the exit code that each end has |
//! | [`pipeline`] | from names and variables to what runs; [`pipeline::registry`] lists the components |
//! | [`engine`] | reading, delivering, committing, retrying, shutting down |
//! | [`source`] | where events come from: [`source::sectigo`], [`source::digicert`] |
//! | [`destination`] | where they go: [`destination::datadog`], [`destination::fluentd`], [`destination::stdout`] |
//! | [`state`] | where the cursor is stored: [`state::localfs`], `redis`, `s3`, `gcs`, [`state::memory`]; and the [`state::lease`] |
//! | [`config`] | the mechanism: a variable declared once as a typed constant; every mistake in one message |
//! | [`component`] | what sources, destinations and stores have in common |
//! | [`event`] | one audit event: the raw record and the fields read from it |
//! | [`failure`] | what a failed call means to the engine |
//! | [`dead_letter`] | where records go that a destination does not take |
//! | `aws` | what the parts that use AWS share |
//! | [`http`], [`oauth`] | the one HTTP policy; access tokens |
//! | [`clock`], [`server_time`] | this machine's clocks, and a server's |
//! | [`secret`] | values that are never shown |
//! | [`systemd`] | notifications to the supervisor |
//! | [`telemetry`] | the program's own logs, its [metrics](telemetry::metrics), and its [liveness](telemetry::liveness) |
//!
//! Dependencies point downwards: `cli` → `pipeline` → `engine` → `source`, `destination`, `state` → `event`, `http`, `telemetry` → `failure`.
//!
//! # What holds everywhere
//!
//! A source, a destination or a store never waits and never retries: it says what a failure means ([`failure::Class`]), and the engine
//! decides ([`engine::decision`]). A cursor is opaque to all but its source. A store replaces the state by compare-and-swap alone. What a
//! server sends is logged through [`http::Excerpt`] alone.

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
pub mod oauth;
pub mod pipeline;
pub mod pipeline_name;
pub mod secret;
pub mod server_time;
pub mod source;
pub mod state;
pub mod systemd;
mod task;
pub mod telemetry;
pub mod variable_name;
