//! Tests Teleport with each destination, and other sources with Fluentd.

use serde_json::Value;

use crate::archive::MOTO;
use crate::cloudtrail::{ACCOUNT, Trail};
use crate::digicert::{Reports, rows};
use crate::stage::ago;
use crate::support::{
    AuditEvent, Bucket, FakeFluentd, FakeIntake, FluentdKind, FluentdOptions, IntakeOptions, Recording,
};
use crate::teleport::{Cluster, ids, lines};
use crate::teleport_crashes::to_datadog;

#[tokio::test]
async fn teleport_to_datadog_fills_the_standard_attributes() {
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let cluster = to_datadog(Cluster::usual().await, &intake);
    cluster.auth.push(AuditEvent::logins(0, 250, ago(60)));
    let failed = serde_json::json!({"code": "T1000W", "user": "bob", "success": false, "error": "invalid credentials"});
    cluster.auth.push([AuditEvent::new("user.login", "failed", ago(5), failed)]);
    cluster.setup.run_to(0).await;
    assert_eq!((intake.count(), intake.ids().len()), (251, 251));
    let entries = intake.entries();
    let of = |id: &str| entries.iter().find(|entry| entry["evt"]["id"] == id).expect("it arrived");
    let login = of("login-000007");
    assert_eq!(login["service"], "teleport");
    assert_eq!(login["usr"]["name"], "alice@example.com");
    assert_eq!(login["usr"]["email"], "alice@example.com");
    assert_eq!(login["network"]["client"]["ip"], "203.0.113.7");
    assert_eq!((&login["evt"]["name"], &login["evt"]["outcome"]), (&"user.login".into(), &"success".into()));
    assert_eq!(login["status"], "info");
    assert_eq!((&of("failed")["status"], &of("failed")["evt"]["outcome"]), (&"error".into(), &"failure".into()));
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn teleport_to_s3_archives_each_record_and_the_archive_is_proven() {
    let bucket = Bucket::of(&MOTO).await;
    let cluster = Cluster::usual()
        .await
        .with("AUDITSYNC_PIPELINES", "teleport:s3")
        .with("ARCHIVE_S3_BUCKET", bucket.name.as_str())
        .with("ARCHIVE_S3_PREFIX", "audit")
        .with("ARCHIVE_S3_FORCE_PATH_STYLE", "true")
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", "AKIAANYONE")
        .with("AWS_SECRET_ACCESS_KEY", "secret")
        .with("AWS_EC2_METADATA_DISABLED", "true")
        .with("AWS_ENDPOINT_URL", MOTO.url());
    cluster.auth.push(AuditEvent::logins(0, 250, ago(60)));
    cluster.setup.run_to(0).await;
    let archived: Vec<Value> = lines(&bucket.archived("audit").await.join("\n"));
    assert_eq!(archived, cluster.auth.log());
    let proof = cluster.setup.run(&["verify"]).await;
    assert_eq!(proof.code(), Some(0), "{}", proof.everything());
}

#[tokio::test]
async fn teleport_to_fluentd_sends_sessions_to_their_own_tag_whatever_the_success_is_called() {
    for (kind, success, tag) in [
        (FluentdKind::Fluentd, None, "session.8d3f-1.log"),
        (FluentdKind::Fluentd, Some(204), "session.8d3f-1.log"),
        (FluentdKind::FluentBit, Some(201), "session.8d3f_1.log"),
    ] {
        let options = FluentdOptions { kind, success, has_default_parser: false, ..FluentdOptions::default() };
        let fluentd = FakeFluentd::start(options).await;
        let cluster = Cluster::usual()
            .await
            .with("AUDITSYNC_PIPELINES", "teleport:fluentd")
            .with("FLUENTD_URL", fluentd.url("test.log"))
            .with("FLUENTD_SESSION_URL", fluentd.url("session"))
            .with("TELEPORT_AUDIT_SESSIONS", "true");
        let session = |index| AuditEvent::of_session("session.command", "8d3f-1", index, ago(100));
        cluster
            .auth
            .set_recording("8d3f-1", Recording { events: (0..20).map(session).collect(), ..Recording::default() });
        cluster.auth.push(AuditEvent::logins(0, 50, ago(60)));
        cluster.auth.push([AuditEvent::upload("upload", "8d3f-1", ago(30))]);
        cluster.setup.run_to(0).await;
        let events = fluentd.events();
        let with =
            |wanted: &str| events.iter().filter(|(tag, _)| tag == wanted).map(|(_, event)| event.clone()).collect();
        let (log, session): (Vec<Value>, Vec<Value>) = (with("test.log"), with(tag));
        assert_eq!((log.len(), session.len()), (51, 20), "{:?}", fluentd.requests());
        assert!(log.iter().all(|event| event["evt_time"].is_string()));
        assert_eq!(ids(&log), ids(&cluster.auth.log()));
        assert_eq!(fluentd.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn cloudtrail_to_fluentd_delivers_each_record_once() {
    let fluentd = FakeFluentd::start(FluentdOptions::default()).await;
    let trail = Trail::usual()
        .await
        .with("AUDITSYNC_PIPELINES", "cloudtrail:fluentd")
        .with("FLUENTD_URL", fluentd.url("cloudtrail.log"));
    let records: Vec<_> =
        [(0, 60), (100, 55), (200, 50)].into_iter().flat_map(|(n, slot)| trail.file(ACCOUNT, n, slot, 5, 80)).collect();
    trail.run_to(0).await;
    let id = |record: &str| serde_json::from_str::<Value>(record).unwrap()["eventID"].as_str().unwrap().to_owned();
    let delivered =
        || fluentd.events().iter().map(|(_, event)| event["eventID"].as_str().unwrap().to_owned()).collect();
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    assert_eq!(sorted(delivered()), sorted(records.iter().map(|record| id(record)).collect()));
    trail.run_to(0).await;
    assert_eq!(fluentd.events().len(), records.len(), "none of them again");
    assert!(fluentd.events().iter().all(|(tag, event)| tag == "cloudtrail.log" && event["evt_time"].is_string()));
    assert_eq!(fluentd.violations(), [""; 0]);
}

#[tokio::test]
async fn digicert_to_fluentd_delivers_each_row_once() {
    let reports = Reports::usual().await;
    let fluentd = FakeFluentd::start(FluentdOptions::default()).await;
    let reports =
        reports.with("AUDITSYNC_PIPELINES", "digicert:fluentd").with("FLUENTD_URL", fluentd.url("digicert.log"));
    reports.fake.push(rows(0, 250, 600));
    reports.run_to(0).await;
    assert_eq!(fluentd.events().len(), 250);
    reports.run_to(0).await;
    assert_eq!(fluentd.events().len(), 250, "none of them again");
    assert!(fluentd.events().iter().all(|(tag, _)| tag == "digicert.log"));
    assert_eq!(fluentd.violations(), [""; 0]);
}
