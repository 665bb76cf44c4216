//! Fakes of both ends of the pipe and servers for the state, for black-box tests, the demo and the benches.
//!
//! [`FakeScm`] is the source: a token endpoint and the audit API in one server. [`FakeIntake`] is the
//! destination: the logs intake and the key check. [`FakeCertCentral`] is the report API of another source. [`FakeFluentd`] is the HTTP input of Fluentd or Fluent Bit. Both are real HTTP servers on `127.0.0.1` with a free
//! port, end when they are dropped, and hold the client to the documented protocol: whatever breaks it
//! is kept in `violations()`. [`Records`] makes what flows between them.
//!
//! ```ignore
//! let scm = FakeScm::start(ScmOptions { page_size: 10, ..Default::default() }).await;
//! let intake = FakeIntake::start(IntakeOptions::default()).await;
//! let hour_ago = Timestamp::now() - SignedDuration::from_mins(60);
//! scm.push(Records::seeded(1).between(hour_ago, Timestamp::now(), 25));
//! intake.script(Fault::StatusWithRetryAfter(429, "1".into()));
//!
//! // … run the program against scm.url() and intake.url() …
//!
//! intake.wait_for_entries(25).await;
//! assert_eq!(scm.violations(), [""; 0]);
//! assert_eq!(intake.violations(), [""; 0]);
//! ```
//!
//! Trouble comes in three ways: a [`Fault`] scripted for the next request, faults at random from a seed,
//! or one fault for every request until it is taken back. Scripted ones go first. Apart from that,
//! `hold` keeps answers back until `release`, and `go_down` refuses connections until `come_back`.
//!
//! The state can be kept in a real [`RedisServer`], in [`Moto`], which runs the real `moto_server`, in [`FakeS3`] and in
//! [`FakeGcs`]; a [`Proxy`] stands in the way to any of them.
//!
//! The waiting methods are driven by events. They panic after a minute, so that a test that hangs says
//! what it was waiting for.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "every test binary compiles these modules for itself and uses only a part of them"
)]
#![allow(clippy::expect_used, clippy::panic, reason = "a fake that cannot do its work must fail the test")]

#[cfg(feature = "s3")]
mod bucket;
mod certcentral;
mod encoding;
mod fault;
#[cfg(feature = "tls")]
mod fluentd;
mod gate;
mod gcs;
mod intake;
mod lambda;
#[cfg(feature = "s3")]
mod moto;
mod proxy;
mod records;
mod redis;
mod reply;
#[cfg(feature = "s3")]
mod s3;
mod scm;
mod server;
mod undated;
mod watched;

#[cfg(feature = "s3")]
pub use bucket::{Bucket, Stored};
pub use certcentral::{
    Called, CertCentralOptions, FakeCertCentral, FakeRun, Form, Outcome, REPORT, array, report_row, zipped,
};
pub use fault::Fault;
#[cfg(feature = "tls")]
pub use fluentd::{Authority, FakeFluentd, FluentdOptions, FluentdRequest, Kind as FluentdKind, Pair};
pub use gate::{Gate, Held, Passed};
pub use gcs::{FakeGcs, GcsOptions, Permissions as GcsPermissions};
pub use intake::{FakeIntake, IntakeOptions, IntakeRequest, Predicate};
pub use lambda::{FakeLambda, LambdaAnswer};
#[cfg(feature = "s3")]
pub use moto::{Keys, Moto};
pub use proxy::{Proxy, Way};
pub use records::{Record, Records};
pub use redis::RedisServer;
#[cfg(feature = "s3")]
pub use s3::{Conditions, FakeS3, Permissions as S3Permissions, S3Answer, S3Request};
pub use scm::{AdvertiseAuth, ApiRequest, FakeScm, FinalPage, Order, ScmOptions};
