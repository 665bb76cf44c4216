//! Tests filters and redaction: dropped events are counted, and hidden values never leave the process.

use bytes::Bytes;
use serde_json::Value;

use crate::archive::{Archive, PREFIX};
use crate::daemon::Ended;
use crate::digicert::Reports;
use crate::stage::{Stage, ago};
use crate::support::{FakeFluentd, Fault, FluentdOptions, IntakeOptions, Outcome, Predicate, Record, ScmOptions};

const INCLUDE: &str = "AUDITSYNC_INCLUDE";
const EXCLUDE: &str = "SECTIGO_AUDIT_EXCLUDE";
const REDACT: &str = "AUDITSYNC_REDACT";
const SALT: &str = "AUDITSYNC_REDACT_SALT";

const LONG_SALT: &str = "0123456789abcdef0123456789abcdef";

/// A value that must not leave the process.
const MAIL: &str = "ann.secret@example.org";

/// `printf '%s%s' 0123456789abcdef0123456789abcdef ann.secret@example.org | sha256sum`
const HASH: &str = "sha256:5d7367cd979a81bd78aeee6ad502a006e6e72b30386e670f5912dfd5f68a41a6";

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

/// Checks that the address is in none of these texts, in no file of the stage, and in no output.
fn assert_hidden(stage: &Stage, ended: &Ended, texts: impl IntoIterator<Item = String>) {
    let files = std::fs::read_dir(stage.setup.folder()).unwrap();
    let files = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    for text in texts.into_iter().chain(files).chain([ended.everything()]) {
        assert!(!text.contains(MAIL) && !text.contains("ann.secret"), "{text}");
    }
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
    assert_hidden(&stage, &ended, bodies);
    assert_eq!(letters[0]["record"]["user"]["email"], HASH);
    assert!(stage.intake.entries().iter().filter(|entry| entry["sectigo"]["user"]["email"] == HASH).count() == 19);
}

#[tokio::test]
async fn a_redacted_value_appears_in_none_of_the_other_destinations() {
    let refuses = Some(Predicate::new(|record| record["id"] == "login3"));
    let fluentd = FakeFluentd::start(FluentdOptions { refuses, ..FluentdOptions::default() }).await;
    let Archive { stage, bucket, gate: _gate } = Archive::usual()
        .await
        .with("AUDITSYNC_PIPELINES", "sectigo:stdout,sectigo:fluentd,sectigo:s3")
        .with("FLUENTD_URL", &fluentd.url("audit.log"))
        .with(REDACT, "/user/email")
        .with(SALT, LONG_SALT)
        .with("AUDITSYNC_LOG_LEVEL", "debug");
    push(&stage, "login", 20);
    let ended = stage.run_to(0).await;
    let printed: Vec<_> = ended.stdout.lines().map(str::to_owned).collect();
    let events: Vec<_> = fluentd.events().into_iter().map(|(_, event)| event.to_string()).collect();
    let rows = bucket.archived(PREFIX).await;
    for (texts, count) in [(&printed, 20), (&events, 19), (&rows, 20)] {
        assert_eq!(texts.iter().filter(|text| text.contains(HASH)).count(), count, "{texts:?}");
    }
    let others = fluentd.notices().into_iter().chain(bucket.manifests().await).map(|value| value.to_string());
    assert_hidden(&stage, &ended, events.into_iter().chain(rows).chain(others));
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
