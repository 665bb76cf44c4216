//! Tests a call to the destination that is cut off, as by a lapse of the lease: answered events stay settled.

use std::collections::BTreeSet;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

use auditsync::telemetry::liveness::Heartbeat;
use jiff::Timestamp;
use serde_json::Value;

use crate::intake_content::{datadog, dead_letters, deliver, events, open};
use crate::support::{FakeIntake, Fault, IntakeOptions, Predicate};

/// A fake that refuses one entry in every form, and another one only whole.
fn refusing() -> IntakeOptions {
    let refuses = |entry: &Value| {
        let text = entry.to_string();
        text.contains("OR 1=1") || (entry.get("sectigo").is_some() && text.contains("whole alone"))
    };
    IntakeOptions { poison: Some(Predicate::new(refuses)), ..IntakeOptions::default() }
}

#[tokio::test]
async fn what_was_accepted_while_a_refused_entry_is_looked_for_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead-letters.ndjson");
    let intake = FakeIntake::start(refusing()).await;
    let datadog = datadog(&intake, &path);
    let heart = Heartbeat::default();
    let mut delivery = open(&datadog, events(100, &BTreeSet::from([99]), &BTreeSet::new()));
    // The intake answers the whole, its first half and the third quarter; then nothing comes back.
    for fault in [Fault::PASS, Fault::PASS, Fault::PASS, Fault::PASS, Fault::Hang] {
        intake.script(fault);
    }
    tokio::select! {
        ended = delivery.attempt(Timestamp::now(), &heart) => panic!("{ended:?}"),
        () = intake.wait_for_requests(5) => {}
    }
    assert_eq!(delivery.tally().accepted, 75);
    assert_eq!(delivery.unanswered(), 25, "what the request that was under way carried");
    deliver(delivery.as_mut(), 1).await;
    assert!(intake.ids().values().all(|times| *times == 1), "{:?}", intake.ids());
    assert_eq!((intake.ids().len(), dead_letters(&path).len()), (99, 1));
    assert_eq!((delivery.tally().accepted, delivery.tally().dead_lettered), (99, 1));
}

#[tokio::test]
async fn a_call_cut_off_at_any_moment_repeats_at_most_what_was_under_way_and_no_dead_letter() {
    let mut cut_off = 0;
    for polls in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead-letters.ndjson");
        let intake = FakeIntake::start(refusing()).await;
        let datadog = datadog(&intake, &path);
        let heart = Heartbeat::default();
        let mut delivery = open(&datadog, events(12, &BTreeSet::from([3, 7]), &BTreeSet::from([8])));
        let ended = {
            let mut call = pin!(delivery.attempt(Timestamp::now(), &heart));
            let mut left = polls;
            poll_fn(|context| {
                left -= 1;
                match call.as_mut().poll(context) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    Poll::Pending if left == 0 => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await
        };
        if ended.is_some() {
            break;
        }
        cut_off += 1;
        // The requests under way may still arrive.
        intake.wait_until("all requests to be over", |requests| requests.iter().all(|request| request.over)).await;
        deliver(delivery.as_mut(), 3).await;
        assert_eq!(dead_letters(&path), ["3", "7"], "{polls}");
        let ids = intake.ids();
        let extra: usize = ids.values().map(|times| times - 1).sum();
        assert!(extra <= delivery.unanswered(), "{polls}: {extra} duplicates of {}", delivery.unanswered());
        assert_eq!((delivery.tally().accepted, delivery.tally().dead_lettered), (10, 2), "{polls}");
    }
    // A whole call makes 16 requests, and each has to wait for its answer.
    assert!(cut_off >= 16, "{cut_off}");
}
