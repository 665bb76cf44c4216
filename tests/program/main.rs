//! The real binary between the fakes: what a user would see.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "in a test, what cannot be is a failure"
)]

mod daemon;
#[path = "../support/mod.rs"]
mod support;

mod first_sync;
