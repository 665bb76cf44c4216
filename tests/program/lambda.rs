//! Tests the program as a function of AWS Lambda: one sync for each invocation, with its result in the answer.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Setup};
use crate::probe::Probe;
use crate::stage::{Stage, stop, ten_a_page};
use crate::support::{FakeLambda, Fault, IntakeOptions, LambdaAnswer, RedisServer, ScmOptions};

const LONG: Duration = Duration::from_secs(900);

/// A function whose state is in Redis.
async fn function(server: &RedisServer, scm: ScmOptions, intake: IntakeOptions) -> (FakeLambda, Stage) {
    let lambda = FakeLambda::start().await;
    let mut stage = Stage::of(scm, intake)
        .await
        .with("SECTIGO_AUDIT_STORAGE_BACKEND", "redis")
        .with("SECTIGO_AUDIT_REDIS_ADDRESS", server.address())
        .with("SECTIGO_AUDIT_LEASE_TTL", "15s")
        .without("SECTIGO_AUDIT_SYNC_LOOP");
    for (name, value) in lambda.environment() {
        stage = stage.with(name, value);
    }
    (lambda, stage)
}

/// Ends a function as Lambda does: by a kill.
async fn end(function: Daemon) {
    function.signal("KILL").await;
    function.ended().await;
}

fn response(answer: LambdaAnswer) -> Value {
    match answer {
        LambdaAnswer::Response(body) => body,
        other => panic!("{other:?}"),
    }
}

fn error(answer: LambdaAnswer) -> (String, String) {
    let LambdaAnswer::Error(body) = answer else { panic!("{answer:?}") };
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (text("errorType"), text("errorMessage"))
}

#[tokio::test]
async fn each_invocation_syncs_what_has_come_since_the_last_one() {
    let server = RedisServer::start();
    let (lambda, stage) = function(&server, ten_a_page(), IntakeOptions::default()).await;
    let function = stage.setup.start(&[]);
    for (number, event) in [Value::Null, json!([]), json!({"time": "2026-03-01T12:00:00Z"})].into_iter().enumerate() {
        stage.push(25, 1, 0);
        lambda.invoke(event, LONG);
        let answer = response(lambda.answer(number + 1).await);
        assert_eq!((&answer["more"], &answer["pipelines"][0]["result"]), (&json!(false), &json!("done")), "{answer}");
        let status = answer["pipelines"][0]["status"].as_str().unwrap();
        assert!(status.starts_with("synced up to"), "{status}");
        assert_eq!(answer["pipelines"][0]["pipeline"], "sectigo:datadog");
    }
    let lease: Value = serde_json::from_str(&server.command(&["GET", "auditsync:sectigo:datadog"])).unwrap();
    assert!(lease["lease"].is_null(), "nothing goes on after an answer: {lease}");
    end(function).await;
    assert_eq!(lambda.violations(), [""; 0]);
    assert!(stage.intake.ids().values().all(|times| *times == 1));
}

#[tokio::test]
async fn a_deadline_in_the_middle_of_a_backlog_ends_it_cleanly_and_the_next_invocation_continues() {
    let server = RedisServer::start();
    let (lambda, stage) = function(&server, ten_a_page(), IntakeOptions::default()).await;
    stage.push(60, 1500, 60);
    // Where do tokens come from? Then three pages, and no answer to the request for the fourth.
    stage.source_meets([Fault::PASS, Fault::PASS, Fault::PASS, Fault::PASS, Fault::Hang]);
    let function = stage.setup.start(&[]);
    // The three pages are committed long before the deadline. Pages in flight would have only four seconds after it.
    lambda.invoke(json!({}), Duration::from_secs(30));
    let answer = response(lambda.answer(1).await);
    assert_eq!((&answer["more"], &answer["pipelines"][0]["result"]), (&json!(true), &json!("more")), "{answer}");
    assert_eq!(stage.intake.count(), 30);
    lambda.invoke(json!({}), LONG);
    let answer = response(lambda.answer(2).await);
    assert_eq!((&answer["more"], &answer["pipelines"][0]["result"]), (&json!(false), &json!("done")), "{answer}");
    end(function).await;
    stage.assert_all_once();
    assert_eq!(lambda.violations(), [""; 0]);
}

#[tokio::test]
async fn an_error_is_answered_with_its_kind_and_the_function_goes_on() {
    let server = RedisServer::start();
    let (lambda, stage) = function(&server, ten_a_page(), IntakeOptions::default()).await;
    stage.push(10, 1500, 60);
    stage.scm.set_client_secret("another");
    let function = stage.setup.start(&[]);
    lambda.invoke(json!({}), LONG);
    let (kind, message) = error(lambda.answer(1).await);
    assert_eq!(kind, "AuditSync.Credentials");
    assert!(message.contains("sectigo:datadog") && message.contains("SECTIGO_AUDIT_API_CLIENT_SECRET"), "{message}");
    assert!(!message.contains(&ScmOptions::default().client_secret), "{message}");

    stage.scm.set_client_secret(&ScmOptions::default().client_secret);
    stage.intake.answer_always(Some(Fault::Status(503)));
    // The deadline also limits the retries. It leaves Redis time to answer late.
    lambda.invoke(json!({}), Duration::from_secs(20));
    let (kind, message) = error(lambda.answer(2).await);
    assert_eq!(kind, "AuditSync.TryAgain", "{message}");

    stage.intake.answer_always(None);
    lambda.invoke(json!({}), LONG);
    response(lambda.answer(3).await);
    end(function).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn an_invocation_beside_an_active_instance_leaves_the_work_to_it() {
    let server = RedisServer::start();
    let (lambda, stage) = function(&server, ten_a_page(), IntakeOptions::default()).await;
    let daemon = [("SECTIGO_AUDIT_SYNC_LOOP", "true"), ("SECTIGO_AUDIT_SYNC_INTERVAL", "1h")];
    let alone = stage.setup.start_without("AWS_LAMBDA_RUNTIME_API", &daemon);
    stage.scm.wait_for_requests(1).await;
    let mut function = stage.setup.start_with(&[("AUDITSYNC_NOTICE_URL", "http://127.0.0.1:9/")], &[]);
    function.says("an AWS Lambda function does not use AUDITSYNC_NOTICE_URL").await;
    lambda.invoke(json!({}), Duration::from_secs(15));
    let answer = response(lambda.answer(1).await);
    assert_eq!((&answer["more"], &answer["pipelines"][0]["result"]), (&json!(false), &json!("standby")), "{answer}");
    end(function).await;
    stop(alone).await;
}

#[tokio::test]
async fn a_state_that_would_be_lost_between_invocations_is_a_mistake_that_lambda_shows() {
    let server = RedisServer::start();
    let (lambda, stage) = function(&server, ten_a_page(), IntakeOptions::default()).await;
    for (number, backend) in ["memory", "localfs"].into_iter().enumerate() {
        let ended = stage.setup.start_with(&[("SECTIGO_AUDIT_STORAGE_BACKEND", backend)], &[]).ended().await;
        assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
        let LambdaAnswer::InitError(body) = lambda.answer(number + 1).await else { panic!("it did not start") };
        let message = body["errorMessage"].as_str().unwrap();
        assert!(message.contains("SECTIGO_AUDIT_STORAGE_BACKEND") && message.contains("/mnt"), "{message}");
        assert_eq!(body["errorType"], "AuditSync.Configuration");
    }
    assert_eq!((stage.scm.hits(), lambda.violations()), (0, Vec::new()));
}

#[tokio::test]
async fn an_invocation_in_which_nothing_answered_is_an_error_and_not_a_success_with_more_to_do() {
    let server = RedisServer::start();
    let (lambda, stage) = function(&server, ten_a_page(), IntakeOptions::default()).await;
    stage.push(10, 1500, 60);
    stage.scm.hold();
    let function = stage.setup.start(&[]);
    // The deadline also limits the retries. It leaves Redis time to answer late.
    lambda.invoke(json!({}), Duration::from_secs(20));
    let (kind, message) = error(lambda.answer(1).await);
    assert_eq!(kind, "AuditSync.TryAgain");
    assert!(message.contains("nothing was delivered before the deadline"), "{message}");
    stage.scm.release();
    lambda.invoke(json!({}), LONG);
    response(lambda.answer(2).await);
    end(function).await;
    stage.assert_all_once();
}

#[tokio::test]
async fn a_function_refuses_a_receiver_because_nobody_can_connect_to_it() {
    let lambda = FakeLambda::start().await;
    let mut setup = Setup::bare()
        .with("AUDITSYNC_PIPELINES", "receiver:stdout")
        .with("RECEIVER_AUDIT_LISTEN", Probe::new().address())
        .with("AUDITSYNC_STORAGE_BACKEND", "redis")
        .with("AUDITSYNC_REDIS_ADDRESS", "127.0.0.1:9");
    for (name, value) in lambda.environment() {
        setup = setup.with(name, value);
    }
    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
    let LambdaAnswer::InitError(body) = lambda.answer(1).await else { panic!("it did not start") };
    for told in [ended.stderr.as_str(), body["errorMessage"].as_str().unwrap()] {
        assert!(told.contains("AUDITSYNC_PIPELINES=") && told.contains("receiver:stdout"), "{told}");
        assert!(told.contains("nobody can connect to a function; run it as a daemon"), "{told}");
    }
    assert_eq!((&body["errorType"], lambda.violations()), (&json!("AuditSync.Configuration"), Vec::new()));
    assert!(!setup.folder().join("receiver-spool").exists(), "nothing was begun");
}
