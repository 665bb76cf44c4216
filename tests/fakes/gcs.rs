//! Tests the fake Google Cloud Storage itself.

use crate::support::{FakeGcs, GcsOptions};
use reqwest::{Client, Response};
use serde_json::Value;

/// The CRC32C of `123456789` in catalogues of checksums: 0xE3069283.
const CHECKSUM: &str = "4waSgw==";

async fn insert(gcs: &FakeGcs, query: &str, metadata: &str, media: &str, more: &str) -> Response {
    let part = "--b\r\ncontent-type: application/json\r\n\r\n";
    let body = format!("{part}{metadata}\r\n{part}{media}\r\n{more}--b--");
    let url = format!("{}/upload/storage/v1/b/{}/o?{query}", gcs.url(), gcs.bucket());
    let request = Client::new().post(url).header("user-agent", "auditsync/0");
    request.header("content-type", "multipart/related; boundary=b").body(body).send().await.unwrap()
}

async fn read(gcs: &FakeGcs, path: &str) -> Response {
    let url = format!("{}/storage/v1/b/{path}", gcs.url());
    Client::new().get(url).header("user-agent", "auditsync/0").send().await.unwrap()
}

async fn reason(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["code"], status);
    (status, body["error"]["errors"][0]["reason"].as_str().unwrap().to_owned())
}

const FIRST: &str = "uploadType=multipart&name=a%2Fb&ifGenerationMatch=0";

#[tokio::test]
async fn an_object_is_kept_with_its_checksum_and_generation() {
    let gcs = FakeGcs::start(GcsOptions::default()).await;
    let checksum = format!(r#"{{"crc32c":"{CHECKSUM}"}}"#);
    let answer = insert(&gcs, FIRST, &checksum, "123456789", "").await;
    assert_eq!(answer.status(), 200);
    let resource: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(resource["crc32c"], CHECKSUM);

    let answer = read(&gcs, "audit-bucket/o/a%2Fb?alt=media").await;
    assert_eq!(answer.headers()["x-goog-generation"], resource["generation"].as_str().unwrap());
    assert_eq!(answer.headers()["x-goog-hash"], format!("crc32c={CHECKSUM}"));
    assert_eq!(answer.text().await.unwrap(), "123456789");

    // A checksum after the media is valid, too.
    let again = format!("uploadType=multipart&name=a%2Fb&ifGenerationMatch={}", gcs.object("a/b").unwrap().1);
    let behind = format!("--b\r\ncontent-type: application/json\r\n\r\n{checksum}\r\n");
    assert_eq!(insert(&gcs, &again, "{}", "123456789", &behind).await.status(), 200);
    assert_eq!(gcs.violations(), [""; 0]);
}

#[tokio::test]
async fn conditions_and_what_is_missing_are_answered_as_google_does() {
    let gcs = FakeGcs::start(GcsOptions::default()).await;
    let checksum = format!(r#"{{"crc32c":"{CHECKSUM}"}}"#);
    for condition in [1, i64::MAX] {
        let query = format!("uploadType=multipart&name=a%2Fb&ifGenerationMatch={condition}");
        let answer = insert(&gcs, &query, &checksum, "123456789", "").await;
        assert_eq!(reason(answer).await, (412, "conditionNotMet".to_owned()));
    }
    assert_eq!(insert(&gcs, FIRST, &checksum, "123456789", "").await.status(), 200);
    let answer = insert(&gcs, FIRST, &checksum, "123456789", "").await;
    assert_eq!(reason(answer).await, (412, "conditionNotMet".to_owned()));
    assert_eq!(reason(read(&gcs, "other/o/a%2Fb?alt=media").await).await, (404, "notFound".to_owned()));
    let missing = read(&gcs, "audit-bucket/o/a?alt=media").await;
    assert_eq!(
        (missing.status().as_u16(), missing.text().await.unwrap().as_str()),
        (404, "No such object: audit-bucket/a")
    );
    assert_eq!(gcs.violations(), [""; 0]);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_kept() {
    let checksum = format!(r#"{{"crc32c":"{CHECKSUM}"}}"#);
    let named = format!(r#"{{"crc32c":"{CHECKSUM}","name":"c"}}"#);
    for (query, metadata, breach) in [
        ("uploadType=multipart&name=a%2Fb", checksum.as_str(), "no condition"),
        ("uploadType=media&name=a%2Fb&ifGenerationMatch=0", &checksum, "uploadType"),
        (&format!("{FIRST}&fields=name"), &checksum, "parameter \"fields\""),
        (FIRST, r#"{"crc32c":"AAAAAA=="}"#, "CRC32C"),
        (FIRST, "{}", "no CRC32C"),
        (FIRST, "{", "no JSON"),
        (FIRST, &named, "named \"c\""),
    ] {
        let gcs = FakeGcs::start(GcsOptions::default()).await;
        let answer = insert(&gcs, query, metadata, "123456789", "").await;
        assert_eq!(reason(answer).await, (400, "badRequest".to_owned()), "{breach}");
        assert!(gcs.violations()[0].contains(breach), "{:?}", gcs.violations());
        assert_eq!(gcs.object("a/b"), None);
    }
    let gcs = FakeGcs::start(GcsOptions::default()).await;
    read(&gcs, "audit-bucket/o/a").await;
    read(&gcs, "audit-bucket").await;
    assert_eq!(gcs.violations().len(), 2, "{:?}", gcs.violations());
}
