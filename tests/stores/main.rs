//! The state stores against what they keep the document in: real servers, and for Google Cloud Storage a strict fake.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, what cannot be is a failure")]

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "gcs")]
mod gcs;
mod localfs;
#[cfg(feature = "gcs")]
mod log;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "s3")]
mod s3;
mod suite;
