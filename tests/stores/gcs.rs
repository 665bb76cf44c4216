//! State in a Google Cloud Storage bucket: a strict fake of it.

mod access;
mod faults;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use auditsync::failure::{Chain, Class};
use auditsync::state::gcs::{Gcs, Settings};
use auditsync::state::{Claim, Error, StateStore, Version};

use crate::suite::{Location, Remote, bytes, conflicts, conformance, held, remote_conformance};
use crate::support::{FakeGcs, GcsOptions};

/// The object's name for the source `x` with the prefix that [`settings`] has.
const NAME: &str = "audit/state/auditsync-sectigo-datadog.json";

struct InABucket(FakeGcs);

impl Location for InABucket {
    type Store = Gcs;
    const ROUNDS: usize = 1000;

    async fn fresh() -> Self {
        Self(FakeGcs::start(GcsOptions::default()).await)
    }

    fn open(&self) -> Arc<Gcs> {
        Arc::new(store_at(&self.0))
    }
}

impl Drop for InABucket {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.violations(), [""; 0]);
        }
    }
}

impl Remote for InABucket {
    fn address(&self) -> SocketAddr {
        self.0.url().trim_start_matches("http://").parse().unwrap()
    }

    fn open_at(&self, address: SocketAddr) -> Arc<Gcs> {
        Arc::new(Gcs::new(
            Settings { emulator: Some(format!("http://{address}")), ..settings(&self.0) },
            &"sectigo:datadog".into(),
        ))
    }
}

conformance!(InABucket);
remote_conformance!(InABucket);

fn settings(fake: &FakeGcs) -> Settings {
    Settings { bucket: fake.bucket().to_owned(), prefix: "audit/state".to_owned(), emulator: Some(fake.url()) }
}

fn store_at(fake: &FakeGcs) -> Gcs {
    Gcs::new(settings(fake), &"sectigo:datadog".into())
}

async fn fake_and_store(options: GcsOptions) -> (FakeGcs, Gcs) {
    let fake = FakeGcs::start(options).await;
    let store = store_at(&fake);
    (fake, store)
}

/// The whole message, as an operator sees it.
fn message(error: &Error) -> String {
    Chain(error).to_string()
}

#[tokio::test]
async fn a_conflict_tells_the_stores_answer() {
    let (_fake, store) = fake_and_store(GcsOptions::default()).await;
    store.save(&bytes(b"1"), None).await.unwrap();
    let error = store.save(&bytes(b"2"), None).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    assert!(message(&error).contains("it answered 412"), "{}", message(&error));
}

/// Asserts that the store refused the call with a message that contains all of `named`.
#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>, named: &[&str]) -> String {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
    assert_eq!(error.class(), Class::CredentialsRejected);
    let message = message(&error);
    for word in named {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    message
}

/// Asserts that the call may work later.
#[track_caller]
fn unavailable<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Retryable { after: None });
    message(&error)
}

#[track_caller]
fn unconditional<T: std::fmt::Debug>(outcome: Result<T, Error>, named: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::Unconditional { .. }), "{error:?}");
    assert!(error.to_string().contains(named), "{error}");
}

#[tokio::test]
async fn the_object_is_named_after_the_prefix_and_the_pipeline() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    assert_eq!(store.location(), "gs://audit-bucket/audit/state/auditsync-sectigo-datadog.json");
    store.save(&bytes(b"{}"), None).await.unwrap();
    assert_eq!(fake.object(NAME).unwrap().0, b"{}");

    let bare = Gcs::new(Settings { prefix: String::new(), ..settings(&fake) }, &"c:d".into());
    assert_eq!(bare.location(), "gs://audit-bucket/auditsync-c-d.json");
    bare.save(&bytes(b"[]"), None).await.unwrap();
    assert_eq!(fake.object("auditsync-c-d.json").unwrap().0, b"[]");
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn the_object_is_json_that_no_cache_keeps() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    store.save(&bytes(b"{}"), None).await.unwrap();
    assert_eq!(fake.metadata(NAME), Some(("application/json".to_owned(), "no-store".to_owned())));
}

#[tokio::test]
async fn nothing_is_asked_for_before_the_first_call() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    assert_eq!(store.claim().await.unwrap(), Claim::ByLease);
    assert_eq!((store.location().is_empty(), fake.hits()), (false, 0));
    assert!(store.load().await.unwrap().is_none());
    assert_eq!(fake.hits(), 1, "and then for the object alone");
}

#[tokio::test]
async fn the_version_is_the_generation() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    let saved = store.save(&bytes(b"{}"), None).await.unwrap();
    assert_eq!(saved, Version(fake.object(NAME).unwrap().1.to_string()));
    assert_eq!(held(&store).await.1, saved);
}

#[tokio::test]
async fn a_version_that_is_no_generation_never_comes_to_mean_that_there_is_no_object() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    for version in ["0", "-1", "", "W/\"1\"", "99999999999999999999"] {
        conflicts(&store, store.save(&bytes(b"{}"), Some(&Version(version.to_owned()))).await);
    }
    assert_eq!(fake.object(NAME), None);
}

#[tokio::test]
async fn writes_faster_than_google_takes_them_are_put_off() {
    let once = GcsOptions { write_interval: Some(Duration::from_hours(1)), ..GcsOptions::default() };
    let (fake, store) = fake_and_store(once).await;
    assert_eq!(store.pace(), Duration::from_secs(1));
    let version = store.save(&bytes(b"1"), None).await.unwrap();
    let message = unavailable(store.save(&bytes(b"2"), Some(&version)).await);
    assert!(message.contains("429") && message.contains("rate limit"), "{message}");
    assert_eq!((fake.object(NAME).unwrap().0, fake.requests()), (b"1".to_vec(), 2));
}

#[tokio::test]
async fn a_state_is_read_up_to_its_bound_and_not_past_it() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    fake.put(NAME, &vec![b' '; 1024 * 1024]);
    assert_eq!(held(&store).await.0.as_bytes().len(), 1024 * 1024);
    fake.put(NAME, &vec![b' '; 1024 * 1024 + 1]);
    let error = store.load().await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { location, .. } if *location == store.location()), "{error:?}");
    assert!(message(&error).contains("larger than 1048576 bytes"), "{}", message(&error));
}

/// The program does not use a store that cannot make a save safe.
mod without_conditions {
    use super::*;

    #[tokio::test]
    async fn a_store_that_ignores_them_is_refused_and_holds_what_it_held() {
        let ignorant = GcsOptions { ignore_conditions: true, ..GcsOptions::default() };
        let (fake, store) = fake_and_store(ignorant).await;
        fake.put(NAME, b"precious");
        unconditional(store.probe().await, "it wrote the same bytes again");
        assert_eq!(fake.object(NAME).unwrap().0, b"precious");
    }

    #[tokio::test]
    async fn a_store_that_ignores_them_is_refused_before_there_is_a_state() {
        let ignorant = GcsOptions { ignore_conditions: true, ..GcsOptions::default() };
        let (_fake, store) = fake_and_store(ignorant).await;
        unconditional(store.probe().await, "it wrote an empty object");
    }

    #[tokio::test]
    async fn a_store_that_names_no_generation_is_refused_before_anything_is_written() {
        let nameless = GcsOptions { omit_generation_read: true, ..GcsOptions::default() };
        let (fake, store) = fake_and_store(nameless).await;
        fake.put(NAME, b"precious");
        let before = fake.object(NAME);
        unconditional(store.load().await, "x-goog-generation");
        unconditional(store.probe().await, "x-goog-generation");
        assert_eq!(fake.object(NAME), before);
    }

    #[tokio::test]
    async fn a_store_that_does_not_say_what_it_wrote_is_refused() {
        let nameless = GcsOptions { omit_generation_written: true, ..GcsOptions::default() };
        let (_fake, store) = fake_and_store(nameless).await;
        unconditional(store.save(&bytes(b"{}"), None).await, "did not return its generation");
    }

    #[tokio::test]
    async fn one_that_does_both_wrong_is_refused_by_the_probe_too() {
        let wrong = GcsOptions { ignore_conditions: true, omit_generation_written: true, ..GcsOptions::default() };
        let (_fake, store) = fake_and_store(wrong).await;
        unconditional(store.probe().await, "it wrote an empty object");
    }
}
