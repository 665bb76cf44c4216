//! Tests the answers of the command line, its exit codes, and what it leaves alone.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, Ended, Setup};
use crate::stage::recent;
use crate::support::{FakeIntake, FakeScm, Fault, IntakeOptions, Record, Records, ScmOptions};

/// A secret in the form of the vendor's sample: unquoted in `.env`, and beginning with `=`.
const VENDORS_SECRET: &str = "=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy";

const STATE: &str = "auditsync-sectigo-datadog.json";

async fn fakes() -> (FakeScm, FakeIntake) {
    (FakeScm::start(ScmOptions::default()).await, FakeIntake::start(IntakeOptions::default()).await)
}

fn delivered_once(intake: &FakeIntake, count: usize) {
    assert_eq!((intake.count(), intake.ids().len()), (count, count), "every record once");
    assert_eq!(intake.violations(), [""; 0]);
}

fn names_in(setup: &Setup) -> Vec<String> {
    let entries = std::fs::read_dir(setup.folder()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bytes_of_state(setup: &Setup) -> Option<Vec<u8>> {
    std::fs::read(setup.folder().join(STATE)).ok()
}

/// `text` with each run of blanks and line ends as one blank.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A daemon that has caught up, and makes no request for an hour.
async fn idle_daemon(setup: &Setup) -> Daemon {
    let mut daemon = setup.start(&[]);
    daemon.says("synced").await;
    daemon
}

fn for_an_hour(setup: Setup) -> Setup {
    setup.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_SYNC_INTERVAL", "1h")
}

/// The line of `check` about this part.
fn line<'a>(ended: &'a Ended, part: &str) -> &'a str {
    let mut lines = ended.stdout.lines().filter(|line| line[9..].starts_with(part));
    let found = lines.next().unwrap_or_else(|| panic!("no line about {part}:\n{}", ended.stdout));
    assert_eq!(lines.next(), None, "one line about {part}");
    found
}

const PARTS: [&str; 6] = ["configuration", "access token", "audit records", "API key", "test entry", "state"];

#[tokio::test]
async fn every_variable_is_listed_with_its_default() {
    let defaults = [
        ("SECTIGO_AUDIT_API_URL", "[required]"),
        ("SECTIGO_AUDIT_API_CLIENT_ID", "[required]"),
        ("SECTIGO_AUDIT_API_CLIENT_SECRET", "[required, here or in SECTIGO_AUDIT_API_CLIENT_SECRET_FILE]"),
        ("SECTIGO_AUDIT_API_CLIENT_SECRET_FILE", ""),
        ("SECTIGO_AUDIT_API_TOKEN_URL", "[default: named by the API]"),
        ("DD_API_KEY", "[required, here or in DD_API_KEY_FILE]"),
        ("DD_API_KEY_FILE", ""),
        ("DD_SITE", "[default: datadoghq.com]"),
        ("DD_TAGS", ""),
        ("DD_ENV", ""),
        ("DD_HOSTNAME", "[default: this machine's name]"),
        ("DD_SERVICE", "[default: the source's product]"),
        ("DD_SOURCE", "[default: the source's name]"),
        ("DD_LOGS_CONFIG_LOGS_DD_URL", "[default: the intake of DD_SITE]"),
        ("DD_LOGS_CONFIG_LOGS_NO_SSL", "[default: false]"),
        ("DD_LOGS_CONFIG_COMPRESSION_KIND", "[default: gzip]"),
        ("AUDITSYNC_SYNC_LOOP", "[default: true]"),
        ("AUDITSYNC_SYNC_INTERVAL", "[default: 1m]"),
        ("AUDITSYNC_SYNC_LOOKBACK", "[default: 1h]"),
        ("SECTIGO_AUDIT_SYNC_DELAY", "[default: 30s]"),
        ("SECTIGO_AUDIT_SYNC_WINDOW", "[default: 1h]"),
        ("SECTIGO_AUDIT_SYNC_OVERLAP", "[default: 5m]"),
        ("AUDITSYNC_RETRY_BUDGET", "[default: 5m]"),
        ("AUDITSYNC_SHUTDOWN_TIMEOUT", "[default: 25s]"),
        ("AUDITSYNC_STORAGE_BACKEND", "[default: localfs]"),
        ("AUDITSYNC_LOCAL_STORAGE_PATH", "[default: .]"),
        ("AUDITSYNC_DEAD_LETTER_PATH", "[default: in the state's folder]"),
        ("AUDITSYNC_HTTP_TIMEOUT", "[default: 60s]"),
        ("AUDITSYNC_LOG_FORMAT", "[default: text]"),
        ("AUDITSYNC_LOG_LEVEL", "[default: info]"),
    ];
    let ended = Setup::bare().run(&["variables"]).await;
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    // Each variable has a paragraph: a line that begins with its name, and what is indented below it.
    let paragraph = |name: &str| {
        let at = ended.stdout.find(&format!("\n  {name} ")).unwrap_or_else(|| panic!("{name} is not listed"));
        let mut lines = ended.stdout[at + 1..].lines();
        let first = lines.next().unwrap_or_default();
        let rest = lines.take_while(|line| line.starts_with("     "));
        on_one_line(&std::iter::once(first).chain(rest).collect::<Vec<_>>().join(" "))
    };
    for (name, default) in defaults {
        let text = paragraph(name);
        assert!(text.ends_with(default), "{name} has {default:?}: {text}");
        assert_eq!(text.contains('['), !default.is_empty(), "{text}");
    }
    for variable in auditsync::pipeline::registry::variables() {
        paragraph(variable.name);
    }
}

#[tokio::test]
async fn the_variables_of_one_component_are_listed_by_themselves() {
    let ended = Setup::bare().run(&["variables", "datadog"]).await;
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    assert!(
        ended.stdout.contains("\n  DD_SITE ") && !ended.stdout.contains("\n  AUDITSYNC_SYNC_LOOP "),
        "{}",
        ended.stdout
    );
    let ended = Setup::bare().run(&["variables", "teapot"]).await;
    assert_eq!(ended.code(), Some(64));
    assert!(
        ended.stderr.contains("choose one of sectigo, digicert, cloudtrail, teleport, receiver, datadog, "),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn the_help_fits_one_screen_and_says_where_the_variables_are() {
    let ended = Setup::bare().start_with(&[("COLUMNS", "80")], &["--help"]).ended().await;
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.stdout.lines().count() <= 24 && ended.stdout.contains("auditsync variables"), "{}", ended.stdout);
    assert!(ended.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
}

#[tokio::test]
async fn the_version_is_printed() {
    let ended = Setup::bare().run(&["--version"]).await;
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(ended.stdout, format!("auditsync {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_command_line_that_cannot_be_understood_ends_with_64() {
    for (arguments, named) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["run", "--twice"], "--twice"),
        (&["--once"], "--once"),
        (&["state"], "show"),
        (&["state", "forget"], "forget"),
        (&["state", "set", "--yes"], "--since"),
        (&["state", "set", "--since", "yesterday", "--yes"], "2026-03-01T12:00:00Z"),
    ] {
        let setup = Setup::bare();
        let ended = setup.run(arguments).await;
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(ended.stderr.contains(named), "{arguments:?}: {}", ended.stderr);
        assert_eq!(names_in(&setup), [""; 0], "{arguments:?}");
    }
}

#[tokio::test]
async fn without_configuration_every_missing_variable_is_in_one_message() {
    for command in [&[][..], &["run"], &["run", "--once"], &["check"]] {
        let setup = Setup::bare();
        let ended = setup.run(command).await;
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(78), ""), "{command:?}");
        assert!(ended.stderr.starts_with("auditsync: the configuration has 4 mistakes:\n"), "{}", ended.stderr);
        for name in
            ["SECTIGO_AUDIT_API_URL", "SECTIGO_AUDIT_API_CLIENT_ID", "SECTIGO_AUDIT_API_CLIENT_SECRET", "DD_API_KEY"]
        {
            let lines = ended.stderr.lines().filter(|line| line.starts_with(&format!("  {name}: is required")));
            assert_eq!(lines.count(), 1, "{name}: {}", ended.stderr);
        }
        assert_eq!(names_in(&setup), [""; 0]);
    }
}

#[tokio::test]
async fn every_mistake_is_in_one_message_with_its_value_and_rule() {
    let (scm, intake) = fakes().await;
    let setup = Setup::between(&scm, &intake)
        .without("SECTIGO_AUDIT_API_CLIENT_ID")
        .with("SECTIGO_AUDIT_SYNC_INTERVAL", "3s")
        .with("SECTIGO_AUDIT_LOG_LEVEL", "loud")
        .with("SECTIGO_AUDIT_LOCAL_STORAGE_PATH", "no/such/folder")
        .with("DD_SITE", "app.datadoghq.com");
    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(78));
    for told in [
        "SECTIGO_AUDIT_API_CLIENT_ID: is required",
        "SECTIGO_AUDIT_SYNC_INTERVAL=\"3s\": must be a time from 5s to 7d",
        "SECTIGO_AUDIT_LOG_LEVEL=\"loud\": must be one of trace, debug, info, warn, error",
        "SECTIGO_AUDIT_LOCAL_STORAGE_PATH=\"no/such/folder\": it does not exist",
        "DD_SITE=\"app.datadoghq.com\": ",
    ] {
        assert_eq!(ended.stderr.matches(told).count(), 1, "{told}: {}", ended.stderr);
    }
    assert_eq!((scm.hits(), intake.hits()), (0, 0), "there was no request");
}

#[tokio::test]
async fn a_name_that_nothing_reads_is_warned_about() {
    let (scm, intake) = fakes().await;
    let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_SYNC_INTERVALL", "5m");
    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let warning = ended.stderr.lines().find(|line| line.contains("SECTIGO_AUDIT_SYNC_INTERVALL")).unwrap();
    assert!(warning.contains("WARN") && warning.contains("did you mean SECTIGO_AUDIT_SYNC_INTERVAL?"), "{warning}");
}

/// The `.env` of a user of the vendor's connector, for these fakes; the secret is in the vendor's form.
fn vendors_env(scm: &FakeScm, intake: &FakeIntake) -> String {
    format!(
        "# Sectigo\n\
         SECTIGO_AUDIT_API_URL={}\n\
         SECTIGO_AUDIT_API_CLIENT_ID=audit-client\n\
         SECTIGO_AUDIT_API_CLIENT_SECRET={VENDORS_SECRET}\n\
         SECTIGO_AUDIT_SYNC_LOOP=false\n\
         SECTIGO_AUDIT_SYNC_DELAY=0s\n\
         SECTIGO_AUDIT_STORAGE_BACKEND=localfs\n\
         SECTIGO_AUDIT_LOCAL_STORAGE_PATH=.\n\
         \n\
         # Datadog\n\
         DD_SITE=datadoghq.com\n\
         DD_API_KEY={}\n\
         DD_LOGS_CONFIG_LOGS_DD_URL={}\n",
        scm.url(),
        IntakeOptions::default().api_key,
        intake.url(),
    )
}

async fn vendors_fakes() -> (FakeScm, FakeIntake) {
    let options = ScmOptions { client_secret: VENDORS_SECRET.into(), ..Default::default() };
    (FakeScm::start(options).await, FakeIntake::start(IntakeOptions::default()).await)
}

#[tokio::test]
async fn the_vendors_env_file_alone_is_enough() {
    let (scm, intake) = vendors_fakes().await;
    scm.push(recent(2, 250));
    let setup = Setup::bare();
    std::fs::write(setup.folder().join(".env"), vendors_env(&scm, &intake)).unwrap();
    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    delivered_once(&intake, 250);
    assert_eq!(scm.violations(), [""; 0]);
    assert!(setup.state().is_some(), "the state is in the current folder");
}

/// `.env.example` with the variables of the default pipeline filled in.
fn filled_in(scm: &FakeScm, intake: &FakeIntake) -> String {
    let example = include_str!("../../.env.example");
    let (url, key) = (scm.url(), IntakeOptions::default().api_key);
    let values = [
        ("SECTIGO_AUDIT_API_URL=", url.as_str()),
        ("SECTIGO_AUDIT_API_CLIENT_ID=", "audit-client"),
        ("SECTIGO_AUDIT_API_CLIENT_SECRET='", VENDORS_SECRET),
        ("DD_API_KEY='", key.as_str()),
    ];
    let text =
        example.replace("\n#DD_LOGS_CONFIG_LOGS_DD_URL=", &format!("\nDD_LOGS_CONFIG_LOGS_DD_URL={}", intake.url()));
    values.iter().fold(text, |text, (before, value)| {
        assert_eq!(text.matches(&format!("\n{before}")).count(), 1, "{before}");
        text.replace(&format!("\n{before}"), &format!("\n{before}{value}"))
    })
}

#[tokio::test]
async fn the_example_file_works_with_the_four_variables_filled_in() {
    let (scm, intake) = vendors_fakes().await;
    // Older than the default delay.
    let ago = |seconds| Timestamp::now() - Duration::from_secs(seconds);
    scm.push(Records::seeded(2).between(ago(3000), ago(60), 5));
    let setup = Setup::bare();
    std::fs::write(setup.folder().join(".env"), filled_in(&scm, &intake)).unwrap();
    let ended = setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    delivered_once(&intake, 5);
}

#[tokio::test]
async fn the_environment_wins_over_the_env_file() {
    let (scm, intake) = vendors_fakes().await;
    scm.push(recent(3, 5));
    let file = vendors_env(&scm, &intake)
        .replace("SECTIGO_AUDIT_SYNC_LOOP=false", "SECTIGO_AUDIT_SYNC_LOOP=true")
        .replace(VENDORS_SECRET, "another-secret");
    let setup = Setup::bare()
        .with("SECTIGO_AUDIT_SYNC_LOOP", "false")
        .with("SECTIGO_AUDIT_API_CLIENT_SECRET", VENDORS_SECRET)
        .with("DD_TAGS", "from:environment");
    std::fs::write(setup.folder().join(".env"), file + "DD_TAGS=from:file\n").unwrap();
    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    delivered_once(&intake, 5);
    assert!(intake.entries().iter().all(|entry| entry["ddtags"] == "from:environment"));
}

#[tokio::test]
async fn a_parent_folders_env_file_is_not_read() {
    let (scm, intake) = vendors_fakes().await;
    let parent = TempDir::new().unwrap();
    std::fs::write(parent.path().join(".env"), vendors_env(&scm, &intake)).unwrap();
    let mut setup = Setup::bare();
    setup.folder = TempDir::new_in(parent.path()).unwrap();
    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("the configuration has 4 mistakes"), "{}", ended.stderr);
    assert_eq!((scm.hits(), intake.hits()), (0, 0));
}

#[tokio::test]
async fn secrets_arrive_byte_for_byte_from_the_environment() {
    for (secret, key) in [
        (VENDORS_SECRET, "key#$HOME'\"\\=%25&+"),
        (" # $HOME ${PATH} 'a' \"b\" \\n \\ ", "#key"),
        ("'quoted'", "$key"),
        ("a=b&client_id=c+%20", "\"key\\"),
        ("Schlüssel\t→\u{a0}", "key'"),
    ] {
        let scm = FakeScm::start(ScmOptions { client_secret: secret.into(), ..Default::default() }).await;
        let intake = FakeIntake::start(IntakeOptions { api_key: key.into(), ..Default::default() }).await;
        scm.push(recent(4, 3));
        let setup =
            Setup::between(&scm, &intake).with("SECTIGO_AUDIT_API_CLIENT_SECRET", secret).with("DD_API_KEY", key);
        let ended = setup.run(&[]).await;
        assert_eq!(ended.code(), Some(0), "{secret:?} {key:?}: {}", ended.stderr);
        delivered_once(&intake, 3);
    }
}

#[tokio::test]
async fn run_once_ends_even_where_a_loop_is_configured() {
    let (scm, intake) = fakes().await;
    scm.push(recent(5, 120));
    let ended = for_an_hour(Setup::between(&scm, &intake)).run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    delivered_once(&intake, 120);
}

#[tokio::test]
async fn check_tries_every_part_and_leaves_one_test_entry() {
    let (scm, intake) = fakes().await;
    scm.push(recent(6, 20));
    let setup = Setup::between(&scm, &intake);
    let ended = setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), PARTS.len(), "one line for each part:\n{}", ended.stdout);
    for (line, part) in lines.iter().zip(PARTS) {
        assert!(line.starts_with(&format!("ok       {part}")), "{line}");
    }
    assert!(line(&ended, "audit records").contains("20"), "{}", ended.stdout);
    let notices: Vec<_> = intake.entries().iter().map(|entry| entry["auditsync"]["notice"].clone()).collect();
    assert_eq!(notices, ["check"], "a test entry and no record");
    assert_eq!(setup.state(), None, "the state was not created");
    assert_eq!(intake.validate_requests(), 1);
    assert_eq!((scm.violations(), intake.violations()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn check_leaves_a_state_as_it_is() {
    let (scm, intake) = fakes().await;
    scm.push(recent(7, 20));
    let setup = Setup::between(&scm, &intake);
    assert_eq!(setup.run(&[]).await.code(), Some(0));
    let before = bytes_of_state(&setup);
    let ended = setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stdout);
    assert!(line(&ended, "state").contains("delivered up to"), "{}", ended.stdout);
    assert_eq!(bytes_of_state(&setup), before);
    assert_eq!((intake.count(), intake.ids().len()), (20 + 1, 20), "nothing but the test entry came with the check");
}

#[tokio::test]
async fn check_names_the_variable_of_a_refused_key() {
    let (scm, intake) = fakes().await;
    let setup = Setup::between(&scm, &intake).with("DD_API_KEY", "ffffffffffffffffffffffffffffffff");
    let ended = setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(77), "{}", ended.stdout);
    for part in ["API key", "test entry"] {
        let line = line(&ended, part);
        assert!(line.starts_with("FAILED ") && line.contains("check DD_API_KEY"), "{line}");
    }
    for part in ["configuration", "access token", "audit records", "state"] {
        assert!(line(&ended, part).starts_with("ok "), "the others are tried all the same:\n{}", ended.stdout);
    }
    assert_eq!(intake.count(), 0);
}

#[tokio::test]
async fn check_names_the_variables_of_a_refused_client() {
    let (scm, intake) = fakes().await;
    let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_API_CLIENT_SECRET", "another-secret");
    let ended = setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(77), "{}", ended.stdout);
    let failed = line(&ended, "access token");
    assert!(failed.starts_with("FAILED "), "{failed}");
    assert!(failed.contains("SECTIGO_AUDIT_API_CLIENT_ID and SECTIGO_AUDIT_API_CLIENT_SECRET"), "{failed}");
    for part in ["configuration", "API key", "test entry", "state"] {
        assert!(line(&ended, part).starts_with("ok "), "the others are tried all the same:\n{}", ended.stdout);
    }
}

#[tokio::test]
async fn check_says_that_the_state_cannot_be_written() {
    let (scm, intake) = fakes().await;
    let setup = Setup::between(&scm, &intake);
    // A folder at the path of the new document; this fails for root as well.
    std::fs::create_dir(setup.folder().join("auditsync-sectigo-datadog.json.new")).unwrap();
    let ended = setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(74), "{}", ended.stdout);
    let failed = line(&ended, "state");
    assert!(failed.starts_with("FAILED ") && failed.contains(STATE), "{failed}");
    assert_eq!(setup.state(), None);
}

#[tokio::test]
async fn a_storage_path_that_is_no_folder_is_a_mistake() {
    let (scm, intake) = fakes().await;
    let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_LOCAL_STORAGE_PATH", "state");
    std::fs::write(setup.folder().join("state"), "a file").unwrap();
    for command in [&["check"][..], &["run"], &["state", "show"], &["state", "reset", "--yes"]] {
        let ended = setup.run(command).await;
        assert_eq!(ended.code(), Some(78), "{command:?}: {}", ended.everything());
        let told = "SECTIGO_AUDIT_LOCAL_STORAGE_PATH=\"state\": it is not a folder";
        assert!(ended.stderr.contains(told), "{command:?}: {}", ended.stderr);
    }
    assert_eq!(names_in(&setup), ["state"]);
    assert_eq!(std::fs::read(setup.folder().join("state")).unwrap(), b"a file");
    assert_eq!((scm.hits(), intake.hits()), (0, 0));
}

#[tokio::test]
async fn check_beside_a_live_daemon_says_so_and_writes_nothing() {
    let (scm, intake) = fakes().await;
    scm.push(recent(9, 10));
    let setup = for_an_hour(Setup::between(&scm, &intake));
    let daemon = idle_daemon(&setup).await;
    let (state, names) = (bytes_of_state(&setup), names_in(&setup));
    let ended = setup.run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stdout);
    let told = line(&ended, "state");
    let holder = format!("in use by process {}", daemon.id());
    assert!(told.starts_with("ok ") && told.contains(&holder), "{told}");
    assert_eq!((bytes_of_state(&setup), names_in(&setup)), (state, names));
    daemon.signal("TERM").await;
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_key_check_that_is_out_of_reach_alone_fails_no_check() {
    let (scm, intake) = fakes().await;
    intake.answer_validate_always(Some(Fault::Status(503)));
    let ended = Setup::between(&scm, &intake).run(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stdout);
    let key = line(&ended, "API key");
    assert!(key.starts_with("unknown ") && key.contains("503"), "{key}");
    assert!(line(&ended, "test entry").starts_with("ok "), "{}", ended.stdout);
    assert!(!ended.stdout.contains("FAILED"), "{}", ended.stdout);
}

#[tokio::test]
async fn state_show_prints_the_document_and_nothing_else() {
    let (scm, intake) = fakes().await;
    scm.push(recent(10, 10));
    let setup = Setup::between(&scm, &intake);
    assert_eq!(setup.run(&[]).await.code(), Some(0));
    let before = bytes_of_state(&setup);
    // The command needs neither keys nor servers.
    let mut elsewhere = Setup::bare();
    elsewhere = elsewhere.with("SECTIGO_AUDIT_LOCAL_STORAGE_PATH", setup.folder().to_str().unwrap());
    let ended = elsewhere.run(&["state", "show"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let shown: Value = serde_json::from_str(&ended.stdout).expect("standard output is the document alone");
    assert_eq!(Some(shown), setup.state());
    assert!(ended.stderr.contains(setup.folder().to_str().unwrap()), "{}", ended.stderr);
    assert_eq!(bytes_of_state(&setup), before);
}

#[tokio::test]
async fn state_show_says_that_there_is_none_yet() {
    let setup = Setup::bare();
    let ended = setup.run(&["state", "show"]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), ""));
    assert!(ended.stderr.contains("no state yet") && ended.stderr.contains(STATE), "{}", ended.stderr);
    assert_eq!(names_in(&setup), [""; 0]);
}

#[tokio::test]
async fn state_set_without_yes_writes_nothing() {
    let (scm, intake) = fakes().await;
    scm.push(recent(11, 10));
    let setup = Setup::between(&scm, &intake);
    for synced in [false, true] {
        if synced {
            assert_eq!(setup.run(&[]).await.code(), Some(0));
        }
        let before = bytes_of_state(&setup);
        for command in [&["state", "set", "--since", "2026-03-01T12:00:00Z"][..], &["state", "reset"]] {
            let ended = setup.run(command).await;
            assert_eq!((ended.code(), ended.stdout.as_str()), (Some(64), ""), "{command:?}");
            assert!(ended.stderr.contains("--yes"), "{}", ended.stderr);
            assert_eq!(bytes_of_state(&setup), before, "{command:?}");
        }
    }
}

#[tokio::test]
async fn after_state_set_exactly_what_is_newer_is_delivered() {
    let (scm, intake) = fakes().await;
    let since = Timestamp::from_second(Timestamp::now().as_second() - 1200).unwrap();
    let mut records = Records::seeded(12);
    let older = records.between(since - Duration::from_secs(1000), since, 30);
    let newer = records.between(since, Timestamp::now() - Duration::from_secs(2), 30);
    // Exactly at the edge: the newest record that is not delivered, and the oldest that is.
    assert_eq!(older.last().unwrap().at, since);
    scm.push(older);
    scm.push([records.at(since + Duration::from_millis(1))]);
    let expected: Vec<String> = newer.iter().map(|record| record.id.clone()).collect();
    scm.push(newer);

    let setup = Setup::between(&scm, &intake);
    let set = setup.run(&["state", "set", "--since", &since.to_string(), "--yes"]).await;
    assert_eq!((set.code(), set.stdout.as_str()), (Some(0), ""), "{}", set.stderr);
    assert!(set.stderr.contains(&since.to_string()), "{}", set.stderr);
    assert_eq!(scm.hits(), 0);

    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    delivered_once(&intake, 31);
    let ids = intake.ids();
    assert!(expected.iter().all(|id| ids.contains_key(id)));
}

#[tokio::test]
async fn state_set_shows_what_it_replaces() {
    let (scm, intake) = fakes().await;
    scm.push(recent(13, 10));
    let setup = Setup::between(&scm, &intake);
    assert_eq!(setup.run(&[]).await.code(), Some(0));
    let before = setup.state().unwrap();
    let since = Timestamp::from_second(Timestamp::now().as_second() - 3600).unwrap();
    let set = setup.run(&["state", "set", "--since", &since.to_string(), "--yes"]).await;
    assert_eq!(set.code(), Some(0), "{}", set.stderr);
    assert!(set.stderr.contains(before["nonce"].as_str().unwrap()), "so that it can be put back: {}", set.stderr);
    assert_eq!(setup.run(&[]).await.code(), Some(0));
    assert_eq!((intake.count(), intake.ids().len()), (20, 10), "everything after it was delivered once more");
}

#[tokio::test]
async fn a_time_to_come_is_no_cursor_to_start_from() {
    let setup = Setup::bare();
    let tomorrow = (Timestamp::now() + Duration::from_secs(86_400)).to_string();
    let ended = setup.run(&["state", "set", "--since", &tomorrow, "--yes"]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(64), ""));
    assert!(ended.stderr.contains(&tomorrow) && ended.stderr.contains("is in the future"), "{}", ended.stderr);
    assert_eq!(names_in(&setup), [""; 0]);
}

#[tokio::test]
async fn state_set_beside_a_live_daemon_is_refused() {
    let (scm, intake) = fakes().await;
    scm.push(recent(14, 10));
    let setup = for_an_hour(Setup::between(&scm, &intake));
    let daemon = idle_daemon(&setup).await;
    let (state, names) = (bytes_of_state(&setup), names_in(&setup));
    for command in [&["state", "set", "--since", "2026-03-01T12:00:00Z", "--yes"][..], &["state", "reset", "--yes"]] {
        let ended = setup.run(command).await;
        assert_eq!(ended.code(), Some(75), "{command:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(&format!("in use by process {}", daemon.id())), "{}", ended.stderr);
        assert_eq!((bytes_of_state(&setup), names_in(&setup)), (state.clone(), names.clone()), "{command:?}");
    }
    daemon.signal("TERM").await;
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn after_a_reset_the_next_run_starts_at_the_lookback() {
    let (scm, intake) = fakes().await;
    let records = recent(15, 60);
    scm.push(records.clone());
    let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_SYNC_LOOKBACK", "15m");
    let before = Timestamp::now();
    let reset = setup.run(&["state", "reset", "--yes"]).await;
    let after = Timestamp::now();
    assert_eq!((reset.code(), reset.stdout.as_str()), (Some(0), ""), "{}", reset.stderr);
    let since = setup.state().unwrap()["cursor"]["since"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let expected = (before.as_second() - 900)..=(after.as_second() - 900);
    assert!(expected.contains(&since.as_second()), "{since}");
    assert_eq!(setup.run(&[]).await.code(), Some(0));
    let asked = scm.requests().into_iter().find(|request| request.authorized).unwrap();
    assert_eq!(asked.from, Some(since));
    assert_eq!(intake.count(), ids_after(&records, since));
    assert_eq!(intake.ids().len(), intake.count());
}

fn ids_after(records: &[Record], since: Timestamp) -> usize {
    records.iter().filter(|record| record.at > since).count()
}

#[tokio::test]
async fn there_is_nothing_to_show_or_set_in_memory() {
    let setup = Setup::bare().with("SECTIGO_AUDIT_STORAGE_BACKEND", "memory");
    for command in [
        &["state", "show"][..],
        &["state", "set", "--since", "2026-03-01T12:00:00Z", "--yes"],
        &["state", "reset", "--yes"],
    ] {
        let ended = setup.run(command).await;
        assert_eq!((ended.code(), ended.stdout.as_str()), (Some(78), ""), "{command:?}");
        assert!(ended.stderr.contains("SECTIGO_AUDIT_STORAGE_BACKEND=memory"), "{}", ended.stderr);
    }
    assert_eq!(names_in(&setup), [""; 0]);
}

#[tokio::test]
async fn memory_warns_where_runs_end_and_only_there() {
    let (scm, intake) = fakes().await;
    scm.push(recent(19, 5));
    let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_STORAGE_BACKEND", "memory");
    let warnings = |stderr: &str| {
        stderr
            .lines()
            .filter(|line| line.contains("WARN") && line.contains("SECTIGO_AUDIT_STORAGE_BACKEND=memory"))
            .count()
    };
    let once = setup.run(&[]).await;
    assert_eq!((once.code(), warnings(&once.stderr)), (Some(0), 1), "{}", once.stderr);
    let setup = for_an_hour(setup);
    let once = setup.run(&["run", "--once"]).await;
    assert_eq!((once.code(), warnings(&once.stderr)), (Some(0), 1), "{}", once.stderr);
    let daemon = idle_daemon(&setup).await;
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!((ended.code(), warnings(&ended.stderr)), (Some(0), 0), "{}", ended.stderr);
    assert_eq!(names_in(&setup), [""; 0], "and leaves nothing behind");
}

#[tokio::test]
async fn every_line_of_a_json_log_is_json() {
    let (scm, intake) = fakes().await;
    scm.push(recent(16, 150));
    // The log holds a warning and a failure with awkward text.
    scm.script(Fault::StatusWithBody(503, "a \"quoted\"\nline \u{1b}[31m \\ end".into()));
    let setup = Setup::between(&scm, &intake)
        .with("SECTIGO_AUDIT_LOG_FORMAT", "json")
        .with("SECTIGO_AUDIT_LOG_LEVEL", "trace")
        .with("SECTIGO_AUDIT_COLOUR", "blue");
    let ended = setup.run(&[]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
    let lines: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
        line["timestamp"].as_str().unwrap().parse::<Timestamp>().unwrap();
    }
    let levels: Vec<_> = lines.iter().filter_map(|line| line["level"].as_str()).collect();
    assert!(levels.contains(&"WARN") && levels.contains(&"DEBUG"), "{levels:?}");
    delivered_once(&intake, 150);
}

#[tokio::test]
async fn each_sync_has_one_line_with_its_counts() {
    let (scm, intake) = fakes().await;
    scm.push(recent(17, 250));
    let setup =
        Setup::between(&scm, &intake).with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_LOG_FORMAT", "json");
    let mut daemon = setup.start(&[]);
    daemon.says("\"synced\"").await;
    intake.wait_for_entries(250).await;
    // The second sync finds one more, and reads the last five minutes again.
    let late = Records::seeded(18).at(Timestamp::now() - Duration::from_secs(1));
    scm.push([late]);
    intake.wait_for_entries(251).await;
    daemon.says("\"delivered\":1,").await;
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let lines: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let syncs: Vec<&Value> = lines.iter().filter(|line| line["message"] == "synced").collect();
    assert!(syncs.iter().all(|sync| (sync["level"] == "INFO") == (sync["delivered"] != 0)));
    let counts = |sync: &Value| {
        ["read", "delivered", "dead_lettered", "restamped", "truncated"].map(|name| sync[name].as_u64().unwrap())
    };
    // A slow sync reads the last five minutes again by itself.
    let again = |sync: &Value| sync["deduplicated"].as_u64().unwrap();
    assert_eq!(counts(syncs[0]), [250 + again(syncs[0]), 250, 0, 0, 0]);
    // Others may have followed before the signal came.
    let second = syncs.iter().find(|sync| sync["delivered"] == 1).unwrap();
    let again = again(second);
    assert_eq!(counts(second), [again + 1, 1, 0, 0, 0]);
    assert!(again >= 20, "the last five of fifty minutes were read again: {again}");
    delivered_once(&intake, 251);
}
