//! A fake certificate manager and a fake intake for the real binary: `cargo run --release --example fakes -- 100000`.
//!
//! The arguments are the number of records, and optionally the records on a page and the milliseconds that every answer takes. It prints
//! the variables to run `auditsync` with. Then it prints a line for each arrival, until it is interrupted.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for people, with nobody to hand an error to")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use support::{FakeIntake, FakeScm, IntakeOptions, Records, ScmOptions};

#[tokio::main]
async fn main() {
    let number = |nth: usize, default: usize| std::env::args().nth(nth).map_or(default, |text| text.parse().unwrap());
    let (count, page_size, latency) = (number(1, 10_000), number(2, 1000), number(3, 0));
    let latency = Duration::from_millis(latency as u64);
    let options = ScmOptions { page_size, latency, client_secret: "=m0sfj!RQZ".into(), ..ScmOptions::default() };
    let (client, key) = (options.clone(), IntakeOptions::default().api_key);
    let scm = FakeScm::start(options).await;
    let intake = FakeIntake::start(IntakeOptions { keep_bodies: false, latency, ..IntakeOptions::default() }).await;
    let now = Timestamp::now();
    scm.push(Records::seeded(1).between(now - Duration::from_secs(6 * 3600), now - Duration::from_secs(60), count));
    println!("export SECTIGO_AUDIT_API_URL={}", scm.url());
    println!("export SECTIGO_AUDIT_API_CLIENT_ID={}", client.client_id);
    println!("export SECTIGO_AUDIT_API_CLIENT_SECRET='{}'", client.client_secret);
    println!("export SECTIGO_AUDIT_SYNC_LOOKBACK=7h");
    println!("export DD_LOGS_CONFIG_LOGS_DD_URL={}", intake.url());
    println!("export DD_API_KEY={key}");
    // A state on the disk would let the first sync with a real source begin where this one ended.
    println!("export AUDITSYNC_STORAGE_BACKEND=memory");

    let mut told = 0;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        if intake.count() > told {
            told = intake.count();
            println!("# {told} entries, {} distinct", intake.ids().len());
        }
    }
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let first = scm.requests().first().map(|request| since_epoch(request.time));
    let last = intake.requests().last().map(|request| since_epoch(request.time));
    println!("# first request at {first:.3?}, last delivery at {last:.3?} (seconds since 1970)");
    println!("# breaches of the documented limits: {:?} {:?}", scm.violations(), intake.violations());
}
