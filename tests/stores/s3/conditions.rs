//! The program detects and refuses stores without S3's conditional writes.

use auditsync::state::s3::{Encryption, Settings};
use auditsync::state::{Error, StateStore as _, Version};

use super::{KEY, not_conditional, on, refused, settings, told, unavailable, with};
use crate::suite::document;
use crate::support::{Conditions, FakeS3, S3Answer};

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_before_anything_is_saved() {
    let fake = FakeS3::start(Conditions::Ignored).await;
    not_conditional(on(&fake).probe().await, "the object audit/auditsync-sectigo-datadog.json.probe was left behind");
    assert!(fake.object(KEY).is_none());
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_and_the_document_keeps_its_bytes() {
    for conditions in [Conditions::Ignored, Conditions::OnlyIfMatch] {
        let fake = FakeS3::start(conditions).await;
        fake.put(KEY, "precious");
        not_conditional(on(&fake).probe().await, "although the condition was not met");
        assert_eq!(fake.object(KEY).unwrap(), "precious");
        assert_eq!(fake.keys(), [KEY]);
    }
}

#[tokio::test]
async fn a_store_without_conditions_says_so_and_is_refused() {
    let fake = FakeS3::start(Conditions::NotImplemented).await;
    let store = on(&fake);
    not_conditional(store.probe().await, "501 NotImplemented");
    not_conditional(store.save(&document(1), None).await, "If-None-Match: *");
    not_conditional(store.save(&document(1), Some(&Version("\"1\"".to_owned()))).await, "If-Match");
    assert_eq!(fake.keys(), [""; 0]);
    fake.put(KEY, "precious");
    not_conditional(store.probe().await, "501 NotImplemented");
}

#[tokio::test]
async fn a_store_without_encryption_is_not_taken_for_one_without_conditions() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let encrypted = Settings { encryption: Some(Encryption::Aes256), ..settings(FakeS3::BUCKET) };
    let answer = "Server side encryption specified but KMS is not configured";
    fake.script([S3Answer::Error(501, "NotImplemented", answer)]);
    let told = refused(with(encrypted, &fake).save(&document(1), None).await, "correct the encryption");
    assert!(told.contains(answer), "{told}");
}

#[tokio::test]
async fn a_store_without_tags_is_refused() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    fake.script([S3Answer::NoTag]);
    not_conditional(store.save(&document(1), None).await, "without an ETag");
    fake.script([S3Answer::NoTag, S3Answer::NoTag]);
    not_conditional(store.load().await, "without an ETag");
    not_conditional(store.probe().await, "without an ETag");
}

#[tokio::test]
async fn a_probe_of_a_good_store_leaves_nothing_behind() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    store.probe().await.unwrap();
    assert_eq!(fake.keys(), [""; 0]);
    store.save(&document(1), None).await.unwrap();
    store.probe().await.unwrap();
    assert_eq!(fake.keys(), [KEY]);
    let requests = fake.requests();
    let unguarded = requests
        .iter()
        .filter(|r| r.method == "PUT" && r.header("if-match").is_none() && r.header("if-none-match").is_none());
    assert_eq!(unguarded.count(), 0, "every write names a condition");
}

#[tokio::test]
async fn a_probe_that_meets_another_write_proves_nothing_and_can_be_repeated() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    store.save(&document(1), None).await.unwrap();
    let conflict =
        || S3Answer::Error(409, "ConditionalRequestConflict", "A conflicting conditional operation is in progress");
    fake.script([S3Answer::Pass, conflict()]);
    unavailable(store.probe().await, "409 ConditionalRequestConflict");
    fake.script([S3Answer::Pass, S3Answer::Pass, conflict()]);
    unavailable(store.probe().await, "409 ConditionalRequestConflict");
}

#[tokio::test]
async fn a_conflict_tells_the_stores_answer() {
    let fake = FakeS3::start(Conditions::NeverMet).await;
    let error = on(&fake).save(&document(1), None).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    assert!(told(&error).contains("412 PreconditionFailed"), "{}", told(&error));
}
