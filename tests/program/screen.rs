//! Tests filters and redaction: dropped events are counted, and hidden values never leave the process.

use bytes::Bytes;
use serde_json::Value;

use crate::digicert::Reports;
use crate::stage::{Stage, ago};
use crate::support::{Fault, IntakeOptions, Outcome, Predicate, Record, ScmOptions};

const INCLUDE: &str = "AUDITSYNC_INCLUDE";
const EXCLUDE: &str = "SECTIGO_AUDIT_EXCLUDE";
const REDACT: &str = "AUDITSYNC_REDACT";
const SALT: &str = "AUDITSYNC_REDACT_SALT";

const LONG_SALT: &str = "0123456789abcdef0123456789abcdef";

/// A value that must not leave the process.
const MAIL: &str = "ann.secret@example.org";

/// This many records of an action, each with a person's address.
fn push(stage: &Stage, action: &str, count: u64) {
    let record = |n: u64| {
        let at = ago(1500 - n);
        let json = format!(
            r#"{{"id":"{action}{n}","action":"{action}","created":"{at}","user":{{"email":"{MAIL}"}},"n":{n}}}"#
        );
        Record::raw(at, json)
    };
    stage.push_all((0..count).map(record).collect());
}

#[tokio::test]
async fn filtered_events_are_counted_and_the_cursor_moves_on() {
    let stage = Stage::usual().await.with(INCLUDE, "action=certificate.*;action=log*").with(EXCLUDE, "action=logout");
    for (action, count) in [("certificate.revoke", 5), ("login", 7), ("logout", 11), ("person.update", 13)] {
        push(&stage, action, count);
    }
    let ended = stage.run_to(0).await;
    assert!(ended.stderr.contains("read=36 delivered=12") && ended.stderr.contains("filtered=24"), "{}", ended.stderr);
    let ids = stage.intake.ids();
    assert!(ids.keys().all(|id| id.starts_with("certificate.revoke") || id.starts_with("login")), "{ids:?}");
    assert!(stage.since() > ago(600), "the cursor is behind what was filtered");
    stage.assert_protocol();
    stage.run_to(0).await;
    assert_eq!(stage.intake.count(), 12, "the next run delivers nothing again");
}

#[tokio::test]
async fn a_dry_run_shows_what_a_filter_lets_through() {
    let stage = Stage::usual().await.with(INCLUDE, "action=login,actor!=root");
    push(&stage, "login", 3);
    push(&stage, "logout", 4);
    let ended = stage.setup.run(&["run", "--dry-run"]).await;
    assert_eq!((ended.code(), ended.stdout.lines().count()), (Some(0), 3), "{}", ended.stderr);
}

#[tokio::test]
async fn a_filter_that_lets_nothing_through_is_a_warning_once() {
    let stage = Stage::of(ScmOptions { page_size: 500, ..ScmOptions::default() }, IntakeOptions::default()).await;
    let warning = "AUDITSYNC_INCLUDE has let no event through yet";
    let stage = stage.with(INCLUDE, "action=Login");
    push(&stage, "login", 1400);
    let ended = stage.run_to(0).await;
    assert_eq!(ended.stderr.matches(warning).count(), 1, "{}", ended.stderr);
    let stage = Stage::of(ScmOptions { page_size: 500, ..ScmOptions::default() }, IntakeOptions::default()).await;
    let stage = stage.with(INCLUDE, "action=login");
    push(&stage, "login", 1);
    push(&stage, "logout", 1400);
    let ended = stage.run_to(0).await;
    assert!(!ended.stderr.contains(warning), "one passed: {}", ended.stderr);
}

#[tokio::test]
async fn mistakes_in_filters_and_redaction_are_named_together_before_anything_starts() {
    let stage = Stage::usual().await.with(INCLUDE, "colour=red").with(EXCLUDE, "action").with(REDACT, "user");
    let ended = stage.run_to(78).await;
    for mistake in
        ["AUDITSYNC_INCLUDE", "known are action, actor", "SECTIGO_AUDIT_EXCLUDE", "AUDITSYNC_REDACT=", "begin with /"]
    {
        assert!(ended.stderr.contains(mistake), "{mistake}: {}", ended.stderr);
    }
    let stage = stage.without(INCLUDE).without(EXCLUDE).with(REDACT, "/user/email");
    let ended = stage.run_to(78).await;
    assert!(ended.stderr.contains("AUDITSYNC_REDACT_SALT: is required but not set"), "{}", ended.stderr);
    let ended = stage.with(SALT, "tooshort").run_to(78).await;
    assert!(ended.stderr.contains("at least 16 characters") && !ended.stderr.contains("tooshort"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_redacted_value_appears_in_no_destination_dead_letter_state_or_log() {
    // The intake refuses one entry in every form; its answers show what it received.
    let disliked = |entry: &Value| entry.to_string().contains("login3");
    let options = IntakeOptions {
        poison: Some(Predicate::new(disliked)),
        poison_text: Some(Predicate::new(disliked)),
        ..IntakeOptions::default()
    };
    let stage = Stage::of(ScmOptions::default(), options).await;
    let stage = stage.with(REDACT, "/user/email,/missing").with(SALT, LONG_SALT).with("AUDITSYNC_LOG_LEVEL", "debug");
    push(&stage, "login", 20);
    stage.intake_meets([Fault::Status(503)]);
    let ended = stage.run_to(0).await;
    let letters = stage.setup.dead_letters();
    assert_eq!((stage.intake.ids().len(), letters.len()), (19, 1), "{}", ended.stderr);

    let bodies = stage.intake.bodies().into_iter().map(|body| String::from_utf8(body.to_vec()).unwrap());
    let files =
        std::fs::read_dir(stage.setup.folder()).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()));
    let everything: Vec<_> =
        bodies.chain(files.map(Result::unwrap)).chain([ended.stdout.clone(), ended.stderr.clone()]).collect();
    for text in &everything {
        assert!(!text.contains(MAIL) && !text.contains("ann.secret"), "{text}");
    }
    // printf '%s%s' 0123456789abcdef0123456789abcdef ann.secret@example.org | sha256sum
    let hash = "sha256:5d7367cd979a81bd78aeee6ad502a006e6e72b30386e670f5912dfd5f68a41a6";
    assert_eq!(letters[0]["record"]["user"]["email"], hash);
    assert!(stage.intake.entries().iter().filter(|entry| entry["sectigo"]["user"]["email"] == hash).count() == 19);
}

#[tokio::test]
async fn a_page_that_cannot_be_read_is_not_quoted_where_values_are_redacted() {
    let stage = Stage::usual().await.with("AUDITSYNC_RETRY_BUDGET", "0s").with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    stage.push_all(vec![Record::raw(ago(60), format!(r#"{{"id":"1","user":{{"email":"{MAIL}"}},"#))]);
    let ended = stage.setup.run(&[]).await;
    assert!(
        ended.code() != Some(0) && ended.stderr.contains(MAIL),
        "it helps where nothing is redacted: {}",
        ended.stderr
    );
    let stage = stage.with(REDACT, "/user/email").with(SALT, LONG_SALT);
    let ended = stage.setup.run(&[]).await;
    assert!(
        ended.code() != Some(0) && ended.stderr.contains("not shown, because values of records are redacted"),
        "{}",
        ended.stderr
    );
    assert!(!ended.everything().contains("ann.secret"), "{}", ended.everything());

    let reports =
        Reports::usual().await.with("AUDITSYNC_RETRY_BUDGET", "2s").with(REDACT, "/email").with(SALT, LONG_SALT);
    for body in [
        format!(r#"[{{"email":"{MAIL}"}},{{"#),
        format!(r#"[{{"Date and time (UTC)":"{MAIL}"}}]"#),
        format!(r#""{MAIL}""#),
    ] {
        reports.fake.next_runs([Outcome::Holds(Bytes::from(body))]);
        let ended = reports.setup.run(&["run", "--once"]).await;
        assert!(ended.stderr.contains("not shown, because values of records are redacted"), "{}", ended.stderr);
        assert!(!ended.everything().contains("ann.secret"), "{}", ended.everything());
    }
}
