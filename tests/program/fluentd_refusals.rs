//! Tests refusals by Fluentd and Fluent Bit: halves, dead letters, and receivers that refuse everything.

use serde_json::Value;

use crate::fluentd::Stand;
use crate::stage::ago;
use crate::support::{Fault, FluentdKind, FluentdOptions, Predicate, Record, Records};

fn refusing_poison() -> FluentdOptions {
    FluentdOptions { refuses: Some(Predicate::new(|record| record["action"] == "poison")), ..FluentdOptions::default() }
}

#[tokio::test]
async fn a_400_for_an_array_isolates_the_record_at_fault() {
    for (n, indices) in [(100, &[40][..]), (100, &[0, 99]), (100, &[98, 99]), (250, &[3, 4, 5, 200]), (1, &[0])] {
        for records in ["500", "1"] {
            let stand = Stand::of(refusing_poison()).await.with("FLUENTD_BATCH_RECORDS", records);
            let ids = stand.push_poisoned(n, indices);
            stand.run_to(0).await;
            stand.assert_all_once_but(indices);
            let expected: Vec<_> = indices.iter().map(|index| Value::from(ids[*index].as_str())).collect();
            let kept: Vec<_> = stand.dead_letters().into_iter().map(|letter| letter["record"]["id"].clone()).collect();
            assert_eq!(kept, expected, "{n} {indices:?}");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_answers_400_to_everything_leaves_the_cursor_where_it_is() {
    for (n, records) in [(120, "500"), (120, "1"), (1, "500")] {
        let stand = Stand::usual().await.with("FLUENTD_BATCH_RECORDS", records);
        stand.push(n);
        stand.fluentd.answer_always(Some(Fault::Status(400)));
        let mut cursors = Vec::new();
        for _ in 0..2 {
            let ended = stand.run_without_patience_to(75).await;
            assert!(ended.stderr.contains("refuses every record"), "{}", ended.stderr);
            cursors.push(stand.cursor().unwrap()["since"].clone());
        }
        assert_eq!(cursors[0], cursors[1]);
        assert_eq!((stand.dead_letters().len(), stand.fluentd.events().len()), (0, 0));
        stand.fluentd.answer_always(None);
        stand.run_to(0).await;
        stand.assert_all_once();
    }
}

#[tokio::test]
async fn a_receiver_that_refuses_every_record_and_takes_only_our_own_events_empties_no_log() {
    let refuses = Predicate::new(|record| record.get("auditsync").is_none());
    for n in [2, 120] {
        let stand = Stand::of(FluentdOptions { refuses: Some(refuses.clone()), ..FluentdOptions::default() }).await;
        stand.push(n);
        stand.run_without_patience_to(75).await;
        stand.run_without_patience_to(75).await;
        assert!(stand.dead_letters().is_empty());
        assert_eq!(stand.fluentd.notices().len(), 2, "the stand-ins were taken");
    }
}

#[tokio::test]
async fn a_text_under_time_is_refused_by_the_default_parser_and_the_message_says_so() {
    let at = ago(60);
    let records =
        || (0..3).map(|n| Record::raw(at, format!(r#"{{"id":"{n}","created":"{at}","time":"{at}"}}"#))).collect();
    let stand = Stand::usual().await;
    stand.push_all(records());
    let ended = stand.run_without_patience_to(75).await;
    assert!(ended.stderr.contains("add <parse> with @type json"), "{}", ended.stderr);
    assert!(stand.dead_letters().is_empty());

    let stand = Stand::of(FluentdOptions { has_default_parser: false, ..FluentdOptions::default() }).await;
    stand.push_all(records());
    stand.run_to(0).await;
    stand.assert_all_once();
}

#[tokio::test]
async fn a_receiver_with_the_printed_parser_dead_letters_the_record_at_fault_and_takes_the_others() {
    let options = FluentdOptions { has_default_parser: false, time_key: Some("evt_time"), ..refusing_poison() };
    for time_key in ["evt_time", "created"] {
        let stand = Stand::of(FluentdOptions { time_key: Some(time_key), ..options.clone() }).await;
        stand.push_poisoned(20, &[19]);
        stand.run_to(0).await;
        stand.assert_all_once_but(&[19]);
        assert_eq!(stand.dead_letters().len(), 1, "{time_key}");
    }
    // A record has a time of its own that the parser does not take.
    let stand = Stand::of(options).await;
    let mut records = Records::seeded(1).between(ago(1500), ago(2), 20);
    let at = records[19].at;
    records[19] = Record::raw(at, format!(r#"{{"id":"17","created":"{at}","evt_time":17}}"#));
    stand.push_all(records);
    stand.run_to(0).await;
    stand.assert_all_once_but(&[19]);
    assert_eq!(stand.dead_letters()[0]["record"]["id"], "17");
}

#[tokio::test]
async fn gzip_that_the_receiver_does_not_read_is_named() {
    let stand =
        Stand::of(FluentdOptions { kind: FluentdKind::FluentBit, reads_gzip: false, ..FluentdOptions::default() });
    let stand = stand.await.with("FLUENTD_COMPRESSION", "gzip");
    stand.push(5);
    let ended = stand.run_without_patience_to(75).await;
    assert!(ended.stderr.contains("FLUENTD_COMPRESSION=none"), "{}", ended.stderr);
    assert!(stand.dead_letters().is_empty());
}

#[tokio::test]
async fn an_array_over_the_receivers_limit_is_halved_and_the_next_ones_are_smaller() {
    let stand = Stand::of(FluentdOptions { max_body_bytes: 20_000, ..FluentdOptions::default() }).await;
    stand.push(300);
    stand.run_to(0).await;
    stand.assert_all_once();
    let statuses: Vec<_> = stand.fluentd.requests().into_iter().map(|request| request.status.unwrap()).collect();
    let refused = statuses.iter().filter(|status| **status == 413).count();
    assert!((1..4).contains(&refused), "{statuses:?}");
}

#[tokio::test]
async fn a_receiver_that_closes_the_connection_on_a_large_array_gets_smaller_ones() {
    let options = FluentdOptions {
        kind: FluentdKind::FluentBit,
        max_body_bytes: 4_000_000,
        closes_when_too_large: true,
        ..FluentdOptions::default()
    };
    let stand = Stand::of(options).await.with("FLUENTD_BATCH_BYTES", "64MiB");
    stand.push_all(Records::seeded(1).size(200_000).between(ago(1500), ago(2), 60));
    stand.run_to(0).await;
    stand.assert_all_once();
    assert!(stand.fluentd.requests()[0].bytes == 0 && stand.fluentd.requests().len() < 10);
}

#[tokio::test]
async fn records_at_fault_in_a_row_are_dead_letters_and_a_long_row_is_the_receivers_doing() {
    for (n, row, code) in [(60, 20..30, 0), (30, 20..30, 0), (60, 20..40, 75)] {
        let stand = Stand::of(refusing_poison()).await;
        let indices: Vec<_> = row.collect();
        stand.push_poisoned(n, &indices);
        stand.run_without_patience_to(code).await;
        let kept = if code == 0 { indices.len() } else { 0 };
        assert_eq!(stand.dead_letters().len(), kept, "{n} {indices:?}");
    }
}

#[tokio::test]
async fn a_record_over_the_receivers_limit_is_a_dead_letter_among_others() {
    let stand = Stand::of(FluentdOptions { max_body_bytes: 20_000, ..FluentdOptions::default() }).await;
    let mut records = Records::seeded(1).between(ago(1500), ago(2), 50);
    let at = records[20].at;
    records[20] = Record::raw(at, format!(r#"{{"id":"large","created":"{at}","details":"{}"}}"#, "x".repeat(30_000)));
    stand.push_all(records);
    stand.run_to(0).await;
    stand.assert_all_once_but(&[20]);
    assert_eq!(stand.dead_letters()[0]["record"]["id"], "large");
}

/// A record with a member of this many bytes.
fn large(id: &str, at: jiff::Timestamp, bytes: usize) -> Record {
    Record::raw(at, format!(r#"{{"id":"{id}","created":"{at}","details":"{}"}}"#, "x".repeat(bytes)))
}

#[tokio::test]
async fn records_over_the_receivers_limit_that_are_alone_in_two_pages_are_both_dead_letters() {
    let stand = Stand::of(FluentdOptions { max_body_bytes: 100_000, ..FluentdOptions::default() }).await;
    let stand = stand.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stand.push_all(vec![large("first", ago(120), 200_000)]);
    let mut daemon = stand.setup.start(&[]);
    daemon.says_so_often("it is a dead letter", 1).await;
    stand.push_all(vec![large("second", ago(100), 200_000)]);
    daemon.says_so_often("it is a dead letter", 2).await;
    daemon.signal("TERM").await;
    assert_eq!(daemon.ended().await.code(), Some(0));
    let kept: Vec<_> = stand.dead_letters().into_iter().map(|letter| letter["record"]["id"].clone()).collect();
    assert_eq!(kept, ["first", "second"]);
}

#[tokio::test]
async fn a_record_on_which_the_receiver_always_closes_the_connection_is_a_dead_letter() {
    let options = FluentdOptions {
        kind: FluentdKind::FluentBit,
        max_body_bytes: 4_000_000,
        closes_when_too_large: true,
        ..FluentdOptions::default()
    };
    for (n, index) in [(1, 0), (3, 1)] {
        let stand = Stand::of(options.clone()).await;
        let mut records = Records::seeded(1).between(ago(1500), ago(2), n);
        records[index] = large("large", records[index].at, 4_100_000);
        stand.push_all(records);
        stand.run_to(0).await;
        stand.assert_all_once_but(&[index]);
        let letters = stand.dead_letters();
        assert_eq!((letters.len(), &letters[0]["record"]["id"]), (1, &"large".into()));
        assert!(letters[0]["reason"].as_str().unwrap().contains("no answer"), "{}", letters[0]["reason"]);
    }
}
