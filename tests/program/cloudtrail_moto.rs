//! Tests `CloudTrail`'s log files in a real S3 server.

use wiremock::matchers::body_string_contains;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::archive::MOTO;
use crate::cloudtrail::{ACCOUNT, OTHER, lines, reading, to};
use crate::stage::sorted;
use crate::support::{Bucket, FakeIntake, IntakeOptions, Moto, REGION, log_file, log_key, minutes_ago, trail_record};

/// Puts log files into a bucket, with this many records each.
async fn put(bucket: &Bucket, account: &str, files: std::ops::Range<usize>, records: usize) -> Vec<String> {
    let mut all = Vec::new();
    for n in files {
        let slot = minutes_ago(i64::try_from(60 - n % 50).unwrap());
        let records: Vec<_> = (0..records).map(|more| trail_record(account, n * records + more, slot)).collect();
        bucket.put(&log_key(account, REGION, slot, n), log_file(&records)).await;
        all.extend(records);
    }
    all.sort();
    all
}

#[tokio::test]
async fn a_bucket_is_delivered_to_standard_output_and_then_only_what_is_new() {
    let bucket = Bucket::of(&MOTO).await;
    let setup = reading(MOTO.url(), &bucket.name);
    let first = put(&bucket, ACCOUNT, 0..20, 50).await;
    assert_eq!(sorted(lines(&setup.run_to(0).await)), first);
    let second = put(&bucket, OTHER, 20..25, 50).await;
    assert_eq!(sorted(lines(&setup.run_to(0).await)), second);
    assert_eq!(lines(&setup.run_to(0).await), [""; 0]);
}

#[tokio::test]
async fn a_bucket_arrives_at_datadog_although_the_process_is_killed() {
    let (bucket, intake) = (Bucket::of(&MOTO).await, FakeIntake::start(IntakeOptions::default()).await);
    let setup = to(reading(MOTO.url(), &bucket.name), &intake);
    let records = put(&bucket, ACCOUNT, 0..30, 100).await;
    intake.hold();
    let daemon = setup.start(&["run", "--once"]);
    intake.wait_for_requests(1).await;
    daemon.signal("KILL").await;
    daemon.ended().await;
    intake.release();
    setup.run_to(0).await;
    assert_eq!(intake.ids().len(), records.len());
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn check_names_the_permission_that_is_missing() {
    let moto = Moto::start();
    let bucket = Bucket::of(&moto).await;
    put(&bucket, ACCOUNT, 0..1, 3).await;
    let name = bucket.name.as_str();
    let statement = |action: &str, what: &str| {
        format!(r#"{{"Effect":"Allow","Action":"{action}","Resource":"arn:aws:s3:::{name}{what}"}}"#)
    };
    let (list, get) = (statement("s3:ListBucket", ""), statement("s3:GetObject", "/AWSLogs/*"));
    let policy = |statements: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
    let all = moto.user("all", &policy(&format!("{list},{get}"))).await;
    let no_get = moto.user("no-get", &policy(&list)).await;
    let no_list = moto.user("no-list", &policy(&get)).await;
    moto.check_everyone().await;
    let grant_get = format!("grant s3:GetObject on arn:aws:s3:::{name}/*");
    let grant_list = format!("grant s3:ListBucket on arn:aws:s3:::{name}");
    for (keys, code, said) in [(all, 0, "has 3 records"), (no_get, 77, &*grant_get), (no_list, 77, &*grant_list)] {
        let setup = reading(moto.url(), name);
        let setup = setup.with("AWS_ACCESS_KEY_ID", keys.id).with("AWS_SECRET_ACCESS_KEY", keys.secret);
        let ended = setup.run(&["check"]).await;
        assert_eq!(ended.code(), Some(code), "{}", ended.everything());
        assert!(ended.everything().contains(said), "{said}: {}", ended.everything());
    }
}

#[tokio::test]
async fn a_role_in_another_account_is_assumed_with_its_external_id() {
    // Moto does not look at the external id.
    let sts = MockServer::start().await;
    let credentials = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
    Mock::given(body_string_contains("Action=AssumeRole&"))
        .and(body_string_contains("RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Freader&"))
        .and(body_string_contains("ExternalId=an-external-id"))
        .respond_with(ResponseTemplate::new(200).set_body_raw(credentials, "text/xml"))
        .expect(1..)
        .mount(&sts)
        .await;
    let bucket = Bucket::of(&MOTO).await;
    let records = put(&bucket, ACCOUNT, 0..2, 3).await;
    let setup = reading(MOTO.url(), &bucket.name)
        .with("AWS_ENDPOINT_URL_STS", sts.uri())
        .with("CLOUDTRAIL_AUDIT_ROLE_ARN", "arn:aws:iam::111122223333:role/reader")
        .with("CLOUDTRAIL_AUDIT_EXTERNAL_ID", "an-external-id");
    assert_eq!(sorted(lines(&setup.run_to(0).await)), records);
    // Without the service that gives the role's credentials, nothing is read.
    let alone = setup.with("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9").with("AUDITSYNC_RETRY_BUDGET", "0s");
    alone.run_to(75).await;
}
