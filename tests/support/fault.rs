//! Faults between the program and a server.

use std::collections::VecDeque;
use std::future;
use std::time::Duration;

use axum::http::header;
use tokio::time::sleep;

use super::reply::{Answer, Reply};

const LOGIN_PAGE: &str = "<!doctype html><title>Sign in to the guest network</title>";

/// The fate of one request, instead of the usual answer or in addition to it.
///
/// Only with `Slow`, `TruncatedBody` and `Unanswered` does the server carry out the request. With all others it behaves
/// as if the request had never arrived. But it still logs the request and still checks it against the protocol.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with an error body.
    Status(u16),
    /// The same, with this `Retry-After`.
    StatusWithRetryAfter(u16, String),
    /// This status with exactly this body, as JSON.
    StatusWithBody(u16, String),
    /// This status with exactly this body and this content type, or none.
    Typed(u16, Option<&'static str>, &'static str),
    /// 307 to this location: a redirect that repeats the method and the body.
    Redirect(String),
    /// The connection closes without an answer.
    Reset,
    /// The usual answer, but its body breaks off halfway.
    TruncatedBody,
    /// 200 with an HTML page, as captive portals and proxies send it.
    NotJson,
    /// 200 with exactly this body, as JSON.
    Body(String),
    /// 200 with a valid JSON array of this many bytes, generated while it is sent. If the client accepts gzip it is
    /// compressed: a gigabyte then travels as one megabyte.
    Huge(usize),
    /// No answer until the server ends.
    Hang,
    /// The usual answer, this much later.
    Slow(Duration),
    /// The server carries out the request as usual (the intake keeps the entries), but the connection closes without an
    /// answer.
    Unanswered,
    /// This status with an error text that repeats the secrets of the request, for tests that no secret leaks.
    EchoAuthorization(u16),
}

impl Fault {
    /// No fault: in a script, lets one request through to reach the one after it.
    pub const PASS: Self = Self::Slow(Duration::ZERO);
}

/// The coming faults of one endpoint.
#[derive(Default)]
pub(super) struct FaultPlan {
    scripted: VecDeque<Fault>,
    always: Option<Fault>,
    random: Option<RandomFaults>,
}

struct RandomFaults {
    rng: fastrand::Rng,
    probability: f64,
    faults: Vec<Fault>,
}

impl FaultPlan {
    pub(super) fn script(&mut self, fault: Fault) {
        self.scripted.push_back(fault);
    }

    pub(super) fn always(&mut self, fault: Option<Fault>) {
        self.always = fault;
    }

    pub(super) fn randomly(&mut self, seed: u64, probability: f64, faults: Vec<Fault>) {
        self.random = Some(RandomFaults { rng: fastrand::Rng::with_seed(seed), probability, faults });
    }

    /// Returns the fault of the next request.
    pub(super) fn next(&mut self) -> Option<Fault> {
        if let Some(fault) = self.scripted.pop_front() {
            return Some(fault);
        }
        if self.always.is_some() {
            return self.always.clone();
        }
        let RandomFaults { rng, probability, faults } = self.random.as_mut()?;
        if rng.f64() < *probability { rng.choice(faults.iter()).cloned() } else { None }
    }
}

/// The facts of a request that its fault needs.
pub(super) struct Requested {
    pub(super) accepts_gzip: bool,
    /// The secrets that `EchoAuthorization` repeats.
    pub(super) secrets: Vec<String>,
}

/// Answers one request with its fault, or else with the answer of `process`.
pub(super) async fn answer(fault: Option<Fault>, requested: Requested, process: impl FnOnce() -> Reply) -> Answer {
    let Some(fault) = fault else {
        return Answer::Whole(process());
    };
    let reply = match fault {
        Fault::Slow(pause) => {
            pause_for(pause).await;
            process()
        }
        Fault::TruncatedBody => return Answer::Truncated(process()),
        Fault::Unanswered => {
            process();
            return Answer::None;
        }
        Fault::Reset => return Answer::None,
        Fault::Hang => future::pending().await,
        Fault::Huge(bytes) => {
            return Answer::Huge { bytes, gzip: requested.accepts_gzip };
        }
        Fault::Status(status) => Reply::error(status, "a fault of the test"),
        Fault::StatusWithRetryAfter(status, wait) => {
            Reply::error(status, "a fault of the test").header(header::RETRY_AFTER, wait)
        }
        Fault::StatusWithBody(status, body) => Reply::json(status, body),
        Fault::Typed(status, kind, body) => Reply::of(status, kind, body),
        Fault::Redirect(location) => Reply::json(307, "").header(header::LOCATION, location),
        Fault::NotJson => Reply::html(200, LOGIN_PAGE),
        Fault::Body(body) => Reply::json(200, body),
        Fault::EchoAuthorization(status) => Reply::error(status, &format!("refused: {}", requested.secrets.join(" "))),
    };
    Answer::Whole(reply)
}

/// Waits for this long. With zero it does not wait at all, because the timer would round that up to a millisecond.
pub(super) async fn pause_for(length: Duration) {
    if !length.is_zero() {
        sleep(length).await;
    }
}
