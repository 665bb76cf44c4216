//! Tests refusals by the intake: halves, cut records, the dead-letter file, and an intake that refuses everything.

use serde_json::Value;

use crate::receiver_trouble::notice;
use crate::stage::{Stage, ago, stop};
use crate::support::{Fault, IntakeOptions, Predicate, Record, ScmOptions};

const BACKEND: &str = "SECTIGO_AUDIT_STORAGE_BACKEND";
const BUDGET: &str = "SECTIGO_AUDIT_RETRY_BUDGET";
const INTAKE: &str = "DD_LOGS_CONFIG_LOGS_DD_URL";
const LOOP: &str = "SECTIGO_AUDIT_SYNC_LOOP";
const REJECTED: &str = "SECTIGO_AUDIT_DEAD_LETTER_PATH";

/// Pages of a hundred records.
async fn with_intake(options: IntakeOptions) -> Stage {
    Stage::of(ScmOptions::default(), options).await
}

/// A fake that refuses the records of these ids. It accepts them as text, unless `even_as_text`.
fn refusing(ids: &[&str], even_as_text: bool) -> IntakeOptions {
    let whole: Vec<_> = ids.iter().map(|id| Value::from(*id)).collect();
    let quoted: Vec<_> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    let in_text = move |entry: &Value| {
        let message = entry["message"].as_str().unwrap_or_default();
        entry.get("sectigo").is_none() && quoted.iter().any(|id| message.contains(id))
    };
    IntakeOptions {
        poison: Some(Predicate::new(move |entry| whole.contains(&entry["sectigo"]["id"]))),
        poison_text: even_as_text.then(|| Predicate::new(in_text)),
        ..IntakeOptions::default()
    }
}

/// Puts this many records into the source; those at these indices have these ids.
fn push_with(stage: &Stage, n: usize, poisoned: &[(usize, &str)]) {
    let mut records = stage.records(n, 1500, 2);
    for (index, id) in poisoned {
        let Record { at, .. } = records[*index];
        let json = format!(r#"{{"id":"{id}","action":"login","created":"{at}","details":"poison\n"}}"#);
        records[*index] = Record::raw(at, json);
    }
    stage.push_all(records);
}

/// Checks that all but the poisoned ones have arrived once, beside notices of our own. Returns the notices.
fn assert_the_others_once(stage: &Stage, poisoned: &[&str]) -> Vec<Value> {
    let ids = stage.intake.ids();
    assert!(poisoned.iter().all(|id| !ids.contains_key(*id)), "{poisoned:?} were accepted");
    assert_eq!(ids.len(), stage.pushed() - poisoned.len(), "none of the others is lost");
    assert!(ids.values().all(|times| *times == 1), "none of the others comes twice");
    stage.assert_protocol();
    let ours = |entry: &Value| entry["evt"].get("id").is_none();
    stage.intake.entries().into_iter().filter(ours).collect()
}

#[tokio::test]
async fn a_body_that_is_too_large_is_halved_until_it_is_taken() {
    let stage = with_intake(IntakeOptions { max_body_bytes: 20_000, ..IntakeOptions::default() }).await;
    stage.push(100, 1500, 2);
    stage.run_to(0).await;
    assert!(stage.intake.requests().iter().any(|request| request.status == Some(413)));
    assert_eq!(stage.setup.dead_letters().len(), 0);
    stage.assert_all_once();
}

#[tokio::test]
async fn an_entry_that_is_too_large_by_itself_is_cut_and_kept_whole() {
    let stage = with_intake(IntakeOptions { max_body_bytes: 60_000, ..IntakeOptions::default() }).await;
    let mut records = stage.records(30, 1500, 2);
    let large = format!(r#"{{"id":"large","action":"login","details":"{}"}}"#, "é\\n".repeat(20_000));
    records[17] = Record::raw(records[17].at, large.clone());
    stage.push_all(records);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("truncated=1"), "{}", ended.stderr);
    stage.assert_all_once();

    let entries = stage.intake.entries();
    let entry = entries.iter().find(|entry| entry["evt"]["id"] == "large").unwrap();
    assert!(entry.to_string().len() <= 25_000, "{} bytes", entry.to_string().len());
    assert_eq!(entry["auditsync"]["truncated"], "true");
    assert_eq!(entry["auditsync"]["record_bytes"], large.len().to_string());
    assert!(large.starts_with(entry["sectigo_raw"].as_str().unwrap().trim_end_matches('…')));
    let rejected = stage.setup.dead_letters();
    assert_eq!(rejected.len(), 1);
    assert_eq!((&rejected[0]["id"], &rejected[0]["fate"]), (&"large".into(), &"truncated".into()));
    assert_eq!(rejected[0]["record"], serde_json::from_str::<Value>(&large).unwrap());
}

#[tokio::test]
async fn an_entry_that_is_too_large_even_when_it_is_cut_is_dead_lettered() {
    let stage = with_intake(IntakeOptions { max_body_bytes: 15_000, ..IntakeOptions::default() }).await;
    let mut records = stage.records(30, 1500, 2);
    let large = format!(r#"{{"id":"large","action":"login","details":"{}"}}"#, "x".repeat(40_000));
    records[17] = Record::raw(records[17].at, large);
    stage.push_all(records);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("dead_lettered=1"), "{}", ended.stderr);
    assert_the_others_once(&stage, &["large"]);
    let rejected = stage.setup.dead_letters();
    assert_eq!(rejected.len(), 1);
    assert_eq!((&rejected[0]["id"], &rejected[0]["fate"]), (&"large".into(), &"refused".into()));
    assert!(rejected[0]["reason"].as_str().unwrap().contains("413"), "{}", rejected[0]["reason"]);
}

#[tokio::test]
async fn one_poisoned_entry_does_not_hold_up_the_others_and_goes_out_as_text() {
    let stage = with_intake(refusing(&["bad"], false)).await;
    push_with(&stage, 100, &[(42, "bad")]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("dead_lettered=0"), "{}", ended.stderr);
    let ours = assert_the_others_once(&stage, &["bad"]);
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert_eq!(ours[0]["auditsync"]["plain_text"], "true");
    let record: Value = serde_json::from_str(ours[0]["message"].as_str().unwrap()).unwrap();
    assert_eq!(record["id"], "bad");
    assert_eq!(stage.setup.dead_letters().len(), 0);

    stage.run_to(0).await;
    assert_eq!(stage.intake.count(), 100, "the next run sends nothing twice");
}

#[tokio::test]
async fn a_failure_while_a_refused_entry_is_looked_for_loses_and_repeats_nothing() {
    let stage = with_intake(refusing(&["bad"], true)).await;
    push_with(&stage, 100, &[(42, "bad")]);
    // The intake refuses the whole, its first half and the quarter before the bad one; the bad one's quarter meets the
    // fault.
    stage.intake_meets([Fault::PASS, Fault::PASS, Fault::PASS, Fault::Status(503)]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("the destination failed"), "{}", ended.stderr);
    assert!(ended.stderr.contains("delivered=99") && ended.stderr.contains("dead_lettered=1"), "{}", ended.stderr);
    assert_eq!(assert_the_others_once(&stage, &["bad"]), [Value::Null; 0]);
    assert_eq!(stage.setup.dead_letters().len(), 1);
}

#[tokio::test]
async fn a_failure_behind_a_refused_entry_does_not_lose_it() {
    let stage = with_intake(refusing(&["bad"], true)).await;
    push_with(&stage, 2, &[(0, "bad")]);
    // The requests: both, the bad one, the bad one as text; the other one meets the fault.
    stage.intake_meets([Fault::PASS, Fault::PASS, Fault::PASS, Fault::Status(503)]);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("delivered=1") && ended.stderr.contains("dead_lettered=1"), "{}", ended.stderr);
    assert_the_others_once(&stage, &["bad"]);
    assert_eq!(stage.setup.dead_letters().len(), 1);
}

#[tokio::test]
async fn an_entry_refused_in_every_form_is_dead_lettered_and_counted() {
    let stage = with_intake(refusing(&["bad"], true)).await;
    push_with(&stage, 100, &[(42, "bad")]);
    let started = ago(0);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("delivered=99") && ended.stderr.contains("dead_lettered=1"), "{}", ended.stderr);
    assert_eq!(assert_the_others_once(&stage, &["bad"]), [Value::Null; 0]);

    let rejected = stage.setup.dead_letters();
    assert_eq!(rejected.len(), 1);
    assert_eq!((&rejected[0]["id"], &rejected[0]["fate"]), (&"bad".into(), &"refused".into()));
    assert_eq!((&rejected[0]["record"]["id"], &rejected[0]["record"]["details"]), (&"bad".into(), &"poison\n".into()));
    assert!(rejected[0]["reason"].as_str().unwrap().contains("Invalid payload"), "{}", rejected[0]["reason"]);
    let kept_at: jiff::Timestamp = rejected[0]["kept_at"].as_str().unwrap().parse().unwrap();
    assert!(kept_at >= started && kept_at <= ago(0), "{kept_at}");

    stage.run_to(0).await;
    assert_eq!((stage.intake.count(), stage.setup.dead_letters().len()), (99, 1), "the next run leaves it at that");
}

#[tokio::test]
async fn several_poisoned_entries_are_dead_lettered_wherever_they_stand() {
    let poisoned = [(0, "first"), (40, "one"), (41, "another"), (42, "third"), (75, "alone"), (99, "last")];
    let ids = poisoned.map(|(_, id)| id);
    let stage = with_intake(refusing(&ids, true)).await;
    push_with(&stage, 100, &poisoned);
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("delivered=94") && ended.stderr.contains("dead_lettered=6"), "{}", ended.stderr);
    let ours = assert_the_others_once(&stage, &ids);
    assert!(ours.iter().all(|entry| entry["auditsync"]["notice"] == "dead_letter"), "{ours:?}");
    let mut kept: Vec<_> =
        stage.setup.dead_letters().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    let mut wanted = ids.map(str::to_owned);
    kept.sort();
    wanted.sort();
    assert_eq!(kept, wanted);
}

#[tokio::test]
async fn a_page_of_poison_alone_is_dead_lettered_after_a_notice_was_accepted() {
    let stage = with_intake(refusing(&["bad"], true)).await;
    push_with(&stage, 1, &[(0, "bad")]);
    stage.run_to(0).await;
    let ours = assert_the_others_once(&stage, &["bad"]);
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert_eq!(ours[0]["auditsync"]["notice"], "dead_letter");
    assert_eq!(stage.setup.dead_letters().len(), 1);
}

#[tokio::test]
async fn a_dead_letter_file_that_cannot_be_written_fails_the_delivery_and_the_cursor_stays() {
    let stage = with_intake(refusing(&["bad"], true))
        .await
        .with("SECTIGO_AUDIT_RETRY_BUDGET", "0s")
        .with(REJECTED, "/dev/full");
    push_with(&stage, 100, &[(42, "bad")]);
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("_DEAD_LETTER_PATH") && ended.stderr.contains("/dev/full"), "{}", ended.stderr);
    let stage = stage.with(REJECTED, "./rejected-again.ndjson");
    stage.run_to(0).await;
    assert_eq!(stage.openings().last().unwrap().from, stage.openings()[0].from, "the cursor is where it was");
}

#[tokio::test]
async fn a_dead_letter_that_the_disk_holds_in_part_is_taken_back_and_the_cursor_stays() {
    let stage = with_intake(refusing(&["bad"], true)).await.with(BUDGET, "0s").with(REJECTED, "./letters.ndjson");
    push_with(&stage, 100, &[(42, "bad")]);
    let (letters, before) = (stage.setup.folder().join("letters.ndjson"), format!("\"{}\"\n", "x".repeat(450)));
    std::fs::write(&letters, &before).unwrap();
    let ended = stage.setup.start_with_files_limited(1).ended().await;
    assert_eq!(ended.code(), Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains(REJECTED) && ended.stderr.contains("letters.ndjson"), "{}", ended.stderr);
    assert_eq!(std::fs::read_to_string(&letters).unwrap(), before);
    stage.run_to(0).await;
    assert_eq!(stage.openings().last().unwrap().from, stage.openings()[0].from, "the cursor is where it was");
    let after = std::fs::read_to_string(&letters).unwrap();
    assert!(after.starts_with(&before) && after.lines().count() == 2 && after.contains("poison"), "{after}");
}

#[tokio::test]
async fn without_a_file_a_log_that_cannot_be_written_fails_the_delivery() {
    let stage = with_intake(refusing(&["bad"], true)).await.with(BUDGET, "0s").with(BACKEND, "memory");
    push_with(&stage, 100, &[(42, "bad")]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = stage.setup.command(&[]);
    let ended = command.stderr(full).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(ended.status.code(), Some(75));
}

#[tokio::test]
async fn without_a_file_a_refused_record_is_logged_whole() {
    let stage = with_intake(refusing(&["bad"], true)).await.with(BACKEND, "memory");
    push_with(&stage, 100, &[(42, "bad")]);
    let ended = stage.run_to(0).await;
    let told = ended.stderr.lines().find(|line| line.contains("the destination refused a record")).unwrap();
    assert!(told.contains("poison") && told.contains("bad") && told.contains("login"), "{told}");
    assert_the_others_once(&stage, &["bad"]);
}

#[tokio::test]
async fn an_intake_that_refuses_everything_at_first_contact_is_not_poison() {
    let stage = with_intake(IntakeOptions::default()).await;
    stage.push(100, 1500, 2);
    stage.intake.answer_always(Some(Fault::Status(400)));
    let ended = stage.refused_to_the_end().await;
    assert!(ended.stderr.contains("refuses everything") && ended.stderr.contains(INTAKE), "{}", ended.stderr);
    assert_eq!(stage.setup.dead_letters().len(), 0);
    assert_eq!(Some(stage.since()), stage.openings()[0].from, "the cursor is where it was");
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_intake_that_refuses_a_single_record_and_a_notice_too_is_not_poison() {
    let stage = with_intake(IntakeOptions::default()).await;
    stage.push(1, 60, 2);
    stage.intake.answer_always(Some(Fault::Status(400)));
    stage.refused_to_the_end().await;
    assert_eq!(stage.setup.dead_letters().len(), 0);
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_intake_that_knows_no_such_path_is_not_poison() {
    let stage = with_intake(IntakeOptions::default()).await;
    stage.push(100, 1500, 2);
    stage.intake.answer_always(Some(Fault::Status(404)));
    let ended = stage.refused_to_the_end().await;
    assert!(ended.stderr.contains(INTAKE), "{}", ended.stderr);
    // The page's only request, and the notice that finds out whether the page is at fault.
    assert_eq!((stage.intake.requests().len(), stage.setup.dead_letters().len()), (2, 0));
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_intake_that_begins_to_refuse_everything_ends_a_one_shot_with_75() {
    let stage = Stage::usual().await.with(BUDGET, "0s");
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS]);
    stage.intake.answer_always(Some(Fault::Status(400)));
    let ended = stage.run_to(75).await;
    assert!(ended.stderr.contains("refuses everything") && ended.stderr.contains(INTAKE), "{}", ended.stderr);
    assert_eq!((stage.intake.count(), stage.setup.dead_letters().len()), (10, 0));
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_intake_that_begins_to_refuse_everything_is_an_alarm_in_the_loop() {
    let stage = Stage::usual().await.with(LOOP, "true");
    stage.push(30, 1500, 2);
    stage.intake_meets([Fault::PASS]);
    stage.intake.answer_always(Some(Fault::Status(400)));
    let mut daemon = stage.setup.start(&[]);
    daemon.says("the destination needs attention").await;
    assert!(daemon.stderr().contains("refuses everything"), "{}", daemon.stderr());
    stop(daemon).await;
    assert_eq!((stage.intake.count(), stage.setup.dead_letters().len()), (10, 0));
    stage.intake.answer_always(None);
    let stage = stage.with(LOOP, "false");
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_intake_that_refuses_everything_as_too_large_is_not_poison() {
    let stage = Stage::usual().await;
    stage.push(30, 1500, 2);
    stage.intake.answer_always(Some(Fault::Status(413)));
    stage.refused_to_the_end().await;
    assert_eq!(stage.setup.dead_letters().len(), 0);
    stage.intake.answer_always(None);
    stage.run_to(0).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_entry_that_a_firewall_answers_with_403_is_dead_lettered_and_the_key_is_not_blamed() {
    let dislikes = Predicate::new(|entry| entry.to_string().contains("OR 1=1"));
    let options = IntakeOptions { firewall: Some((dislikes, Fault::Status(403))), ..IntakeOptions::default() };
    // The waits between the calls that convict the entry are up to half a minute together.
    let stage = with_intake(options).await.with(BUDGET, "5m");
    let mut records = stage.records(100, 1500, 2);
    let Record { at, .. } = records[42];
    let json = format!(r#"{{"id":"bad","action":"login","created":"{at}","details":"OR 1=1"}}"#);
    records[42] = Record::raw(at, json);
    stage.push_all(records);
    // This is the first contact, with one page: only a notice distinguishes it from a rejected key.
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("delivered=99") && ended.stderr.contains("dead_lettered=1"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("rejected the API key"), "{}", ended.stderr);
    assert_the_others_once(&stage, &["bad"]);
    let rejected = stage.setup.dead_letters();
    assert_eq!((rejected.len(), &rejected[0]["id"]), (1, &"bad".into()));
}

/// A run that ends within seconds leaves no time for a look at an interval.
#[tokio::test]
async fn a_single_run_sends_the_notice_of_its_dead_letters_before_it_ends() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let stage = with_intake(refusing(&["bad"], true)).await.with("AUDITSYNC_NOTICE_URL", url);
    push_with(&stage, 30, &[(17, "bad")]);
    let (ended, text) = tokio::join!(stage.run_to(0), notice(&listener, "200 OK"));
    assert!(text.contains("the pipeline sectigo:datadog has 1 new dead letters"), "{text}");
    assert!(!ended.stderr.contains("notices could not be sent"), "{}", ended.stderr);
    // A webhook that is gone harms nothing.
    let gone = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let stage = with_intake(refusing(&["bad"], true)).await.with("AUDITSYNC_NOTICE_URL", gone);
    push_with(&stage, 30, &[(17, "bad")]);
    let ended = stage.run_to(0).await;
    assert_eq!(ended.stderr.matches("the last notices could not be sent").count(), 1, "{}", ended.stderr);
}
