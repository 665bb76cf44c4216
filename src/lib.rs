//! **auditsync** copies audit events from a source to a destination and never loses its place.
//!
//! ```text
//! source ──page──▶ sync engine ──entries──▶ destination
//!                     │  ▲
//!               save  ▼  │ load        the cursor moves only after the destination has accepted the page
//!                  state store
//! ```
//!
//! # A tour
//!
//! | module | job |
//! |---|---|
//! | [`cli`] | subcommands, and the exit code that each end has |
//! | [`pipeline`] | from names and variables to what runs; [`pipeline::registry`] lists the components |
//! | [`config`] | the mechanism: a variable declared once as a typed constant; every mistake in one message |
//! | [`sync`] | the engine: page loop, commit, waiting, stopping |
//! | [`source`] | where events come from: [`source::sectigo`], with [`source::oauth`] for its access tokens |
//! | [`destination`] | where they go: [`destination::datadog`] |
//! | [`state`] | where the place is kept: [`state::localfs`], `redis`, `s3`, `gcs`, [`state::memory`]; whose it is: [`state::lease`] |
//! | [`event`] | one audit event: the raw record and the few fields read from it |
//! | [`failure`] | what a failed call means to the engine |
//! | [`http`] | the one HTTP policy |
//! | [`secret`] | values that are never shown |
//! | [`server_time`] | the time by a server's clock, and where it differs from this machine's |
//! | [`systemd`] | what a supervisor is told: ready, how it stands, alive, stopping |
//! | [`telemetry`] | the program's own logs, its [metrics](telemetry::metrics), its [signs of life](telemetry::pulse), and [who answers](telemetry::listener) for both |
//!
//! Dependencies point downwards: `cli` → `pipeline` → `sync` → `source`, `destination`, `state` → `event`, `http`, `secret`,
//! `telemetry` → `failure`.
//!
//! # What holds everywhere
//!
//! A source, a destination or a store never waits and never tries again: it says what a failure means
//! ([`failure::Class`]), and the engine decides ([`sync::verdict`]). A cursor is opaque to all but its source. The document of a
//! store is replaced by compare-and-swap alone. Nothing that came from the other side is logged but through
//! [`http::Excerpt`].

pub mod cli;
pub mod config;
pub mod destination;
pub mod event;
pub mod failure;
pub mod http;
pub mod pipeline;
pub mod secret;
pub mod server_time;
pub mod source;
pub mod state;
pub mod sync;
pub mod systemd;
pub mod telemetry;
pub mod variable_name;
