//! The fakes themselves: a test that trusts them is worth what they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test, what cannot be is a failure")]

mod destination;
mod gcs;
mod source;
#[path = "../support/mod.rs"]
mod support;
