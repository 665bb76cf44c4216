//! Faults between the store and the bucket: a call makes one request and has a time limit, and the store believes
//! nothing that the bucket did not answer.

use auditsync::state::StateStore;
use auditsync::state::gcs::Gcs;

use super::{NAME, fake_and_store, settings, unavailable};
use crate::suite::{bytes, held};
use crate::support::{FakeGcs, Fault, GcsOptions};

/// Faults that may pass; the bucket carried out nothing.
fn passing() -> Vec<Fault> {
    let statuses = [408, 409, 429, 500, 502, 503, 504].map(Fault::Status);
    statuses.into_iter().chain([Fault::Reset]).collect()
}

#[tokio::test]
async fn a_read_that_fails_is_tried_once() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    fake.put(NAME, b"{}");
    for fault in passing().into_iter().chain([Fault::TruncatedBody]) {
        let before = fake.hits();
        fake.script(fault.clone());
        unavailable(store.load().await);
        assert_eq!(fake.hits() - before, 1, "{fault:?}");
    }
    assert_eq!(held(&store).await.0, bytes(b"{}"));
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_save_that_fails_is_tried_once() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    let version = store.save(&bytes(b"1"), None).await.unwrap();
    for fault in passing() {
        for expected in [None, Some(&version)] {
            let before = fake.hits();
            fake.script(fault.clone());
            unavailable(store.save(&bytes(b"2"), expected).await);
            assert_eq!(fake.hits() - before, 1, "{fault:?}");
        }
    }
    assert_eq!(held(&store).await, (bytes(b"1"), version.clone()));
    store.save(&bytes(b"2"), Some(&version)).await.unwrap();
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_probe_that_fails_is_tried_once() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    for fault in passing() {
        let before = fake.hits();
        fake.script(Fault::PASS);
        fake.script(fault.clone());
        unavailable(store.probe().await);
        assert_eq!(fake.hits() - before, 2, "a read and a write: {fault:?}");
    }
}

#[tokio::test]
async fn a_save_whose_answer_was_lost_is_seen_by_the_next_read() {
    for fault in [Fault::Unanswered, Fault::TruncatedBody] {
        let (fake, store) = fake_and_store(GcsOptions::default()).await;
        fake.script(fault.clone());
        unavailable(store.save(&bytes(b"ours"), None).await);
        assert_eq!(fake.hits(), 1, "{fault:?}");
        let (document, version) = held(&store).await;
        assert_eq!(document, bytes(b"ours"));
        fake.script(fault);
        unavailable(store.save(&bytes(b"ours again"), Some(&version)).await);
        assert_eq!(held(&store).await.0, bytes(b"ours again"));
    }
}

#[tokio::test]
async fn an_answer_to_a_save_that_is_not_googles_is_no_success() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    fake.script(Fault::NotJson);
    unavailable(store.save(&bytes(b"{}"), None).await);
    assert_eq!(fake.object(NAME), None);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    let elsewhere = FakeGcs::start(GcsOptions::default()).await;
    fake.answer_always(Some(Fault::Redirect(elsewhere.url())));
    for message in [unavailable(store.load().await), unavailable(store.save(&bytes(b"{}"), None).await)] {
        assert!(message.contains("it answered 307"), "{message}");
    }
    assert_eq!(elsewhere.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_does_not_hold_a_call_up_for_ever() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    fake.answer_always(Some(Fault::Hang));
    for message in [
        unavailable(store.load().await),
        unavailable(store.save(&bytes(b"{}"), None).await),
        unavailable(store.probe().await),
    ] {
        assert!(message.contains("no answer within 5 s"), "{message}");
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_store_usable() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    let version = store.save(&bytes(b"1"), None).await.unwrap();
    let given_up = bytes(b"2");
    fake.script(Fault::Hang);
    // A paused clock advances when all tasks wait. So this one never waits.
    let arrived = async {
        while fake.requests() < 2 {
            tokio::task::yield_now().await;
        }
    };
    // The clock stands still meanwhile, so that no standstill of this process makes the call late.
    tokio::time::pause();
    tokio::select! {
        biased;
        () = arrived => {}
        saved = store.save(&given_up, Some(&version)) => panic!("{saved:?}"),
    }
    tokio::time::resume();
    store.save(&bytes(b"3"), Some(&version)).await.unwrap();
    assert_eq!(held(&store).await.0, bytes(b"3"));
}

#[tokio::test]
async fn a_server_that_is_down_is_found_again() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    let version = store.save(&bytes(b"1"), None).await.unwrap();
    fake.go_down().await;
    // The first call may still find its old connection, cut off.
    unavailable(store.save(&bytes(b"2"), Some(&version)).await);
    let message = unavailable(store.save(&bytes(b"2"), Some(&version)).await);
    assert!(message.contains("Connection refused") && message.contains(&store.location()), "{message}");
    fake.come_back().await;
    store.save(&bytes(b"2"), Some(&version)).await.unwrap();

    let never_up = Gcs::new(settings(&fake), &"sectigo:datadog".into());
    fake.go_down().await;
    unavailable(never_up.load().await);
    fake.come_back().await;
    assert_eq!(held(&never_up).await.0, bytes(b"2"));
}

#[tokio::test]
async fn an_overlong_error_is_cut_and_cannot_forge_a_line() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    fake.script(Fault::StatusWithBody(503, format!("a\nINFO forged\u{1b}[2J {}", "x".repeat(10_000))));
    let message = unavailable(store.load().await);
    assert!(!message.contains(['\n', '\u{1b}']) && message.len() < 600, "{message}");
}
