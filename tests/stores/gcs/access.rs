//! Permissions and credentials: which calls are refused, and what the message advises the operator to do.

use std::sync::{Arc, Mutex};

use auditsync::state::gcs::{Gcs, Settings};
use auditsync::state::{Error, StateStore};
use google_cloud_auth::credentials::{external_account, mds, user_account};
use serde_json::json;

use super::{NAME, fake_and_store, message, refused, settings, store_at, unavailable};
use crate::log;
use crate::suite::{bytes, conflicts, held};
use crate::support::{FakeGcs, Fault, GcsOptions, GcsPermissions};

const REFRESH_TOKEN: &str = "1//0gLx7Qw5mN2pRCgYIARAAGBASNwF-L9IrXyZ";
const CLIENT_SECRET: &str = "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";

/// Every permission but one.
fn without(change: impl FnOnce(&mut GcsPermissions)) -> GcsOptions {
    let mut permissions = GcsPermissions::ALL;
    change(&mut permissions);
    GcsOptions { permissions, ..GcsOptions::default() }
}

#[tokio::test]
async fn a_first_save_that_is_forbidden_names_the_permission_to_create() {
    let (fake, store) = fake_and_store(without(|may| may.create = false)).await;
    assert!(store.load().await.unwrap().is_none());
    let named = ["not allowed to write", "grant storage.objects.create on the bucket \"audit-bucket\""];
    refused(store.save(&bytes(b"{}"), None).await, &named);
    refused(store.probe().await, &named);
    assert_eq!(fake.object(NAME), None);
}

#[tokio::test]
async fn a_replacement_that_is_forbidden_names_the_permission_to_delete() {
    let (fake, store) = fake_and_store(without(|may| may.delete = false)).await;
    let version = store.save(&bytes(b"1"), None).await.unwrap();
    let named = ["not allowed to write", "grant storage.objects.delete on the bucket \"audit-bucket\""];
    refused(store.save(&bytes(b"2"), Some(&version)).await, &named);
    assert_eq!(fake.object(NAME).unwrap().0, b"1");
    fake.permit(GcsPermissions::ALL);
    store.save(&bytes(b"2"), Some(&version)).await.unwrap();
}

#[tokio::test]
async fn a_refusal_that_names_no_permission_names_all_that_it_takes() {
    let (fake, store) = fake_and_store(GcsOptions::default()).await;
    let retained = r#"{"error":{"code":403,"message":"Object is subject to bucket's retention policy"}}"#;
    fake.answer_always(Some(Fault::StatusWithBody(403, retained.to_owned())));
    let version = auditsync::state::Version("7".to_owned());
    let named =
        ["storage.objects.create and storage.objects.delete", "retention policy, a hold", "Object is subject to"];
    refused(store.save(&bytes(b"{}"), Some(&version)).await, &named);
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named() {
    let fake = FakeGcs::start(GcsOptions::default()).await;
    let store = Gcs::new(Settings { bucket: "adit-bucket".to_owned(), ..settings(&fake) }, &"sectigo:datadog".into());
    let named = ["there is no bucket \"adit-bucket\": create it, or correct its name", "gs://adit-bucket/"];
    refused(store.load().await, &named);
    refused(store.save(&bytes(b"{}"), None).await, &named);
    refused(store.probe().await, &named);
}

/// Google does not tell callers whether an object exists if they may not list the bucket.
mod where_google_does_not_say_what_exists {
    use super::*;

    #[tokio::test]
    async fn a_first_start_is_a_first_start() {
        log::keep();
        let own = GcsOptions { bucket: "a-first-start".to_owned(), ..without(|may| may.list = false) };
        let (fake, store) = fake_and_store(own).await;
        assert!(store.load().await.unwrap().is_none());
        assert!(store.load().await.unwrap().is_none());
        store.probe().await.unwrap();
        let warnings = log::lines(&store.location());
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("assumes a first start"), "{warnings:?}");
        let version = store.save(&bytes(b"1"), None).await.unwrap();
        assert_eq!(held(&store).await, (bytes(b"1"), version.clone()));
        store.save(&bytes(b"2"), Some(&version)).await.unwrap();
        assert_eq!(fake.violations(), [""; 0]);
    }

    #[tokio::test]
    async fn a_state_that_may_not_be_read_is_not_a_first_start() {
        let (fake, store) = fake_and_store(without(|may| may.get = false)).await;
        fake.put(NAME, b"precious");
        assert!(store.load().await.unwrap().is_none(), "it cannot be known yet");
        let named = [
            "the object exists, but auditsync may not read it: grant storage.objects.get on the bucket \"audit-bucket\"",
        ];
        refused(store.save(&bytes(b"{}"), None).await, &named);
        refused(store.load().await, &named);
        assert_eq!(fake.object(NAME).unwrap().0, b"precious");
        // When the store may read the object, it is simply there.
        fake.permit(GcsPermissions::ALL);
        assert_eq!(held(&store).await.0, bytes(b"precious"));
        conflicts(&store, store.save(&bytes(b"{}"), None).await);
    }

    #[tokio::test]
    async fn of_two_first_starts_the_later_finds_the_state_of_the_other() {
        let (fake, store) = fake_and_store(without(|may| may.list = false)).await;
        assert!(store.load().await.unwrap().is_none());
        store_at(&fake).save(&bytes(b"the other's"), None).await.unwrap();
        conflicts(&store, store.save(&bytes(b"ours"), None).await);
        assert_eq!(held(&store).await.0, bytes(b"the other's"));
    }

    #[tokio::test]
    async fn a_state_that_was_seen_is_not_taken_for_missing() {
        for seen_by_reading in [true, false] {
            let (fake, store) = fake_and_store(GcsOptions::default()).await;
            if seen_by_reading {
                fake.put(NAME, b"{}");
                held(&store).await;
            } else {
                store.save(&bytes(b"{}"), None).await.unwrap();
            }
            fake.permit(GcsPermissions { get: false, ..GcsPermissions::ALL });
            refused(store.load().await, &["not allowed to read", "grant storage.objects.get"]);
            refused(store.probe().await, &["not allowed to read", "grant storage.objects.get"]);
        }
    }
}

/// A fake that requires access tokens, and a store with the kind of credentials that `gcloud` leaves on a disk. The
/// store uses the refresh token that is in the "file" when it reads it.
struct Login {
    fake: FakeGcs,
    file: Arc<Mutex<String>>,
    store: Gcs,
}

impl Login {
    async fn with(refresh_token: &str) -> Self {
        let options = GcsOptions { refresh_token: Some(REFRESH_TOKEN.to_owned()), ..GcsOptions::default() };
        let fake = FakeGcs::start(options).await;
        let file = Arc::new(Mutex::new(refresh_token.to_owned()));
        let (read, token_url) = (Arc::clone(&file), fake.token_url());
        let store = Gcs::with_credentials(settings(&fake), &"sectigo:datadog".into(), move || {
            let login = json!({
                "type": "authorized_user",
                "client_id": "764086051850.apps.googleusercontent.com",
                "client_secret": CLIENT_SECRET,
                "refresh_token": *read.lock().unwrap(),
                "token_uri": token_url,
            });
            user_account::Builder::new(login).build()
        });
        Self { fake, file, store }
    }
}

const WHERE: [&str; 3] = ["GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth application-default login", "metadata server"];

#[tokio::test]
async fn one_access_token_serves_many_calls() {
    let Login { fake, store, .. } = Login::with(REFRESH_TOKEN).await;
    let mut version = store.save(&bytes(b"0"), None).await.unwrap();
    for _ in 0..3 {
        version = store.save(&bytes(b"0"), Some(&version)).await.unwrap();
        assert_eq!(held(&store).await.1, version);
    }
    assert_eq!((fake.token_requests(), fake.requests()), (1, 7));
}

#[tokio::test]
async fn a_login_that_was_revoked_is_refused_and_a_new_one_is_taken_without_a_restart() {
    let Login { fake, file, store } = Login::with("revoked").await;
    for _ in 0..2 {
        let message = refused(store.load().await, &WHERE);
        assert!(message.contains("invalid_grant"), "{message}");
    }
    assert_eq!((fake.token_requests(), fake.requests()), (2, 0), "one try to a call");
    REFRESH_TOKEN.clone_into(&mut file.lock().unwrap());
    assert!(store.load().await.unwrap().is_none());
}

#[tokio::test]
async fn an_access_token_that_was_revoked_is_refused_and_a_new_one_fetched_at_the_next_call() {
    let Login { fake, store, .. } = Login::with(REFRESH_TOKEN).await;
    let version = store.save(&bytes(b"1"), None).await.unwrap();
    fake.revoke_access_tokens();
    let before = fake.requests();
    refused(store.save(&bytes(b"2"), Some(&version)).await, &WHERE);
    assert_eq!((fake.token_requests(), fake.requests() - before), (1, 1), "one try to a call");
    store.save(&bytes(b"2"), Some(&version)).await.unwrap();
    assert_eq!(fake.token_requests(), 2);
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_refused() {
    let fake = FakeGcs::start(GcsOptions::default()).await;
    let incomplete = || user_account::Builder::new(json!({ "type": "authorized_user" })).build();
    let store = Gcs::with_credentials(settings(&fake), &"sectigo:datadog".into(), incomplete);
    let message = refused(store.load().await, &WHERE);
    assert!(message.contains("client_id"), "{message}");

    let without_subject = || external_account::Builder::new(json!({ "type": "external_account" })).build();
    refused(Gcs::with_credentials(settings(&fake), &"sectigo:datadog".into(), without_subject).load().await, &WHERE);
    assert_eq!(fake.hits(), 0);
}

#[tokio::test]
async fn a_machine_without_a_metadata_server_has_no_credentials() {
    let fake = FakeGcs::start(GcsOptions::default()).await;
    // A part of a name has at most 63 letters, so the resolver fails without a query.
    let nowhere = || mds::Builder::default().with_endpoint(format!("http://{}.invalid", "x".repeat(64))).build();
    let message =
        refused(Gcs::with_credentials(settings(&fake), &"sectigo:datadog".into(), nowhere).load().await, &WHERE);
    assert!(message.contains("dns error"), "{message}");
}

#[tokio::test]
async fn a_metadata_server_that_does_not_answer_yet_may_do_so_later() {
    let fake = FakeGcs::start(GcsOptions::default()).await;
    let metadata = FakeGcs::start(GcsOptions::default()).await;
    metadata.go_down().await;
    let url = metadata.url();
    let starting = move || mds::Builder::default().with_endpoint(&url).build();
    unavailable(Gcs::with_credentials(settings(&fake), &"sectigo:datadog".into(), starting).load().await);
}

#[tokio::test]
async fn a_token_endpoint_that_is_down_may_work_later() {
    let Login { fake, store, .. } = Login::with(REFRESH_TOKEN).await;
    for fault in [Fault::Status(503), Fault::Status(429), Fault::Reset] {
        let before = fake.token_requests();
        fake.answer_tokens_always(Some(fault));
        unavailable(store.load().await);
        assert_eq!(fake.token_requests() - before, 1, "one try to a call");
    }
    fake.answer_tokens_always(None);
    assert!(store.load().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_endpoint_that_never_answers_does_not_hold_a_call_up_for_ever() {
    let Login { fake, store, .. } = Login::with(REFRESH_TOKEN).await;
    fake.answer_tokens_always(Some(Fault::Hang));
    let message = unavailable(store.load().await);
    assert!(message.contains("no access token within 5 s"), "{message}");
}

#[tokio::test]
async fn no_secret_that_the_other_side_repeats_is_shown() {
    let Login { fake, store, .. } = Login::with(REFRESH_TOKEN).await;
    let hidden = |error: &Error| {
        for told in [message(error), format!("{error:?}")] {
            assert!(told.contains("[hidden]"), "the echo is there: {told}");
            for secret in ["ya29.a0", "0gLx7Qw5mN2p", "4f0Kd9QwErTy"] {
                assert!(!told.contains(secret), "{told}");
            }
        }
    };
    fake.answer_tokens_always(Some(Fault::EchoAuthorization(400)));
    hidden(&store.load().await.unwrap_err());
    fake.answer_tokens_always(None);
    for status in [400, 401, 403, 503] {
        fake.script(Fault::EchoAuthorization(status));
        hidden(&store.save(&bytes(b"{}"), None).await.unwrap_err());
    }
}
