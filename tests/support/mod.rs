//! Fakes of both ends of the pipe and servers for the state, for black-box tests, the demo and the benches.
//!
//! [`FakeScm`] is a source: a token endpoint and the audit API in one server. [`FakeIntake`] is a destination: the logs
//! intake and the key check. [`FakeCertCentral`] is the report API of another source. [`FakeFluentd`] is the HTTP input
//! of Fluentd or Fluent Bit. All are real HTTP servers on `127.0.0.1` with a free port, and end when they are dropped.
//! They check the client against the documented protocol, and keep each breach in `violations()`. [`Records`] makes the
//! records that flow between them.
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
//! Trouble comes in three ways: a [`Fault`] scripted for the next request, faults at random from a seed, or one fault
//! for every request until `None` ends it. Scripted ones go first. Besides that, `hold` keeps answers back until
//! `release`, and `go_down` refuses connections until `come_back`.
//!
//! The state can be kept in a real [`RedisServer`], in [`Moto`], which runs the real `moto_server`, in [`FakeS3`] and
//! in [`FakeGcs`]. A [`Proxy`] can stand before any of them.
//!
//! The waiting methods react to events. They panic after five minutes, so a test that hangs names the condition it was
//! waiting for.

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
mod fake_sqs;
mod fault;
#[cfg(feature = "tls")]
mod fluentd;
mod gate;
mod gcs;
mod intake;
mod lambda;
#[cfg(feature = "s3")]
mod moto;
mod port;
mod proxy;
mod records;
mod redis;
mod reply;
#[cfg(feature = "s3")]
mod s3;
mod scm;
mod server;
#[cfg(feature = "s3")]
mod sqs;
#[cfg(all(feature = "teleport", feature = "s3"))]
mod teleport;
#[cfg(feature = "tls")]
mod tls_front;
mod trail;
mod undated;
mod watched;
mod within;

#[cfg(feature = "s3")]
pub use bucket::{Bucket, Stored};
pub use certcentral::{
    Called, CertCentralOptions, FakeCertCentral, FakeRun, Form, Outcome, REPORT, array, report_row, zipped,
};
pub use fake_sqs::{Done, FakeQueue};
pub use fault::Fault;
#[cfg(feature = "tls")]
pub use fluentd::{Authority, FakeFluentd, FluentdOptions, FluentdRequest, Kind as FluentdKind, Pair};
pub use gate::{Gate, Held, Passed};
pub use gcs::{FakeGcs, GcsOptions, Permissions as GcsPermissions};
pub use intake::{FakeIntake, IntakeOptions, IntakeRequest, Predicate};
pub use lambda::{FakeLambda, LambdaAnswer};
#[cfg(feature = "s3")]
pub use moto::{Keys, Moto};
pub use port::Port;
pub use proxy::{Proxy, Way};
pub use records::{Record, Records};
pub use redis::RedisServer;
#[cfg(feature = "s3")]
pub use s3::{Conditions, FakeS3, Permissions as S3Permissions, S3Answer, S3Request};
pub use scm::{AdvertiseAuth, ApiRequest, FakeScm, FinalPage, Order, ScmOptions};
#[cfg(feature = "s3")]
pub use sqs::{Queue, s3_event};
#[cfg(all(feature = "teleport", feature = "s3"))]
pub use teleport::{
    AuditEvent, ConnectProxy, FakeAuth, FakeTeleportProxy, PageKeys, Recording, SearchRequest, TeleportOptions, Trouble,
};
#[cfg(feature = "tls")]
pub use tls_front::TlsFront;
pub use trail::{
    Asked, FakeTrail, REGION, TrailFault, TrailObject, TrailObjects, TrailRequest, log_file, log_key, minutes_ago,
    trail_record,
};
pub use within::{PATIENCE, until, within};
