//! The requests that the store makes.

use std::collections::BTreeSet;

use auditsync::state::s3::{Encryption, S3, Settings};
use auditsync::state::{Error, StateStore as _, Version};

use super::{KEY, on, settings, unavailable, with};
use crate::suite::{document, held};
use crate::support::{Conditions, FakeS3, S3Answer};

#[tokio::test]
async fn the_object_is_named_for_the_source_under_the_prefix() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    for (prefix, key) in [
        ("", "auditsync-sectigo-datadog.json"),
        ("audit", "audit/auditsync-sectigo-datadog.json"),
        ("a b/ü", "a b/ü/auditsync-sectigo-datadog.json"),
    ] {
        let store = with(Settings { prefix: prefix.to_owned(), ..settings(FakeS3::BUCKET) }, &fake);
        assert_eq!(store.location(), format!("s3://bucket/{key}"));
        store.save(&document(1), None).await.unwrap();
        assert!(store.load().await.unwrap().is_some());
    }
    let keys = fake.keys().into_iter().collect::<BTreeSet<_>>();
    assert!(
        keys.contains("auditsync-sectigo-datadog.json") && keys.contains("audit/auditsync-sectigo-datadog.json"),
        "{keys:?}"
    );
}

#[tokio::test]
async fn a_save_names_what_it_replaces_word_for_word() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    let version = store.save(&document(1), None).await.unwrap();
    store.save(&document(2), Some(&version)).await.unwrap();
    let requests = fake.requests();
    let conditions = requests.iter().map(|put| (put.header("if-none-match"), put.header("if-match")));
    assert_eq!(conditions.collect::<Vec<_>>(), [(Some("*"), None), (None, Some(version.0.as_str()))]);
    assert!(version.0.starts_with('"'), "with its quotes: {version:?}");
}

#[tokio::test]
async fn nothing_is_asked_of_a_store_that_older_ones_refuse() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    store.save(&document(1), None).await.unwrap();
    store.load().await.unwrap();
    for request in fake.requests() {
        for name in request.headers.keys() {
            assert!(!name.as_str().contains("checksum") && name != "x-amz-trailer", "{name}");
        }
        assert_ne!(request.header("content-encoding"), Some("aws-chunked"));
        let agent = request.header("user-agent").unwrap();
        assert!(agent.contains(concat!("app/auditsync-", env!("CARGO_PKG_VERSION"))), "{agent}");
    }
}

#[tokio::test]
async fn nothing_is_tried_twice() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    let failing = S3Answer::Error(503, "SlowDown", "Please reduce your request rate.");
    fake.script([failing.clone(), failing.clone(), failing]);
    unavailable(store.load().await, "503 SlowDown");
    unavailable(store.save(&document(1), None).await, "503 SlowDown");
    unavailable(store.probe().await, "503 SlowDown");
    assert_eq!(fake.requests().len(), 3);
}

#[tokio::test]
async fn every_write_asks_for_the_encryption_that_is_configured() {
    let key = || Some("arn:aws:kms:eu-west-1:1:key/k".to_owned());
    for (encryption, algorithm, key_id) in [
        (Encryption::Aes256, "AES256", None),
        (Encryption::Kms { key_id: None }, "aws:kms", None),
        (Encryption::Kms { key_id: key() }, "aws:kms", key()),
        (Encryption::KmsDsse { key_id: None }, "aws:kms:dsse", None),
        (Encryption::KmsDsse { key_id: key() }, "aws:kms:dsse", key()),
    ] {
        let fake = FakeS3::start(Conditions::Heeded).await;
        let encryption = Some(encryption.clone());
        let store = with(Settings { encryption, ..settings(FakeS3::BUCKET) }, &fake);
        store.probe().await.unwrap();
        let version = store.save(&document(1), None).await.unwrap();
        store.probe().await.unwrap();
        store.save(&document(2), Some(&version)).await.unwrap();
        let requests = fake.requests();
        let writes: Vec<_> = requests.iter().filter(|request| request.method == "PUT").collect();
        assert!(writes.len() >= 4);
        for write in writes {
            assert_eq!(write.header("x-amz-server-side-encryption"), Some(algorithm));
            assert_eq!(write.header("x-amz-server-side-encryption-aws-kms-key-id"), key_id.as_deref());
        }
    }
}

#[tokio::test]
async fn without_one_the_bucket_decides_on_encryption() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    on(&fake).save(&document(1), None).await.unwrap();
    assert_eq!(fake.requests()[0].header("x-amz-server-side-encryption"), None);
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_store_usable() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    fake.script([S3Answer::Hang]);
    let arrived = async {
        while fake.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    // The clock stands still meanwhile, so that no standstill of this process makes the call late.
    tokio::time::pause();
    tokio::select! {
        biased;
        () = arrived => {}
        _ = store.load() => panic!("there was no answer"),
    }
    tokio::time::resume();
    store.save(&document(1), None).await.unwrap();
    assert_eq!(held(&store).await.0, document_of(&fake));
}

fn document_of(fake: &FakeS3) -> auditsync::state::Document {
    auditsync::state::Document::from_bytes(fake.object(KEY).unwrap().to_vec())
}

#[tokio::test]
async fn an_unanswered_save_may_be_done_and_is_found_by_a_look() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    fake.script([S3Answer::Unanswered]);
    unavailable(store.save(&document(1), None).await, "cannot write the state at s3://bucket/audit");
    let (found, version) = held(&store).await;
    assert_eq!(found, document_of(&fake));
    store.save(&document(2), Some(&version)).await.unwrap();
}

#[tokio::test]
async fn a_version_that_no_header_can_carry_is_refused_and_not_sent() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store: S3 = on(&fake);
    let saved = store.save(&document(1), Some(&Version("a\r\nb".to_owned()))).await;
    assert!(matches!(&saved, Err(Error::Refused { .. })), "{saved:?}");
    assert!(fake.requests().is_empty());
}
