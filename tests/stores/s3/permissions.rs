//! The permissions that the store needs, and its message without one: with moto's IAM, and with a fake for S3's answer
//! to callers that may not list.

use auditsync::state::s3::{Encryption, S3, Settings};
use auditsync::state::{Error, StateStore as _};
use tokio::sync::OnceCell;

use super::{KEY, on, refused, settings, told, with};
use crate::log;
use crate::suite::{conflicts, document, held};
use crate::support::{Conditions, FakeS3, Keys, Moto, S3Answer, S3Permissions};

const MAY_NOT_LIST: S3Permissions = S3Permissions { list: false, get: true, put: true };
const MAY_NOT_READ: S3Permissions = S3Permissions { list: false, get: false, put: true };

/// A moto that checks signatures and policies.
struct Strict {
    moto: Moto,
    bucket: String,
    users: Vec<(&'static str, Keys)>,
}

/// Policies that allow only these actions, on the keys that the error messages name.
const POLICIES: [(&str, &str); 3] = [
    ("reads-and-writes", r#""s3:GetObject","s3:PutObject""#),
    ("reads", r#""s3:GetObject""#),
    ("writes", r#""s3:PutObject""#),
];

impl Strict {
    async fn get() -> &'static Self {
        static STRICT: OnceCell<Strict> = OnceCell::const_new();
        STRICT
            .get_or_init(|| async {
                let moto = Moto::start();
                let bucket = moto.bucket().await;
                let mut users = Vec::new();
                for (name, actions) in POLICIES {
                    let policy = format!(
                        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":[{actions}],
                        "Resource":"arn:aws:s3:::{bucket}/*/auditsync-sectigo-datadog.json*"}}]}}"#
                    );
                    users.push((name, moto.user(name, &policy).await));
                }
                moto.check_everyone().await;
                Self { moto, bucket, users }
            })
            .await
    }

    fn keys(&self, user: &str) -> &Keys {
        &self.users.iter().find(|(name, _)| *name == user).unwrap().1
    }

    fn store(&self, location: &str, keys: &Keys) -> S3 {
        let settings = Settings { prefix: location.to_owned(), ..settings(&self.bucket) };
        S3::with_config(settings, &"sectigo:datadog".into(), self.moto.config(keys))
    }
}

#[tokio::test]
async fn getting_and_putting_objects_is_all_that_has_to_be_granted() {
    let strict = Strict::get().await;
    let store = strict.store("enough", strict.keys("reads-and-writes"));
    store.probe().await.unwrap();
    assert!(store.load().await.unwrap().is_none());
    let version = store.save(&document(1), None).await.unwrap();
    store.probe().await.unwrap();
    conflicts(&store, store.save(&document(2), None).await);
    store.save(&document(2), Some(&version)).await.unwrap();
    held(&store).await;
}

#[tokio::test]
async fn a_missing_permission_to_write_names_what_to_grant() {
    let strict = Strict::get().await;
    let store = strict.store("read-only", strict.keys("reads"));
    let grant = format!("on arn:aws:s3:::{}/read-only/auditsync-sectigo-datadog.json*", strict.bucket);
    refused(store.save(&document(1), None).await, &format!("grant s3:PutObject {grant}"));
    refused(store.probe().await, &format!("grant s3:PutObject and, for If-Match, s3:GetObject {grant}"));
}

#[tokio::test]
async fn a_missing_permission_to_read_names_what_to_grant_once_a_state_is_there() {
    let strict = Strict::get().await;
    let writer = strict.keys("writes");
    strict.store("write-only", strict.keys("reads-and-writes")).save(&document(1), None).await.unwrap();
    let store = strict.store("write-only", writer);
    assert!(store.load().await.unwrap().is_none(), "it might be missing");
    refused(store.save(&document(2), None).await, "grant s3:GetObject on");
}

#[tokio::test]
async fn unknown_and_wrong_keys_have_different_messages() {
    let strict = Strict::get().await;
    let right = strict.keys("reads-and-writes");
    let wrong = Keys { id: right.id.clone(), secret: "not-the-secret-key".to_owned() };
    let told = refused(strict.store("keys", &wrong).load().await, "correct AWS_SECRET_ACCESS_KEY");
    assert!(!told.contains("not-the-secret-key"), "{told}");
    let unknown = Keys { id: "AKIAUNKNOWN".to_owned(), secret: "x".to_owned() };
    refused(strict.store("keys", &unknown).load().await, "correct AWS_ACCESS_KEY_ID");
}

#[tokio::test]
async fn the_key_service_is_named_where_it_is_used() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.grant(S3Permissions { list: true, get: true, put: false });
    for (encryption, named) in [
        (Some(Encryption::Kms { key_id: None }), true),
        (Some(Encryption::KmsDsse { key_id: None }), true),
        (Some(Encryption::Aes256), false),
        (None, false),
    ] {
        let store = with(Settings { encryption, ..settings(FakeS3::BUCKET) }, &fake);
        let told = refused(store.save(&document(1), None).await, "grant s3:PutObject");
        assert_eq!(told.contains("kms:GenerateDataKey and kms:Decrypt"), named, "{told}");
    }
}

#[tokio::test]
async fn without_list_bucket_a_first_start_is_one() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.grant(MAY_NOT_LIST);
    let store = on(&fake);
    store.probe().await.unwrap();
    assert!(store.load().await.unwrap().is_none());
    let version = store.save(&document(1), None).await.unwrap();
    assert_eq!(held(&store).await.1, version);
    store.probe().await.unwrap();
    store.save(&document(2), Some(&version)).await.unwrap();
    assert_eq!(fake.keys(), [KEY]);
}

#[tokio::test]
async fn without_list_bucket_a_state_that_may_not_be_read_is_not_taken_for_a_first_start() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.put(KEY, "precious");
    fake.grant(MAY_NOT_READ);
    let store = on(&fake);
    store.probe().await.unwrap();
    assert!(store.load().await.unwrap().is_none());
    let told = refused(store.save(&document(1), None).await, "grant s3:GetObject on arn:aws:s3:::bucket/audit/");
    assert!(told.contains("not allowed to read the state at s3://bucket/audit/"), "{told}");
    assert_eq!(fake.object(KEY).unwrap(), "precious");
}

#[tokio::test]
async fn without_list_bucket_another_first_start_at_the_same_time_is_a_conflict() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.grant(MAY_NOT_LIST);
    let (one, other) = (on(&fake), on(&fake));
    assert!(one.load().await.unwrap().is_none());
    assert!(other.load().await.unwrap().is_none());
    one.save(&document(1), None).await.unwrap();
    conflicts(&other, other.save(&document(2), None).await);
}

#[tokio::test]
async fn a_state_that_was_there_is_never_taken_for_a_first_start() {
    for first in ["load", "save"] {
        let fake = FakeS3::start(Conditions::Heeded).await;
        let store = on(&fake);
        if first == "save" {
            store.save(&document(1), None).await.unwrap();
        } else {
            fake.put(KEY, "{}");
            held(&store).await;
        }
        fake.grant(MAY_NOT_READ);
        refused(store.load().await, "grant s3:GetObject on");
    }
}

#[tokio::test]
async fn a_refusal_of_someone_else_is_not_taken_for_a_first_start() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    let page = b"<!doctype html><title>Forbidden</title>".to_vec();
    for status in [403, 404] {
        fake.script([S3Answer::Raw(status, page.clone())]);
        refused(store.load().await, "correct AWS_ENDPOINT_URL");
    }
}

#[tokio::test]
async fn a_probe_without_list_bucket_still_finds_refused_keys() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.grant(MAY_NOT_LIST);
    fake.script([S3Answer::Pass, S3Answer::Error(403, "InvalidAccessKeyId", "The key does not exist")]);
    refused(on(&fake).probe().await, "correct AWS_ACCESS_KEY_ID");
}

#[tokio::test]
async fn taking_a_denial_for_a_first_start_is_said_once() {
    log::keep();
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.grant(MAY_NOT_LIST);
    let store = with(Settings { prefix: "said-once".to_owned(), ..settings(FakeS3::BUCKET) }, &fake);
    for _ in 0..3 {
        assert!(store.load().await.unwrap().is_none());
    }
    let warnings = log::lines(&store.location());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("WARN") && warnings[0].contains("s3:ListBucket is not granted"), "{warnings:?}");
}

#[tokio::test]
async fn a_conflict_is_reported_even_where_the_look_after_it_fails() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.grant(MAY_NOT_LIST);
    let store = on(&fake);
    assert!(store.load().await.unwrap().is_none());
    fake.put(KEY, "{}");
    fake.script([S3Answer::Pass, S3Answer::Error(500, "InternalError", "We encountered an internal error.")]);
    let saved = store.save(&document(1), None).await;
    assert!(matches!(&saved, Err(Error::Conflict { .. })), "{}", told(&saved.unwrap_err()));
}
