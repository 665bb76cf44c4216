//! Tests the fakes themselves, because a test is only as good as the fakes that it trusts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test, what cannot be is a failure")]

mod destination;
mod gcs;
mod source;
#[path = "../support/mod.rs"]
mod support;
