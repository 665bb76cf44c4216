//! The store finds credentials, region and endpoint as all AWS tools do. A test cannot change its own environment, so
//! each of these runs itself again in a new one.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::process::Stdio;

use auditsync::state::StateStore as _;
use auditsync::state::s3::S3;
use tokio::process::Command;

use super::{settings, told};
use crate::support::{Conditions, FakeS3, S3Answer};

/// Set in the inner run, and nowhere else.
const INNER: &str = "AUDITSYNC_TEST_INNER_RUN";
/// A file by which the inner run replaces the credentials before it loads a second time.
const NEXT: &str = "AUDITSYNC_TEST_NEXT_CREDENTIALS";

/// Returns the messages of loading the state twice, in an environment of `variables` alone. `test` is the calling test.
async fn loaded_with<'a>(test: &str, variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> [String; 2] {
    if env::var_os(INNER).is_some() {
        run_inside().await;
    }
    let home = tempfile::tempdir().unwrap();
    let mut again = Command::new(env::current_exe().unwrap());
    again.args([&format!("s3::environment::{test}"), "--exact", "--nocapture"]);
    again.env_clear().env(INNER, "1").env("HOME", home.path());
    // The machine that the tests run on must not influence them.
    again.env("AWS_EC2_METADATA_DISABLED", "true").envs(variables);
    let output = again.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut said = output.lines().filter_map(|line| line.split_once("loaded: ")).map(|(_, said)| said.to_owned());
    let said = [said.next(), said.next()];
    said.map(|said| said.unwrap_or_else(|| panic!("{test} did not run: {output}")))
}

#[allow(clippy::exit, clippy::print_stdout, reason = "the inner run says what it saw, and has nothing further to test")]
async fn run_inside() {
    let store = S3::new(settings(FakeS3::BUCKET), &"sectigo:datadog".into());
    for round in 0..2 {
        if let (1, Some(next)) = (round, env::var_os(NEXT)) {
            fs::copy(next, env::var_os("AWS_SHARED_CREDENTIALS_FILE").unwrap()).unwrap();
        }
        match store.load().await {
            Ok(found) => println!("\nloaded: {}", if found.is_some() { "a state" } else { "nothing" }),
            Err(error) => println!("\nloaded: {}", told(&error)),
        }
    }
    std::process::exit(0);
}

#[tokio::test]
async fn variables_are_enough() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    for endpoint in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        let url = fake.url();
        let variables = [
            (endpoint, OsStr::new(&url)),
            ("AWS_REGION", OsStr::new("eu-central-1")),
            ("AWS_ACCESS_KEY_ID", OsStr::new("AKIAVARIABLE")),
            ("AWS_SECRET_ACCESS_KEY", OsStr::new("secret")),
            ("AWS_SESSION_TOKEN", OsStr::new("token")),
        ];
        assert_eq!(loaded_with("variables_are_enough", variables).await, ["nothing", "nothing"]);
    }
    for request in fake.requests() {
        let signature = request.header("authorization").unwrap();
        assert!(signature.contains("AKIAVARIABLE/") && signature.contains("/eu-central-1/s3/"), "{signature}");
        assert_eq!(request.header("x-amz-security-token"), Some("token"));
    }
    assert_eq!(fake.requests().len(), 4);
}

#[tokio::test]
async fn a_profile_is_enough() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let folder = tempfile::tempdir().unwrap();
    let (config, credentials) = (folder.path().join("config"), folder.path().join("credentials"));
    fs::write(&config, format!("[profile audit]\nregion = eu-west-3\nendpoint_url = {}\n", fake.url())).unwrap();
    fs::write(&credentials, "[audit]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = secret\n").unwrap();
    let variables = [
        ("AWS_PROFILE", OsStr::new("audit")),
        ("AWS_CONFIG_FILE", config.as_os_str()),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_os_str()),
    ];
    assert_eq!(loaded_with("a_profile_is_enough", variables).await, ["nothing", "nothing"]);
    let requests = fake.requests();
    let signature = requests[0].header("authorization").unwrap();
    assert!(signature.contains("AKIAPROFILE/") && signature.contains("/eu-west-3/s3/"), "{signature}");
}

#[tokio::test]
async fn without_a_region_the_variable_is_named() {
    let variables =
        [("AWS_ACCESS_KEY_ID", OsStr::new("AKIAVARIABLE")), ("AWS_SECRET_ACCESS_KEY", OsStr::new("secret"))];
    for said in loaded_with("without_a_region_the_variable_is_named", variables).await {
        assert!(said.contains("set AWS_REGION to the bucket's region"), "{said}");
    }
}

#[tokio::test]
async fn without_credentials_the_ways_to_give_them_are_named() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    let url = fake.url();
    let variables = [("AWS_ENDPOINT_URL", OsStr::new(&url)), ("AWS_REGION", OsStr::new("us-east-1"))];
    for said in loaded_with("without_credentials_the_ways_to_give_them_are_named", variables).await {
        assert!(said.contains("found no AWS credentials; set AWS_ACCESS_KEY_ID"), "{said}");
    }
    assert!(fake.requests().is_empty(), "nothing is sent unsigned");
}

#[tokio::test]
async fn keys_that_were_refused_are_read_again_from_their_file() {
    let fake = FakeS3::start(Conditions::Heeded).await;
    fake.script([S3Answer::Error(403, "InvalidAccessKeyId", "The key does not exist")]);
    let folder = tempfile::tempdir().unwrap();
    let (credentials, next) = (folder.path().join("credentials"), folder.path().join("next"));
    fs::write(&credentials, "[default]\naws_access_key_id = AKIAOLD\naws_secret_access_key = secret\n").unwrap();
    fs::write(&next, "[default]\naws_access_key_id = AKIANEW\naws_secret_access_key = secret\n").unwrap();
    let url = fake.url();
    let variables = [
        ("AWS_ENDPOINT_URL", OsStr::new(&url)),
        ("AWS_REGION", OsStr::new("us-east-1")),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_os_str()),
        (NEXT, next.as_os_str()),
    ];
    let [first, second] = loaded_with("keys_that_were_refused_are_read_again_from_their_file", variables).await;
    assert!(first.contains("correct AWS_ACCESS_KEY_ID"), "{first}");
    assert_eq!(second, "nothing");
    let requests = fake.requests();
    let keys = requests.iter().map(|request| request.header("authorization").unwrap());
    assert!(keys.zip(["AKIAOLD", "AKIANEW"]).all(|(signature, key)| signature.contains(key)));
}

#[tokio::test]
async fn a_proxys_password_is_not_shown() {
    let variables = [
        ("AWS_ENDPOINT_URL", OsStr::new("http://s3.example.invalid")),
        ("AWS_REGION", OsStr::new("us-east-1")),
        ("AWS_ACCESS_KEY_ID", OsStr::new("AKIAVARIABLE")),
        ("AWS_SECRET_ACCESS_KEY", OsStr::new("secret-key")),
        ("HTTP_PROXY", OsStr::new("http://user:pass-word@127.0.0.1:1")),
    ];
    for said in loaded_with("a_proxys_password_is_not_shown", variables).await {
        assert!(said.contains("cannot read the state at s3://"), "{said}");
        assert!(!said.contains("pass-word") && !said.contains("secret-key"), "{said}");
    }
}
