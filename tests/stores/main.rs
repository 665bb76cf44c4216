//! The state stores against real servers, and for Google Cloud Storage against a strict fake.
#![cfg(all(feature = "redis", feature = "s3", feature = "gcs"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, what cannot be is a failure")]

#[path = "../support/mod.rs"]
mod support;

mod gcs;
mod localfs;
mod log;
mod memory;
mod redis;
mod s3;
mod suite;
