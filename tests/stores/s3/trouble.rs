//! The messages for a store that cannot be used, and how long a call waits for it.

use std::pin::pin;

use auditsync::state::s3::S3;
use auditsync::state::{Error, StateStore as _};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future};
use aws_sdk_s3::config::Credentials;
use tokio::time::{Duration, Instant};

use super::{KEY, MOTO, on, refused, settings, told, unavailable};
use crate::suite::document;
use crate::support::{Conditions, FakeS3, S3Answer};

/// A time longer than any call may take.
const LONG: Duration = Duration::from_secs(6);

#[tokio::test]
async fn what_may_pass_can_be_tried_again() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    for (status, code) in [
        (500, "InternalError"),
        (502, "BadGateway"),
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (504, "GatewayTimeout"),
        (429, "TooManyRequests"),
        (408, "Timeout"),
        (400, "RequestTimeout"),
        (400, "ThrottlingException"),
        (409, "ConditionalRequestConflict"),
        (409, "OperationAborted"),
        (307, "TemporaryRedirect"),
    ] {
        let answer = S3Answer::Error(status, code, "later");
        fake.script([answer.clone(), answer]);
        unavailable(store.load().await, &format!("{status} {code}"));
        unavailable(store.save(&document(1), None).await, &format!("{status} {code}"));
    }
    fake.script([S3Answer::Raw(502, b"<html>Bad Gateway</html>".to_vec()), S3Answer::Unanswered]);
    unavailable(store.load().await, "502: \"<html>Bad Gateway</html>\"");
    unavailable(store.load().await, "cannot read the state");
    fake.go_down().await;
    // The first call may still find an old connection, cut off.
    unavailable(store.load().await, "cannot read the state");
    unavailable(store.load().await, "onnection refused");
}

#[tokio::test]
async fn rejected_credentials_are_reported_with_what_to_do() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    for (status, code, remedy) in [
        (403, "InvalidAccessKeyId", "correct AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "have expired; renew them"),
        (400, "TokenRefreshRequired", "have expired; renew them"),
        (400, "InvalidToken", "correct AWS_SESSION_TOKEN"),
        (403, "RequestTimeTooSkewed", "set the clock"),
        (403, "AllAccessDisabled", "correct what the answer names"),
        (400, "KMS.DisabledException", "correct what the answer names"),
    ] {
        let answer = S3Answer::Error(status, code, "As S3 puts it.");
        fake.script([answer.clone(), answer.clone(), answer]);
        for result in
            [store.load().await.map(drop), store.save(&document(1), None).await.map(drop), store.probe().await]
        {
            let told = refused(result, remedy);
            assert!(
                told.contains(&format!("{status} {code}: \"As S3 puts it.\" (request 4442587FB7D0A2F9)")),
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let store = S3::with_config(settings("no-such-bucket"), &"sectigo:datadog".into(), MOTO.anyone());
    for result in [store.load().await.map(drop), store.save(&document(1), None).await.map(drop), store.probe().await] {
        refused(result, "there is no bucket \"no-such-bucket\": create it, or correct its name");
    }
}

#[tokio::test]
async fn a_bucket_in_another_region_is_reported_with_its_region() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    let malformed = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
    for (answer, remedy) in [
        (S3Answer::Region(301, "PermanentRedirect", "eu-west-1"), "set AWS_REGION=eu-west-1"),
        (S3Answer::Region(400, "AuthorizationHeaderMalformed", "eu-west-1"), "set AWS_REGION=eu-west-1"),
        (S3Answer::Error(400, "AuthorizationHeaderMalformed", malformed), "set AWS_REGION=eu-west-1"),
        (S3Answer::Error(301, "PermanentRedirect", "use the endpoint"), "set AWS_REGION to that one"),
        (S3Answer::Region(301, "PermanentRedirect", "x; rm -rf /"), "set AWS_REGION to that one"),
    ] {
        fake.script([answer.clone(), answer]);
        refused(store.load().await, remedy);
        refused(store.save(&document(1), None).await, remedy);
    }
    assert_eq!(fake.requests().len(), 10, "and no redirect is followed");
}

#[tokio::test]
async fn a_missing_region_is_reported_before_any_call() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let config = fake.anyone().into_builder().region(None).build();
    let store = S3::with_config(settings(FakeS3::BUCKET), &"sectigo:datadog".into(), config);
    refused(store.load().await, "set AWS_REGION");
    assert!(fake.requests().is_empty());
}

/// Credentials that fail to load.
#[derive(Debug)]
struct Failing(fn() -> CredentialsError);

impl ProvideCredentials for Failing {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(self.0()))
    }
}

/// Credentials that never arrive.
#[derive(Debug)]
struct Hanging;

impl ProvideCredentials for Hanging {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(std::future::pending())
    }
}

fn with_credentials(fake: &FakeS3, credentials: impl ProvideCredentials + 'static) -> S3 {
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(fake.url())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build();
    S3::with_config(settings(FakeS3::BUCKET), &"sectigo:datadog".into(), config)
}

#[tokio::test]
async fn missing_credentials_are_reported_with_the_ways_to_give_them() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = with_credentials(&fake, Failing(CredentialsError::not_loaded_no_source));
    let told = refused(store.load().await, "found no AWS credentials; set AWS_ACCESS_KEY_ID");
    for way in ["AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "a role"] {
        assert!(told.contains(way), "{told}");
    }
    let store =
        with_credentials(&fake, Failing(|| CredentialsError::invalid_configuration("a profile without an end")));
    refused(store.load().await, "a profile without an end");
    assert!(fake.requests().is_empty(), "nothing is sent unsigned");
}

#[tokio::test]
async fn a_role_that_is_denied_is_refused_and_one_that_cannot_be_asked_for_is_not() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let denied = || {
        let answer = aws_sdk_s3::error::ErrorMetadata::builder().code("AccessDenied").message("not your role").build();
        CredentialsError::provider_error(answer)
    };
    refused(with_credentials(&fake, Failing(denied)).load().await, "correct the role to assume");
    let down = || CredentialsError::provider_error("the metadata service is down");
    unavailable(with_credentials(&fake, Failing(down)).load().await, "the metadata service is down");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_do_not_come_are_not_waited_for() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let begun = Instant::now();
    unavailable(with_credentials(&fake, Hanging).load().await, "identity resolver timed out");
    assert!(begun.elapsed() < LONG);
}

/// Makes a call of so many requests, the last of which gets no answer.
///
/// A paused clock advances when all tasks wait, even if a request is still on its way. So one task is busy until all
/// have arrived.
async fn unanswered<T>(fake: &FakeS3, requests: usize, call: impl Future<Output = T>) -> T {
    let all = fake.requests().len() + requests;
    let arrived = async {
        while fake.requests().len() < all {
            tokio::task::yield_now().await;
        }
    };
    let mut call = pin!(call);
    tokio::select! {
        biased;
        answer = &mut call => return answer,
        () = arrived => {}
    }
    call.await
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.put(KEY, "{}");
    for answer in [S3Answer::Hang, S3Answer::Stall] {
        for script in [vec![answer.clone()], vec![S3Answer::Pass, answer]] {
            let store = on(&fake);
            let begun = Instant::now();
            fake.script(script.clone());
            if script.len() == 1 {
                unavailable(unanswered(&fake, 1, store.load()).await, "no answer within 5s");
            } else {
                unavailable(unanswered(&fake, 2, store.probe()).await, "no answer within 5s");
            }
            assert!(begun.elapsed() < LONG, "{script:?}: {:?}", begun.elapsed());
        }
    }
    let begun = Instant::now();
    fake.script([S3Answer::Hang]);
    unavailable(unanswered(&fake, 1, on(&fake).save(&document(1), None)).await, "no answer within 5s");
    assert!(begun.elapsed() < LONG);
}

#[tokio::test]
async fn an_object_that_is_too_large_is_no_state() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    fake.put(KEY, vec![b'x'; 1024 * 1024]);
    assert_eq!(store.load().await.unwrap().unwrap().0.as_bytes().len(), 1024 * 1024, "it is the largest that is read");
    fake.put(KEY, vec![b'x'; 1024 * 1024 + 1]);
    let loaded = store.load().await;
    assert!(matches!(&loaded, Err(Error::Corrupt { .. })), "{loaded:?}");
    assert!(told(&loaded.unwrap_err()).contains("larger than 1 MiB"));
    fake.script([S3Answer::Endless(200)]);
    let loaded = store.load().await;
    assert!(matches!(&loaded, Err(Error::Corrupt { .. })), "{loaded:?}");
}

#[tokio::test]
async fn an_answer_without_an_end_is_cut_off() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let store = on(&fake);
    for status in [403, 404, 500] {
        fake.script([S3Answer::Endless(status), S3Answer::Endless(status)]);
        unavailable(store.load().await, "larger than 1 MiB");
        unavailable(store.save(&document(1), None).await, "larger than 1 MiB");
    }
    fake.script([S3Answer::Endless(200)]);
    unavailable(store.save(&document(1), None).await, "larger than 1 MiB");
}

#[tokio::test]
async fn no_secret_is_shown_even_if_the_store_repeats_it() {
    let (secret, token) = ("vErY/secret+key=", "FwoGZXIvYXdzEBYaD//session+token==");
    let fake = FakeS3::start(Conditions::Heeded).await;
    let credentials = Credentials::new("AKIAKNOWN", secret, Some(token.to_owned()), None, "test");
    let store = S3::with_config(settings(FakeS3::BUCKET), &"sectigo:datadog".into(), fake.config(credentials));
    let mut seen = 0;
    for status in [400, 403, 404, 409, 500, 501] {
        for code in ["InvalidToken", "SignatureDoesNotMatch", "NotImplemented", "InternalError", "AccessDenied"] {
            fake.script([S3Answer::Echo(status, code), S3Answer::Echo(status, code)]);
            for result in [store.save(&document(1), None).await.map(drop), store.load().await.map(drop)] {
                // A denied read may be that of a first start.
                let Err(error) = result else { continue };
                seen += usize::from(told(&error).contains("x-amz-security-token=[hidden]"));
                for text in [told(&error), format!("{error:?}")] {
                    for hidden in [secret, token, "FwoGZXIvYXdzEBYaD", "session+token"] {
                        assert!(!text.contains(hidden), "{hidden} is in {text}");
                    }
                }
            }
        }
    }
    assert!(seen > 40, "{seen} errors would have told it");
    let requests = fake.requests();
    assert!(requests.iter().all(|request| request.header("x-amz-security-token") == Some(token)), "it is really sent");
}

#[tokio::test]
async fn a_stores_words_cannot_forge_a_line_of_the_log() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let raw = b"one\nERROR two \x1b[2J".to_vec();
    for (answer, remedy) in [
        (S3Answer::Error(400, "Bad\nERROR", "one\nERROR two"), "correct what the answer names"),
        (S3Answer::Raw(400, raw), "correct AWS_ENDPOINT_URL"),
    ] {
        fake.script([answer]);
        let told = refused(on(&fake).load().await, remedy);
        assert!(!told.contains(['\n', '\u{1b}']), "{told:?}");
    }
}
