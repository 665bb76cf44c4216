//! State in a bucket: of the moto server, which has S3's conditional writes, and of a fake for answers that moto cannot
//! produce.

mod conditions;
mod environment;
mod permissions;
mod requests;
mod trouble;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use auditsync::failure::Chain;
use auditsync::state::s3::{S3, Settings};
use auditsync::state::{Claim, Error, StateStore};

use crate::suite::{Location, Remote, conformance, remote_conformance};
use crate::support::{FakeS3, Moto};

static MOTO: LazyLock<Moto> = LazyLock::new(Moto::start);

const KEY: &str = "audit/auditsync-sectigo-datadog.json";

/// Plain settings for a bucket that is addressed by path.
fn settings(bucket: &str) -> Settings {
    Settings { bucket: bucket.to_owned(), prefix: "audit".to_owned(), force_path_style: true, encryption: None }
}

fn on(fake: &FakeS3) -> S3 {
    with(settings(FakeS3::BUCKET), fake)
}

fn with(settings: Settings, fake: &FakeS3) -> S3 {
    S3::with_config(settings, &"sectigo:datadog".into(), fake.anyone())
}

/// An error and its causes, as the program prints them.
fn told(error: &Error) -> String {
    Chain(error).to_string()
}

/// Asserts that the store refused the call with a message that contains the words in `remedy`.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, remedy: &str) -> String {
    match result {
        Err(error @ Error::Refused { .. }) => {
            assert!(told(&error).contains(remedy), "{remedy:?} is not in {:?}", told(&error));
            told(&error)
        }
        other => panic!("not refused, but {other:?}"),
    }
}

/// Asserts that the call may be retried, and that the message contains the words in `why`.
#[track_caller]
fn unavailable<T: std::fmt::Debug>(result: Result<T, Error>, why: &str) {
    match result {
        Err(error @ Error::Unavailable { .. }) => {
            assert!(told(&error).contains(why), "{why:?} is not in {:?}", told(&error));
        }
        other => panic!("not unavailable, but {other:?}"),
    }
}

/// Asserts that the call found a store that ignores conditions: the words in `finding`.
#[track_caller]
fn not_conditional<T: std::fmt::Debug>(result: Result<T, Error>, finding: &str) {
    match result {
        Err(error @ Error::Unconditional { .. }) => {
            let told = told(&error);
            assert!(told.contains(finding), "{finding:?} is not in {told:?}");
        }
        other => panic!("taken for a store with conditional writes: {other:?}"),
    }
}

struct InABucket(String);

impl Location for InABucket {
    type Store = S3;
    /// A request takes moto a few milliseconds.
    const ROUNDS: usize = 125;

    async fn fresh() -> Self {
        Self(MOTO.bucket().await)
    }

    fn open(&self) -> Arc<S3> {
        Arc::new(S3::with_config(settings(&self.0), &"sectigo:datadog".into(), MOTO.anyone()))
    }
}

impl Remote for InABucket {
    fn address(&self) -> SocketAddr {
        MOTO.address()
    }

    fn open_at(&self, address: SocketAddr) -> Arc<S3> {
        Arc::new(S3::with_config(settings(&self.0), &"sectigo:datadog".into(), Moto::anyone_at(address)))
    }
}

conformance!(InABucket);
remote_conformance!(InABucket);

#[tokio::test]
async fn machines_share_a_bucket_so_the_lease_says_who_works() {
    let store = InABucket("any".to_owned()).open();
    assert_eq!(store.claim().await.unwrap(), Claim::ByLease);
}
