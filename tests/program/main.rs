//! Tests the real binary between the fakes: what a user would see.
#![cfg(all(feature = "redis", feature = "s3", feature = "gcs", feature = "teleport", feature = "receiver"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "in a test, what cannot be is a failure"
)]

mod archive;
mod archive_crashes;
mod archive_instances;
mod archive_permissions;
mod backfill;
mod backfill_sources;
mod clocks;
mod cloudtrail;
mod cloudtrail_digests;
mod cloudtrail_flight;
mod cloudtrail_moto;
mod cloudtrail_objects;
mod cloudtrail_queue;
mod cloudtrail_sweep;
mod cloudtrail_trouble;
mod command_line;
mod component_tls;
mod contradiction;
mod daemon;
mod digicert;
mod digicert_archive;
mod digicert_odd;
mod digicert_trouble;
mod dry_run;
mod first_sync;
mod fluentd;
mod fluentd_refusals;
mod fluentd_tls;
mod health;
mod instances;
mod intake_content;
mod intake_cut_off;
mod intake_entries;
mod intake_faults;
mod intake_refusals;
mod killing;
#[cfg(feature = "lambda")]
mod lambda;
mod lease;
mod memory;
mod metrics;
mod pipeline;
mod pipelines;
mod probe;
mod receiver;
mod receiver_clients;
mod receiver_stop;
mod receiver_tls;
mod receiver_trouble;
mod rotation;
mod screen;
mod secrets;
mod shared_state;
mod source_credentials;
mod source_faults;
mod source_pages;
mod source_ranges;
mod stage;
mod state_document;
mod stopping;
mod supervised;
#[path = "../support/mod.rs"]
mod support;
mod teleport;
mod teleport_crashes;
mod teleport_identity;
mod teleport_import;
mod teleport_pairs;
mod teleport_sessions;
mod teleport_trouble;
mod teleport_windows;
mod terminal;
mod upgrade;
mod upgrade_sources;
mod verify;
