//! Tests pages and page tokens in all the ways that the documentation allows, and pages that cannot be read.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{Fault, FinalPage, IntakeOptions, Order, Record, ScmOptions};

const BUDGET: &str = "SECTIGO_AUDIT_RETRY_BUDGET";
const LOOKBACK: &str = "SECTIGO_AUDIT_SYNC_LOOKBACK";
const DELAY: &str = "SECTIGO_AUDIT_SYNC_DELAY";

/// More bytes than a page may have.
const TOO_MUCH: usize = 65 * 1024 * 1024;

/// Makes two runs against such a source, the second one with new and late records.
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
    assert!(empty.iter().all(|request| request.token.is_some()), "none is requested behind an empty one: {empty:?}");
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
    // The whole range lies within the overlap, so that records on pages read again are not sent again.
    let stage = Stage::usual().await.with(LOOKBACK, "5m").with(BUDGET, "5m");
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
    let stage = Stage::usual().await.with(LOOKBACK, "5m").with(BUDGET, "5m");
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
    let stage = Stage::usual().await.with(BUDGET, "5m");
    stage.push(40, 1500, 400);
    stage.scm.refuse_page_tokens(1);
    stage.run_to(0).await;
    stage.assert_none_lost();
    assert_eq!(stage.intake.count(), 50, "the one page that had been delivered");
}

#[tokio::test]
async fn a_page_token_that_is_gone_at_the_next_start_loses_nothing() {
    let stage = Stage::usual().await.with(LOOKBACK, "5m").with(BUDGET, "0s");
    stage.push(40, 220, 2);
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::PASS]);
    // The program requests the third page ahead, and requests it again if the failure is a second old by its turn.
    stage.scm.answer_always(Some(Fault::Status(503)));
    stage.run_to(75).await;
    assert_eq!(stage.intake.count(), 20);
    stage.scm.answer_always(None);
    stage.scm.expire_page_tokens();
    // One refusal may pass. Without a budget to request the page again, the next run finds out.
    stage.run_to(75).await;
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
async fn the_same_page_with_fresh_tokens_is_an_alarm_and_not_endless() {
    let options = ScmOptions { page_size: 150, ..ScmOptions::default() };
    let stage = Stage::of(options, IntakeOptions::default()).await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    stage.push(300, 1500, 2);
    stage.scm.go_round_with_fresh_tokens(true);
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the source needs attention").await;
    assert!(daemon.stderr().contains("the same page again"), "{}", daemon.stderr());
    let kept = stage.since();
    stop(daemon).await;
    assert_eq!((stage.since(), stage.intake.count()), (kept, 300), "two pages, once each");
    assert!(stage.authorized().len() < 10, "{}", stage.authorized().len());
    stage.scm.go_round_with_fresh_tokens(false);
    stage.with("SECTIGO_AUDIT_SYNC_LOOP", "false").run_to(0).await;
}

#[tokio::test]
async fn a_small_page_with_fresh_tokens_is_repeated_a_few_times_at_most() {
    let stage = Stage::usual().await.with(BUDGET, "0s");
    stage.push(13, 1500, 2);
    stage.scm.go_round_with_fresh_tokens(true);
    stage.run_to(75).await;
    assert!(stage.intake.count() <= 13 + 15, "{}", stage.intake.count());
    assert!(stage.authorized().len() < 15, "{}", stage.authorized().len());
    // The page that the cursor leads to comes once more, and then the end of the range.
    stage.scm.go_round_with_fresh_tokens(false);
    let stage = stage.with(BUDGET, "60s");
    stage.run_to(0).await;
    stage.assert_none_lost();
}

/// A later page of a range meets this status once; nothing is delivered twice.
async fn a_single_refusal_repeats_nothing(status: u16) {
    // Longer than the overlap: what was delivered of the range is not remembered.
    let stage = Stage::usual().await;
    stage.push(40, 1500, 400);
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::Status(status)]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("the same page is requested again"), "{}", ended.stderr);
    assert_eq!(stage.openings().len(), 1, "the range is not read from its start");
    stage.assert_all_once();
}

#[tokio::test]
async fn a_single_400_on_a_later_page_repeats_nothing() {
    a_single_refusal_repeats_nothing(400).await;
}

#[tokio::test]
async fn a_single_404_on_a_later_page_repeats_nothing() {
    a_single_refusal_repeats_nothing(404).await;
}

#[tokio::test]
async fn a_single_405_on_a_later_page_repeats_nothing() {
    a_single_refusal_repeats_nothing(405).await;
}

#[tokio::test]
async fn a_single_407_on_a_later_page_repeats_nothing() {
    a_single_refusal_repeats_nothing(407).await;
}

#[tokio::test]
async fn a_single_421_on_a_later_page_repeats_nothing() {
    a_single_refusal_repeats_nothing(421).await;
}

#[tokio::test]
async fn a_single_431_on_a_later_page_repeats_nothing() {
    a_single_refusal_repeats_nothing(431).await;
}

#[tokio::test]
async fn a_status_that_is_not_about_a_token_is_an_alarm_when_it_lasts_and_repeats_nothing() {
    let stage = Stage::usual().await.with(BUDGET, "30s");
    stage.push(40, 1500, 400);
    stage.source_meets([Fault::PASS, Fault::PASS]);
    stage.scm.answer_always(Some(Fault::Status(405)));
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("SECTIGO_AUDIT_API_URL"), "{}", ended.stderr);
    stage.scm.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_page_over_the_bound_is_requested_in_halves() {
    let stage = Stage::of(ScmOptions::default(), IntakeOptions::default()).await.with(BUDGET, "5m");
    stage.push(30, 1500, 2);
    stage.source_meets([Fault::PASS, Fault::Huge(TOO_MUCH), Fault::Huge(TOO_MUCH), Fault::Huge(TOO_MUCH)]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("larger than 8388608 bytes"), "{}", ended.stderr);
    let openings = stage.openings();
    let length = |i: usize| openings[i].to.unwrap().duration_since(openings[i].from.unwrap()).as_secs();
    assert_eq!((length(2), length(3)), (length(0), length(0) / 2));
    stage.assert_all_once();
}

/// An array without an end, as from a proxy that cuts answers and corrects their length.
fn broken() -> Fault {
    Fault::Body("[{".into())
}

#[tokio::test]
async fn web_pages_instead_of_a_page_are_waited_out_and_make_no_range_shorter() {
    let stage = Stage::usual().await.with(BUDGET, "5m");
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
    let stage = Stage::usual().await.with(LOOKBACK, "5m");
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

/// Begins seven seconds before a second with invalid JSON, five seconds ago. Returns the start of that second.
async fn push_with_a_broken_record(stage: &Stage) -> Timestamp {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let second = now - Duration::from_secs(5);
    stage.begins_at(second - Duration::from_secs(7)).await;
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
    let stage = Stage::usual().await.with(BUDGET, "30s");
    let second = push_with_a_broken_record(&stage).await;
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("is not a page of records"), "{}", ended.stderr);
    assert_eq!(stage.since(), second, "up to the second with the broken one");
    // The last request may be the first one again, after a wait.
    let smallest = (Some(second), Some(second + Duration::from_secs(1)));
    assert!(stage.openings().iter().any(|asked| (asked.from, asked.to) == smallest), "down to one second");
    stage.assert_all_once();
}

/// Two records of one second. The first one holds, among others, a byte that is not UTF-8 and a raw control character,
/// within a text and between tokens.
async fn a_broken_text_is_delivered_repaired(options: ScmOptions) {
    let stage = Stage::of(options, IntakeOptions::default()).await.with(DELAY, "0s");
    let second = Timestamp::from_second(Timestamp::now().as_second()).unwrap() - Duration::from_secs(6);
    stage.begins_at(second - Duration::from_secs(6)).await;
    let at = |millis| second + SignedDuration::from_millis(millis);
    let time = |millis| format!("{:.3}", at(millis));
    let plain = |id: &str, millis| {
        Record::raw(at(millis), format!(r#"{{ "id":"{id}","created":"{}","n":1.50 }}"#, time(millis)))
    };
    let broken = format!(r#"{{"id":"broken","created":"{}","details":"a<ff>b<01>c"<00>}}"#, time(300));
    stage.push_all(vec![plain("before", -1500), plain("beside", 200), plain("beside-too", 400), plain("behind", 2500)]);
    stage.push_all(vec![Record { id: "broken".into(), ..Record::raw(at(300), broken) }]);
    stage.scm.corrupt(&[("<ff>", b"\xff"), ("<01>", b"\x01"), ("<00>", b"\x00")]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("`auditsync.repaired`"), "{}", ended.stderr);
    // A page delivered before the broken one is after the end of the halved range, and comes again with its own.
    stage.assert_none_lost();
    assert_eq!(stage.intake.ids()["broken"], 1);
    let count = stage.intake.count();
    for entry in stage.intake.entries() {
        let is_broken = entry["sectigo"]["id"] == "broken";
        assert_eq!(entry["auditsync"]["repaired"] == "true", is_broken, "{entry}");
        if is_broken {
            assert_eq!(entry["sectigo"]["details"], "a\u{fffd}b\u{1}c");
        }
    }
    // The next range reaches back over it.
    stage.push(3, 2, 1);
    let ended = stage.run_to(0).await;
    assert!(!ended.stderr.contains("cannot be read"), "{}", ended.stderr);
    stage.assert_none_lost();
    assert_eq!(stage.intake.count(), count + 3);
}

#[tokio::test]
async fn a_text_that_is_not_utf_8_is_delivered_repaired_and_holds_up_nothing() {
    a_broken_text_is_delivered_repaired(ScmOptions::default()).await;
}

#[tokio::test]
async fn a_broken_text_on_a_later_page_of_one_second_is_delivered_repaired() {
    a_broken_text_is_delivered_repaired(ScmOptions { page_size: 1, ..ScmOptions::default() }).await;
}

#[tokio::test]
async fn a_record_that_never_parses_is_an_alarm_in_the_loop() {
    let stage = Stage::usual().await.with("SECTIGO_AUDIT_SYNC_LOOP", "true");
    let second = push_with_a_broken_record(&stage).await;
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the source needs attention").await;
    // A shutdown does not begin the delivery of a page that was read.
    stage.intake.wait_for_ids(2).await;
    stop(daemon).await;
    assert_eq!(stage.since(), second);
    stage.assert_all_once();
}
