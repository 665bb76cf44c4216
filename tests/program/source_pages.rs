//! Pages and the tokens between them, as the documentation leaves them open; and pages that cannot be read.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{Fault, FinalPage, IntakeOptions, Order, Record, ScmOptions};

const BUDGET: &str = "SECTIGO_AUDIT_RETRY_BUDGET";
const LOOKBACK: &str = "SECTIGO_AUDIT_SYNC_LOOKBACK";
const DELAY: &str = "SECTIGO_AUDIT_SYNC_DELAY";

/// More than a page may have.
const TOO_MUCH: usize = 65 * 1024 * 1024;

/// Two runs against such a source, the second one with news and with late records.
async fn everything_arrives_once_from(options: ScmOptions) -> Stage {
    let stage = Stage::of(options, IntakeOptions::default()).await.with(DELAY, "60s");
    stage.push(45, 1500, 61);
    stage.run_to(0).await;
    stage.push(15, 250, 2);
    let stage = stage.with(DELAY, "0s");
    stage.run_to(0).await;
    stage.assert_all_once();
    stage
}

#[tokio::test]
async fn a_short_page_is_not_the_last_one() {
    everything_arrives_once_from(ScmOptions { short_pages: true, ..ten_a_page() }).await;
}

#[tokio::test]
async fn the_newest_record_may_come_first() {
    everything_arrives_once_from(ScmOptions { order: Order::Descending, ..ten_a_page() }).await;
}

#[tokio::test]
async fn records_may_come_in_any_order() {
    everything_arrives_once_from(ScmOptions { order: Order::Shuffled, ..ten_a_page() }).await;
}

#[tokio::test]
async fn an_empty_page_ends_a_range_even_with_a_token() {
    let options = ScmOptions { final_page: FinalPage::EmptyArrayWithToken, ..ten_a_page() };
    let stage = everything_arrives_once_from(options).await;
    let empty: Vec<_> = stage.authorized().iter().filter(|request| request.records == 0).cloned().collect();
    assert!(empty.iter().all(|request| request.token.is_some()), "none is asked for behind an empty one: {empty:?}");
}

#[tokio::test]
async fn a_page_without_a_token_ends_a_range() {
    let options = ScmOptions { final_page: FinalPage::NoTokenOnLast, ..ten_a_page() };
    let stage = everything_arrives_once_from(options).await;
    assert!(stage.authorized().iter().all(|request| request.records > 0), "no request for nothing");
}

#[tokio::test]
async fn compressed_pages_are_read() {
    everything_arrives_once_from(ScmOptions { gzip: true, ..ten_a_page() }).await;
}

#[tokio::test]
async fn more_records_of_one_moment_than_a_page_holds_all_arrive_once() {
    let stage = Stage::usual().await.with(DELAY, "60s");
    let mut records = stage.records(55, 200, 199);
    let at = records[0].at;
    for record in &mut records {
        record.at = at;
    }
    stage.push_all(records);
    stage.run_to(0).await;
    let stage = stage.with(DELAY, "0s");
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_refused_page_token_leads_back_to_the_start_of_its_range() {
    // All of the range lies within the overlap, so that even the pages read again are not sent again.
    let stage = Stage::usual().await.with(LOOKBACK, "4m");
    stage.push(40, 220, 2);
    stage.scm.refuse_page_tokens(1);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("refused a page's token"), "{}", ended.stderr);
    let openings = stage.openings();
    assert_eq!((openings[0].from, openings[0].to), (openings[1].from, openings[1].to));
    stage.assert_all_once();
}

#[tokio::test]
async fn a_page_token_refused_again_halves_the_range() {
    let stage = Stage::usual().await.with(LOOKBACK, "4m");
    stage.push(40, 220, 2);
    stage.scm.refuse_page_tokens(2);
    stage.run_to(0).await;
    let openings = stage.openings();
    let length = |i: usize| openings[i].to.unwrap().duration_since(openings[i].from.unwrap()).as_secs();
    assert_eq!((length(1), length(2)), (length(0), length(0) / 2));
    stage.assert_all_once();
}

#[tokio::test]
async fn a_range_longer_than_the_overlap_repeats_no_more_than_its_own_pages_for_a_refused_token() {
    let stage = Stage::usual().await;
    stage.push(40, 1500, 400);
    stage.scm.refuse_page_tokens(1);
    stage.run_to(0).await;
    stage.assert_none_lost();
    assert_eq!(stage.intake.count(), 50, "the one page that had been delivered");
}

#[tokio::test]
async fn a_page_token_that_is_gone_at_the_next_start_loses_nothing() {
    let stage = Stage::usual().await.with(LOOKBACK, "4m").with(BUDGET, "0s");
    stage.push(40, 220, 2);
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::PASS, Fault::Status(503)]);
    stage.run_to(75).await;
    assert_eq!(stage.intake.count(), 20);
    stage.scm.expire_page_tokens();
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn the_same_page_again_and_again_is_an_alarm_and_not_endless() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(40, 1500, 2);
    stage.scm.repeat_page_tokens(true);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the source needs attention").await;
    assert!(daemon.stderr().contains("the same page again"), "{}", daemon.stderr());
    let kept = stage.since();
    stop(daemon).await;
    assert_eq!((stage.since(), stage.intake.count()), (kept, 20), "two pages, once each");
    assert!(stage.authorized().len() < 10, "{}", stage.authorized().len());
    stage.assert_protocol();
}

#[tokio::test]
async fn the_same_page_again_and_again_ends_a_one_shot_with_75_and_loses_nothing() {
    let stage = Stage::usual().await.with(BUDGET, "0s");
    stage.push(40, 1500, 2);
    stage.scm.repeat_page_tokens(true);
    stage.run_to(75).await;
    assert_eq!(stage.intake.count(), 20);
    stage.scm.repeat_page_tokens(false);
    stage.run_to(0).await;
    stage.assert_none_lost();
}

#[tokio::test]
async fn a_page_over_the_bound_is_asked_for_in_halves() {
    let stage = Stage::of(ScmOptions::default(), IntakeOptions::default()).await;
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::Huge(TOO_MUCH), Fault::Huge(TOO_MUCH), Fault::Huge(TOO_MUCH)]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("larger than 8388608 bytes"), "{}", ended.stderr);
    let openings = stage.openings();
    let length = |i: usize| openings[i].to.unwrap().duration_since(openings[i].from.unwrap()).as_secs();
    assert_eq!((length(2), length(3)), (length(0), length(0) / 2));
    stage.assert_all_once();
}

/// An array that never ends, as a proxy makes it that cuts answers and puts their length right.
fn broken() -> Fault {
    Fault::Body("[{".into())
}

#[tokio::test]
async fn web_pages_in_place_of_a_page_are_waited_out_and_make_no_range_shorter() {
    let stage = Stage::usual().await;
    stage.push(40, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::NotJson, Fault::NotJson, Fault::NotJson, Fault::NotJson]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_URL"), "{}", ended.stderr);
    let openings = stage.openings();
    assert!(openings.iter().all(|opening| opening.to == openings[0].to), "{openings:?}");
    stage.assert_all_once();
}

#[tokio::test]
async fn a_later_page_that_cannot_be_read_halves_the_range_and_sends_nothing_twice() {
    let stage = Stage::usual().await.with(LOOKBACK, "4m");
    stage.push(40, 220, 2);
    stage.source_meets([Fault::PASS, Fault::PASS, broken(), broken(), broken()]);
    stage.run_to(0).await;
    let openings = stage.openings();
    assert!(openings[1].to < openings[0].to, "{openings:?}");
    stage.assert_all_once();
}

#[tokio::test]
async fn a_later_page_that_cannot_be_read_repeats_no_more_than_the_pages_before_it() {
    // A range longer than the overlap: what was delivered of it is not remembered.
    let stage = Stage::usual().await;
    stage.push(40, 1500, 400);
    stage.source_meets([Fault::PASS, Fault::PASS, broken(), broken(), broken()]);
    stage.run_to(0).await;
    stage.assert_none_lost();
    assert!(stage.intake.count() <= 50, "the one page before it: {}", stage.intake.count());
}

/// A range of twelve seconds, with something that is no JSON in the fifth to last of them. Gives the start of that second.
fn push_with_a_broken_record(stage: &Stage) -> Timestamp {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let second = now - Duration::from_secs(5);
    let before: Vec<_> = stage.records(2, 7, 6).into_iter().zip([1, 2]).collect();
    stage.push_all(
        before
            .into_iter()
            .map(|(record, n)| Record { at: second - SignedDuration::from_millis(n * 500), ..record })
            .collect(),
    );
    let after = stage.records(2, 3, 2);
    stage.scm.push(after);
    stage.scm.push([Record::raw(second + SignedDuration::from_millis(500), r#"{"id": broken"#)]);
    second
}

#[tokio::test]
async fn a_record_that_never_parses_holds_up_nothing_before_it_and_ends_a_one_shot_with_75() {
    let stage = Stage::usual().await.with(LOOKBACK, "12s").with(BUDGET, "6s");
    let second = push_with_a_broken_record(&stage);
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("is not a page of records"), "{}", ended.stderr);
    assert_eq!(stage.since(), second, "up to the second with the broken one");
    // The last question may be the first one again, put anew after a wait.
    let smallest = (Some(second), Some(second + Duration::from_secs(1)));
    assert!(stage.openings().iter().any(|asked| (asked.from, asked.to) == smallest), "down to one second");
    stage.assert_all_once();
}

#[tokio::test]
async fn a_record_that_never_parses_is_an_alarm_in_the_loop() {
    let stage = Stage::usual().await.with(LOOKBACK, "12s").with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    let second = push_with_a_broken_record(&stage);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the source needs attention").await;
    stop(daemon).await;
    assert_eq!(stage.since(), second);
    stage.assert_all_once();
}
