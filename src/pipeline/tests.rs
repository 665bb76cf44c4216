//! Tests of the configuration as a whole.

use std::ffi::OsString;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::registry::{sections, variables};
use super::*;
use crate::config::{Mistake, Spec};

const REQUIRED: [(&str, &str); 4] = [
    ("SECTIGO_AUDIT_API_URL", "https://audit.enterprise.sectigo.com"),
    ("SECTIGO_AUDIT_API_CLIENT_ID", "client"),
    ("SECTIGO_AUDIT_API_CLIENT_SECRET", "secret"),
    ("DD_API_KEY", "0123456789abcdef0123456789abcdef"),
];

fn os(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn environment(pairs: Vec<(OsString, OsString)>) -> Environment {
    Environment::from_pairs(pairs)
}

fn read(pairs: Vec<(OsString, OsString)>, purpose: Purpose) -> Result<Config, ConfigError> {
    let environment = environment(pairs);
    Config::read(&environment, &wanted(&environment)?, purpose)
}

fn from_pairs(pairs: Vec<(OsString, OsString)>) -> Result<Config, ConfigError> {
    read(pairs, Purpose::Run)
}

fn state_from_pairs(pairs: Vec<(OsString, OsString)>) -> Result<StateConfig, ConfigError> {
    let environment = environment(pairs);
    StateConfig::read(&environment, &wanted(&environment)?).map(|(mut states, _)| states.remove(0))
}

fn health_from_pairs(pairs: Vec<(OsString, OsString)>) -> Result<HealthConfig, ConfigError> {
    let environment = environment(pairs);
    HealthConfig::read(&environment, &wanted(&environment)?)
}

/// The name of a variable and, for a secret, of the one for its file.
fn with_file(spec: &Spec) -> impl Iterator<Item = String> + use<> {
    let file = spec.secret.then(|| format!("{}_FILE", spec.name));
    [spec.name.to_owned()].into_iter().chain(file)
}

/// The names of all variables, including those for the files of secrets.
fn all_names() -> Vec<String> {
    variables().flat_map(with_file).collect()
}

/// The names of the variables that the default pipeline reads. The components of other pipelines test their own.
fn names() -> Vec<String> {
    let read = ["sectigo", "datadog", "sync", "state", "program"];
    let sections = sections().into_iter().filter(|section| read.contains(&section.name));
    let specs = sections.flat_map(|section| section.variables);
    specs.flat_map(with_file).collect()
}

/// Sorts names, to compare them.
fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

fn named(error: &ConfigError) -> Vec<&str> {
    error.mistakes().iter().map(Mistake::variable).collect()
}

/// The configuration of the required variables and `more`. `more` comes first, and so wins.
fn complete(more: &[(&str, &str)]) -> Result<Config, ConfigError> {
    from_pairs([os(more), os(&REQUIRED)].concat())
}

fn config_with(more: &[(&str, &str)]) -> Config {
    complete(more).unwrap_or_else(|error| panic!("{error}"))
}
/// An invalid value for each variable, except for those that may have any value.
const BROKEN: &[(&str, &str)] = &[
    ("SECTIGO_AUDIT_API_URL", "audit.example.com"),
    ("SECTIGO_AUDIT_API_CLIENT_ID", ""),
    ("SECTIGO_AUDIT_API_CLIENT_SECRET", ""),
    ("SECTIGO_AUDIT_API_CLIENT_SECRET_FILE", "/etc/no-such-file"),
    ("SECTIGO_AUDIT_API_TOKEN_URL", "auth.example.com"),
    ("SECTIGO_AUDIT_TLS_CA", "/etc/no-such-file"),
    ("SECTIGO_AUDIT_TLS_CERT", "/etc/no-such-file"),
    ("SECTIGO_AUDIT_TLS_KEY", "/etc/no-such-file"),
    ("DD_TLS_CA", "/etc/no-such-file"),
    ("DD_TLS_CERT", "/etc/no-such-file"),
    ("DD_TLS_KEY", "/etc/no-such-file"),
    ("DD_API_KEY", ""),
    ("DD_API_KEY_FILE", "/etc/no-such-file"),
    ("DD_SITE", "app.datadoghq.com"),
    ("DD_ENV", "a b"),
    ("DD_LOGS_CONFIG_LOGS_DD_URL", "tcp://x"),
    ("DD_LOGS_CONFIG_LOGS_NO_SSL", "maybe"),
    ("DD_LOGS_CONFIG_COMPRESSION_KIND", "lzma"),
    ("AUDITSYNC_SYNC_LOOP", "maybe"),
    ("AUDITSYNC_SYNC_INTERVAL", "1s"),
    ("AUDITSYNC_SYNC_LOOKBACK", "19h"),
    ("SECTIGO_AUDIT_SYNC_DELAY", "2h"),
    ("SECTIGO_AUDIT_SYNC_WINDOW", "0s"),
    ("SECTIGO_AUDIT_SYNC_OVERLAP", "2h"),
    ("AUDITSYNC_RETRY_BUDGET", "25h"),
    ("AUDITSYNC_SHUTDOWN_TIMEOUT", "11m"),
    ("AUDITSYNC_LEASE_TTL", "14s"),
    ("AUDITSYNC_STORAGE_BACKEND", "floppy"),
    ("AUDITSYNC_LOCAL_STORAGE_PATH", "/no/such/folder"),
    ("AUDITSYNC_INCLUDE", "colour=red"),
    ("AUDITSYNC_EXCLUDE", "action"),
    ("AUDITSYNC_REDACT", "user"),
    ("AUDITSYNC_REDACT_SALT", "short"),
    ("AUDITSYNC_REDACT_SALT_FILE", "/etc/no-such-file"),
    ("AUDITSYNC_DEAD_LETTER_PATH", "/no/such/folder/file"),
    ("AUDITSYNC_HTTP_TIMEOUT", "0s"),
    ("AUDITSYNC_HTTP_LISTEN", "localhost:9090"),
    ("AUDITSYNC_NOTICE_URL", "ftp://x"),
    ("AUDITSYNC_NOTICE_URL_FILE", "/etc/no-such-file"),
    ("AUDITSYNC_LOG_FORMAT", "xml"),
    ("AUDITSYNC_LOG_LEVEL", "loud"),
];

/// The same for the variables that only one backend reads, with the variables that this backend requires.
#[cfg(all(feature = "redis", feature = "s3", feature = "gcs"))]
const BROKEN_FOR_ONE_BACKEND: &[(&str, &[(&str, &str)])] = &[
    (
        "redis",
        &[
            ("AUDITSYNC_REDIS_ADDRESS", "ftp://x"),
            ("AUDITSYNC_REDIS_ADDRESS_FILE", "/etc/no-such-file"),
            ("AUDITSYNC_REDIS_PASSWORD_FILE", "/etc/no-such-file"),
            ("AUDITSYNC_REDIS_USERNAME", "without-a-password"),
            ("AUDITSYNC_REDIS_DB", "first"),
            ("AUDITSYNC_REDIS_TLS", "maybe"),
        ],
    ),
    (
        "s3",
        &[
            ("AUDITSYNC_S3_BUCKET", "s3://x"),
            ("AUDITSYNC_S3_PREFIX", "a\u{7}b"),
            ("AUDITSYNC_S3_FORCE_PATH_STYLE", "maybe"),
            ("AUDITSYNC_S3_SSE", "rot13"),
            ("AUDITSYNC_S3_KMS_KEY_ID", "without-kms"),
        ],
    ),
    (
        "gcs",
        &[
            ("AUDITSYNC_GCS_BUCKET", "gs://x"),
            ("AUDITSYNC_GCS_PREFIX", "a\u{7}b"),
            ("STORAGE_EMULATOR_HOST", "ftp://x"),
        ],
    ),
];

/// The variable that each backend requires.
#[cfg(all(feature = "redis", feature = "s3", feature = "gcs"))]
const REQUIRED_BY_BACKENDS: [(&str, &str); 3] =
    [("AUDITSYNC_REDIS_ADDRESS", "redis:6379"), ("AUDITSYNC_S3_BUCKET", "audit"), ("AUDITSYNC_GCS_BUCKET", "audit")];

/// The variables that may have any value.
const FREE: [&str; 5] =
    ["DD_HOSTNAME", "DD_SERVICE", "DD_SOURCE", "AUDITSYNC_REDIS_PASSWORD", "AUDITSYNC_REDIS_PREFIX"];

#[test]
fn what_is_required_is_enough() {
    let config = config_with(&[]);
    assert_eq!(config.pipelines.len(), 1);
    assert_eq!(config.pipelines[0].name.as_str(), "sectigo:datadog");
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let mut broken = BROKEN.to_vec();
    let many_tags = "t ".repeat(101);
    broken.push(("DD_TAGS", &many_tags));
    // An unknown backend has no folder that could be missing, and a secret's file needs no value beside it.
    // Of a component's TLS files, the first that cannot be used is reported.
    let is_apart =
        |name: &str| ["LOCAL_STORAGE_PATH", "_FILE", "_TLS_CERT", "_TLS_KEY"].iter().any(|end| name.ends_with(end));
    broken.retain(|(name, _)| !is_apart(name));
    let error = from_pairs(os(&broken)).unwrap_err();
    let text = error.to_string();
    let names = names();
    let expected: Vec<_> =
        names.iter().map(String::as_str).filter(|name| broken.iter().any(|(given, _)| given == name)).collect();
    assert_eq!(sorted(named(&error)), sorted(expected.clone()), "{text}");
    assert_eq!(text.lines().count(), 1 + expected.len(), "{text}");
    assert!(text.starts_with(&format!("the configuration has {} mistakes:\n", expected.len())), "{text}");
}

#[cfg(all(feature = "redis", feature = "s3", feature = "gcs"))]
#[test]
fn each_variable_can_be_mistaken_or_takes_anything() {
    let of_backends = BROKEN_FOR_ONE_BACKEND.iter().flat_map(|(_, broken)| *broken);
    let covered =
        BROKEN.iter().chain(of_backends).map(|(name, _)| *name).chain(FREE).chain(["DD_TAGS", "AUDITSYNC_PIPELINES"]);
    assert_eq!(covered.count(), names().len(), "a variable has no test");
}

#[cfg(all(feature = "redis", feature = "s3", feature = "gcs"))]
#[test]
fn each_mistake_of_a_backend_is_reported_where_that_backend_is_chosen() {
    for (backend, all_broken) in BROKEN_FOR_ONE_BACKEND {
        for broken @ (name, _) in *all_broken {
            let others = REQUIRED_BY_BACKENDS.into_iter().filter(|(other, _)| !name.starts_with(other));
            let others: Vec<_> = others.chain([("AUDITSYNC_STORAGE_BACKEND", *backend)]).collect();
            let error = complete(&[&[*broken], &others[..]].concat()).unwrap_err();
            assert_eq!(named(&error), [*name], "{error}");
            config_with(&[*broken]);
        }
    }
}

#[test]
fn each_mistake_is_reported_alone_under_its_own_name() {
    for broken @ (name, _) in BROKEN {
        let others: Vec<_> = REQUIRED.into_iter().filter(|(other, _)| !name.starts_with(other)).collect();
        let others: Vec<_> = if name.ends_with("_URL") { REQUIRED.to_vec() } else { others };
        let error = from_pairs([os(&[*broken]), os(&others)].concat()).unwrap_err();
        assert_eq!(named(&error), [*name], "{error}");
    }
}

#[test]
fn an_empty_environment_misses_what_is_required_and_nothing_else() {
    let error = from_pairs(Vec::new()).unwrap_err();
    let required: Vec<_> = REQUIRED.iter().map(|(name, _)| *name).collect();
    assert_eq!(sorted(named(&error)), sorted(required), "{error}");
}

#[test]
fn every_default_is_valid_when_it_is_given() {
    let defaults: Vec<_> =
        variables().filter_map(|spec| spec.default_value().map(|value| (spec.name, value))).collect();
    assert!(defaults.len() > 10);
    config_with(&defaults);
}

#[test]
fn the_vendors_sample_env_loads() {
    let sample = "\
        DD_SITE=datadoghq.eu\n\
        DD_API_KEY=0123456789abcdef0123456789abcdef\n\
        SECTIGO_AUDIT_API_URL=https://audit.enterprise.sectigo.com\n\
        SECTIGO_AUDIT_API_CLIENT_ID=a1b2c3\n\
        SECTIGO_AUDIT_API_CLIENT_SECRET==m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy\n\
        SECTIGO_AUDIT_SYNC_LOOP=true\n\
        SECTIGO_AUDIT_STORAGE_BACKEND=localfs\n\
        SECTIGO_AUDIT_LOCAL_STORAGE_PATH=.\n";
    let pairs = dotenvy::from_read_iter(sample.as_bytes()).map(Result::unwrap);
    let config = from_pairs(pairs.map(|(name, value)| (name.into(), value.into())).collect()).unwrap();
    let secrets: Vec<_> =
        config.pipelines[0].secrets().map(|secret| secret.current().expose_secret().to_owned()).collect();
    assert_eq!(secrets, ["=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy", "0123456789abcdef0123456789abcdef"]);
    let context = config.pipelines[0].context();
    let parts = config.pipelines[0].parts(&context, config.pipelines[0].store.build(), Liveness::default());
    assert_eq!(parts.destination.location(), "https://http-intake.logs.datadoghq.eu/api/v2/logs");
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn a_valid_configuration_shows_no_secret_either() {
    let secrets = [("SECTIGO_AUDIT_API_CLIENT_SECRET", "hunter2"), ("DD_API_KEY", "hunter2")];
    let shown = format!("{:?}", config_with(&secrets));
    assert!(shown.contains("Secret(DD_API_KEY)") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_dry_run_needs_no_key_and_sees_every_other_mistake() {
    let without_key: Vec<_> = REQUIRED.into_iter().filter(|(name, _)| *name != "DD_API_KEY").collect();
    read([os(&without_key), os(&[("DD_ENV", "prod")])].concat(), Purpose::DryRun).unwrap();
    let broken = os(&[("DD_ENV", "a b"), ("AUDITSYNC_SYNC_INTERVAL", "1s")]);
    let error = read(broken, Purpose::DryRun).unwrap_err();
    let named = named(&error);
    assert!(named.contains(&"DD_ENV") && named.contains(&"SECTIGO_AUDIT_API_URL") && named.len() == 5, "{error}");
}

#[test]
fn the_secrets_that_can_be_read_again_are_those_from_files() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "x").unwrap();
    let path = file.path().to_str().unwrap();
    let variables = |config: Config| -> Vec<_> {
        config.secret_files().iter().map(|secret| secret.variable().to_string()).collect()
    };
    assert_eq!(variables(config_with(&[])), [""; 0]);
    let files = [("DD_API_KEY", ""), ("DD_API_KEY_FILE", path)];
    assert_eq!(variables(config_with(&files)), ["DD_API_KEY_FILE"]);
    #[cfg(feature = "redis")]
    {
        let redis = [
            ("AUDITSYNC_STORAGE_BACKEND", "redis"),
            ("AUDITSYNC_REDIS_ADDRESS", "redis:6379"),
            ("AUDITSYNC_REDIS_PASSWORD_FILE", path),
        ];
        assert_eq!(variables(config_with(&redis)), ["AUDITSYNC_REDIS_PASSWORD_FILE"]);
    }
}

#[test]
fn a_sources_prefix_overrides_what_is_shared() {
    let config = config_with(&[
        ("AUDITSYNC_SYNC_INTERVAL", "5m"),
        ("SECTIGO_AUDIT_SYNC_INTERVAL", "2m"),
        ("DD_TAGS", "a:1"),
        ("SECTIGO_AUDIT_DD_TAGS", "b:2"),
        ("AUDITSYNC_LOG_LEVEL", "debug"),
    ]);
    assert_eq!(config.pipelines[0].settings.interval, Duration::from_mins(2));
    assert_eq!(config.telemetry.level, tracing::Level::DEBUG);
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn a_misspelt_name_is_named_beside_what_is_missing() {
    let message = from_pairs(os(&[("SECTIGO_AUDIT_API_ULR", "https://x")])).unwrap_err().to_string();
    assert!(message.contains("SECTIGO_AUDIT_API_URL: is required but not set"), "{message}");
    assert!(
        message.ends_with(
            "note: SECTIGO_AUDIT_API_ULR is set, but there is no such variable; did you mean SECTIGO_AUDIT_API_URL?"
        ),
        "{message}"
    );
    let warnings = config_with(&[("AUDITSYNC_SYNC_INTERVALL", "5m")]).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("did you mean AUDITSYNC_SYNC_INTERVAL?"), "{warnings:?}");
}

#[test]
fn an_interval_near_the_intakes_limit_is_warned_about() {
    assert_eq!(config_with(&[("AUDITSYNC_SYNC_INTERVAL", "17h")]).warnings, [""; 0]);
    let warnings = config_with(&[("AUDITSYNC_SYNC_INTERVAL", "17h 1s")]).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("is near 18h"), "{warnings:?}");
}

#[test]
fn one_shot_runs_without_a_memory_are_warned_about() {
    let (once, memory) = (("AUDITSYNC_SYNC_LOOP", "false"), ("AUDITSYNC_STORAGE_BACKEND", "memory"));
    let warnings = config_with(&[once, memory]).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("the state is lost"), "{warnings:?}");
    assert_eq!(config_with(&[once]).warnings, [""; 0]);
    assert_eq!(config_with(&[memory]).warnings, [""; 0]);
}

#[test]
fn working_on_the_state_needs_no_keys_and_looks_at_nothing_else() {
    let needed = ["STORAGE_BACKEND", "LOCAL_STORAGE_PATH", "LOG_FORMAT", "LOG_LEVEL"];
    let is_needed = |name: &str| needed.iter().any(|suffix| name.ends_with(suffix));
    let others: Vec<_> = BROKEN.iter().copied().filter(|(name, _)| !is_needed(name)).collect();
    let mut pairs = os(&others);
    pairs.extend(os(&[("AUDITSYNC_STORAGE_BACKEND", "memory")]));
    let config = state_from_pairs(pairs).unwrap();
    assert_eq!(config.store.kind.name, "memory");
    let config = state_from_pairs(Vec::new()).unwrap();
    assert_eq!(config.store.build().location(), "./auditsync-sectigo-datadog.json");
    let error = state_from_pairs(os(BROKEN)).unwrap_err();
    // An unknown store has no variables.
    let named = named(&error);
    assert!(named.len() == 3 && named.iter().all(|name| is_needed(name)), "{error}");
}

#[test]
fn asking_for_the_health_needs_the_address_and_looks_at_nothing_else() {
    let others: Vec<_> = BROKEN.iter().copied().filter(|(name, _)| *name != "AUDITSYNC_HTTP_LISTEN").collect();
    let error = health_from_pairs(os(&others)).unwrap_err().to_string();
    assert!(error.contains("AUDITSYNC_HTTP_LISTEN: is required but not set."), "{error}");
    let given = [os(&others), os(&[("AUDITSYNC_HTTP_LISTEN", "[::]:9090")])].concat();
    assert_eq!(health_from_pairs(given).unwrap().listen, "[::]:9090".parse().unwrap());
    assert!(health_from_pairs(os(BROKEN)).is_err());
}

#[cfg(unix)]
#[test]
fn working_on_the_state_does_not_trip_over_other_variables_that_are_not_text() {
    use std::os::unix::ffi::OsStringExt;
    let broken = |name: &str| (OsString::from(name), OsString::from_vec(vec![0xff]));
    assert!(state_from_pairs(vec![broken("DD_API_KEY")]).is_ok());
    assert!(state_from_pairs(vec![broken("AUDITSYNC_STORAGE_BACKEND")]).is_err());
    let error = from_pairs([vec![broken("DD_API_KEY")], os(&REQUIRED)].concat()).unwrap_err();
    assert!(error.to_string().contains("has a mistake:\n  DD_API_KEY: its value is not text in UTF-8"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each variable may be absent, invalid or random. Secrets, passwords in addresses, and misplaced secrets all contain one word.
    #[test]
    fn no_secret_shows_in_any_message(
        picks in proptest::collection::vec((0..7_usize, "[ -~\n]{0,8}"), all_names().len()),
    ) {
        let mut pairs = Vec::new();
        for (name, (pick, noise)) in all_names().iter().zip(&picks) {
            let value = match pick {
                0 => continue,
                1 if variables().any(|spec| spec.secret && spec.name == name) => format!("{noise}sentinel{noise}"),
                2 => format!("https://me:sentinel{noise}@host{noise}/"),
                3 => format!("http://host.example.com/{noise}?key=sentinel"),
                4 => "sentinel0123456789abcdef0123".to_owned(),
                5 if name.ends_with("_FILE") => format!("sentinel{noise}"),
                6 => format!("me:sentinel{noise}@host:443"),
                _ => noise.clone(),
            };
            pairs.push((name.clone(), value));
        }
        pairs.push(("SECTIGO_AUDIT_API_CLIENT_SECERT".to_owned(), "sentinel".to_owned()));
        // Without this, a set of values could be valid, and no message would be tested.
        pairs.insert(0, ("AUDITSYNC_SYNC_LOOP".to_owned(), "maybe".to_owned()));
        let given: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let error = from_pairs(os(&given)).unwrap_err();
        prop_assert!(!format!("{error} {error:?}").contains("sentinel"), "{}", error);
    }
}

const TWO: (&str, &str) = ("AUDITSYNC_PIPELINES", "sectigo:datadog, sectigo.test:stdout");

#[test]
fn several_pipelines_are_read_each_with_its_own_variables() {
    let config = config_with(&[
        TWO,
        ("AUDITSYNC_SYNC_INTERVAL", "5m"),
        ("SECTIGO_AUDIT_SYNC_INTERVAL", "4m"),
        ("SECTIGO_TEST_AUDIT_SYNC_INTERVAL", "3m"),
    ]);
    let seen: Vec<_> =
        config.pipelines.iter().map(|one| (one.name.as_str(), one.settings.interval.as_secs())).collect();
    assert_eq!(seen, [("sectigo:datadog", 240), ("sectigo.test:stdout", 180)]);
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn the_mistakes_of_all_pipelines_are_reported_together_and_each_once() {
    let broken = [TWO, ("SECTIGO_TEST_AUDIT_SYNC_DELAY", "2h"), ("STDOUT_FORMAT", "xml"), ("DD_ENV", "a b")];
    let error = complete(&broken).unwrap_err();
    assert_eq!(named(&error), ["DD_ENV", "SECTIGO_TEST_AUDIT_SYNC_DELAY", "STDOUT_FORMAT"], "{error}");
    let error = complete(&[TWO, ("AUDITSYNC_RETRY_BUDGET", "25h")]).unwrap_err();
    assert_eq!(named(&error), ["AUDITSYNC_RETRY_BUDGET"], "{error}");
}

#[test]
fn a_list_of_pipelines_names_known_components_and_none_twice() {
    for (list, rule) in [
        ("sectigo", "as source:destination"),
        ("sectigo:datadog,", "as source:destination"),
        ("sectigo:datadog,SECTIGO:datadog", "names the pipeline sectigo:datadog twice"),
        ("nowhere:datadog", "unknown source, \"nowhere\"; known are sectigo"),
        ("sectigo:nowhere", "unknown destination, \"nowhere\"; known are datadog, "),
        ("sectigo.a-b:datadog", "letters, digits and underscores"),
    ] {
        let message = complete(&[("AUDITSYNC_PIPELINES", list)]).unwrap_err().to_string();
        assert!(message.contains("AUDITSYNC_PIPELINES=") && message.contains(rule), "{list}: {message}");
    }
    for blank in ["", " "] {
        let message = complete(&[("AUDITSYNC_PIPELINES", blank)]).unwrap_err().to_string();
        assert!(message.contains("AUDITSYNC_PIPELINES: names no pipeline"), "{message}");
    }
}

#[test]
fn a_variable_of_the_process_may_have_the_sources_prefix_where_only_one_source_runs() {
    let prefixed = ("SECTIGO_AUDIT_LOG_LEVEL", "debug");
    let one_source = ("AUDITSYNC_PIPELINES", "sectigo:datadog,sectigo:stdout");
    assert_eq!(config_with(&[one_source, prefixed]).telemetry.level, tracing::Level::DEBUG);
    assert_eq!(config_with(&[TWO, prefixed]).telemetry.level, tracing::Level::INFO);
}

#[test]
fn a_destination_bounds_the_times_that_only_it_cannot_take() {
    let day = ("AUDITSYNC_SYNC_INTERVAL", "24h");
    let message = complete(&[day]).unwrap_err().to_string();
    assert!(
        message.contains("AUDITSYNC_SYNC_INTERVAL=\"24h\": must be at most 18h: Datadog takes no older event"),
        "{message}"
    );
    config_with(&[day, ("AUDITSYNC_PIPELINES", "sectigo:stdout")]);
}

#[cfg(feature = "receiver")]
#[test]
fn two_pipelines_cannot_use_one_address_or_one_folder() {
    let read = |pairs: &[(&str, &str)]| {
        let datadog = ("DD_API_KEY", "0123456789abcdef0123456789abcdef");
        let read = from_pairs(os(&[&[datadog, ("RECEIVER_AUDIT_LISTEN", "127.0.0.1:8443")], pairs].concat()));
        read.map(drop).map_err(|error| error.mistakes().iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let mistakes = read(&[("AUDITSYNC_PIPELINES", "receiver:datadog,receiver:stdout")]).unwrap_err();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    let rule = "the pipelines receiver:datadog and receiver:stdout cannot both use the";
    for (mistake, variable, thing) in [
        (&mistakes[0], "RECEIVER_AUDIT_LISTEN", "address 127.0.0.1:8443"),
        (&mistakes[1], "RECEIVER_AUDIT_SPOOL_PATH", "folder receiver-spool"),
    ] {
        assert!(mistake.starts_with(variable) && mistake.contains(&format!("{rule} {thing}: ")), "{mistake}");
    }
    let two = [
        ("AUDITSYNC_PIPELINES", "receiver.a:datadog,receiver.b:stdout"),
        ("RECEIVER_B_AUDIT_LISTEN", "127.0.0.1:8444"),
        ("RECEIVER_B_AUDIT_SPOOL_PATH", "./receiver-spool"),
    ];
    let mistakes = read(&two).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    let named = "the pipelines receiver.a:datadog and receiver.b:stdout";
    assert!(mistakes[0].starts_with("RECEIVER_B_AUDIT_SPOOL_PATH=") && mistakes[0].contains(named), "{mistakes:?}");
    let [pipelines, address, _] = two;
    assert_eq!(read(&[pipelines, address, ("RECEIVER_B_AUDIT_SPOOL_PATH", "other-spool")]), Ok(()));
}
