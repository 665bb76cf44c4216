//! The variables of `CloudTrail`'s log files, beside those that AWS's own library reads.

use std::time::Duration;

use jiff::Timestamp;
use url::Url;

use super::Settings;
use super::digest::keys::PublicKeys;
use super::key::{Filter, is_account, is_region};
use crate::aws::connection::{Options, Role};
use crate::config::{Bounds, Noted, Preset, Reader, Scope, Spec, Variable, parse};
use crate::source::Queue;
use crate::source::variables::LOOKBACK;

/// The bucket.
pub(crate) const LOG_BUCKET: Variable<String> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_LOG_BUCKET",
    Preset::Nothing,
    |text, _| parse::bucket(text),
    "S3 bucket of the trail. Required without a queue. Credentials: AWS's own variables, files and roles.",
);

/// The path in the bucket.
pub(crate) const LOG_PREFIX: Variable<String> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_LOG_PREFIX",
    Preset::Nothing,
    |text, _| parse::prefix(text),
    "Path in the bucket, before AWSLogs/.",
);

/// Where the bucket is.
pub(crate) const LOG_REGION: Variable<String> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_LOG_REGION",
    Preset::Derived("AWS's own"),
    |text, _| region(text),
    "Region of the bucket. If S3 names another region, auditsync reads the bucket there.",
);

/// The server.
pub(crate) const ENDPOINT_URL: Variable<Url> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_ENDPOINT_URL",
    Preset::Derived("AWS's own"),
    |text, _| parse::api_url(text),
    "Address of another S3, for this source alone.",
);

/// Whether the path names the bucket, instead of the host.
pub(crate) const FORCE_PATH_STYLE: Variable<bool> = Variable::flag(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_FORCE_PATH_STYLE",
    Preset::Value("false"),
    "Name the bucket in the path and not in the host, for S3-compatible stores: true or false.",
);

/// Whether the reader pays for requests.
pub(crate) const REQUESTER_PAYS: Variable<bool> = Variable::flag(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_REQUESTER_PAYS",
    Preset::Value("false"),
    "Pay for requests to a bucket whose requesters pay: true or false.",
);

/// The role to assume.
pub(crate) const ROLE_ARN: Variable<String> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_ROLE_ARN",
    Preset::Nothing,
    |text, _| role_arn(text),
    "Role to assume for reading, in another account.",
);

/// The external id that the role's trust policy requires.
pub(crate) const EXTERNAL_ID: Variable<String> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_EXTERNAL_ID",
    Preset::Nothing,
    |text, _| external_id(text),
    "External id that the role's trust policy requires.",
);

/// The accounts whose files are read.
pub(crate) const ACCOUNTS: Variable<Filter> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_ACCOUNTS",
    Preset::Derived("all"),
    |text, _| Filter::parse(text, is_account, "must be account numbers of twelve digits, separated by commas"),
    "Accounts to read, separated by commas; one that begins with - is left out.",
);

/// The regions whose files are read.
pub(crate) const REGIONS: Variable<Filter> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_REGIONS",
    Preset::Derived("all"),
    |text, _| Filter::parse(text, is_region, "must be regions such as us-east-1, separated by commas"),
    "Regions to read, separated by commas; one that begins with - is left out.",
);

/// The start of the first sync.
pub(crate) const START: Variable<Timestamp> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_START",
    Preset::Derived("now less the lookback"),
    |text, _| text.parse().map_err(|_| "must be a time in RFC 3339, such as 2026-03-01T12:00:00Z".to_owned()),
    "Time of the oldest record that the first sync delivers.",
);

/// Whether records that were delivered before are dropped.
pub(crate) const DEDUPLICATE: Variable<bool> = Variable::flag(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_DEDUPLICATE",
    Preset::Value("true"),
    "Drop a record whose eventID and recipientAccountId came before, as from two trails: true or false.",
);

/// The queue with notifications of new files.
pub(crate) const SQS_QUEUE_URL: Variable<Url> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_SQS_QUEUE_URL",
    Preset::Nothing,
    |text, _| parse::api_url(text),
    "SQS queue with notifications of new log files. With it, auditsync does not list the bucket.",
);

/// How long the queue hides a message that is in flight.
pub(crate) const SQS_VISIBILITY: Variable<Duration> = Variable::time(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_SQS_VISIBILITY",
    "60s",
    Bounds::seconds(2, 12 * 3600).whole_seconds(),
    "How long after its instance ended SQS shows a message again. auditsync extends it in flight.",
);

/// Whether a source with a queue looks for files without notification.
pub(crate) const SWEEP: Variable<bool> = Variable::flag(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_SWEEP",
    Preset::Value("false"),
    "With a queue: also list the bucket once a day for files without a message: true or false.",
);

/// Whether digest files are verified.
pub(crate) const VERIFY: Variable<bool> = Variable::flag(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_VERIFY",
    Preset::Value("false"),
    "Verify what is delivered against the trail's digest files: true or false. With a queue, it includes the sweep.",
);

/// The key of the digest files' signatures.
pub(crate) const DIGEST_PUBLIC_KEY: Variable<PublicKeys> = Variable::new(
    Scope::Source,
    "CLOUDTRAIL_AUDIT_DIGEST_PUBLIC_KEY",
    Preset::Derived("from CloudTrail's API"),
    |text, _| PublicKeys::at(text),
    "File with the public key of the digest files' signatures, as PEM or DER in base64.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &LOG_BUCKET.spec,
    &LOG_PREFIX.spec,
    &LOG_REGION.spec,
    &ROLE_ARN.spec,
    &EXTERNAL_ID.spec,
    &ACCOUNTS.spec,
    &REGIONS.spec,
    &START.spec,
    &DEDUPLICATE.spec,
    &SQS_QUEUE_URL.spec,
    &SQS_VISIBILITY.spec,
    &SWEEP.spec,
    &VERIFY.spec,
    &DIGEST_PUBLIC_KEY.spec,
    &REQUESTER_PAYS.spec,
    &ENDPOINT_URL.spec,
    &FORCE_PATH_STYLE.spec,
];

/// Reads the settings of the log files.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let queue_url = reader.find(&SQS_QUEUE_URL);
    // Without a queue the bucket is required, and its absence is reported as such.
    let bucket = match &queue_url {
        Ok(Some(_)) => reader.find(&LOG_BUCKET),
        _ => bucket(reader).map(Some),
    };
    let prefix = reader.find(&LOG_PREFIX);
    let (region, endpoint_url) = (reader.find(&LOG_REGION), reader.find(&ENDPOINT_URL));
    let (force_path_style, requester_pays) = (reader.get(&FORCE_PATH_STYLE), reader.get(&REQUESTER_PAYS));
    let role = role(reader);
    let (accounts, regions) = (reader.find(&ACCOUNTS), reader.find(&REGIONS));
    let (start, lookback) = (reader.find(&START), reader.get(&LOOKBACK));
    let deduplicates = reader.get(&DEDUPLICATE);
    let visibility = reader.get(&SQS_VISIBILITY);
    let (sweeps, verifies) = (reader.get(&SWEEP), reader.get(&VERIFY));
    let digest_key = reader.find(&DIGEST_PUBLIC_KEY);
    let (queue_url, bucket) = (queue_url?, bucket?);
    for (is_set, variable) in [(sweeps.as_ref(), &SWEEP), (verifies.as_ref(), &VERIFY)] {
        if bucket.is_none() && is_set.is_ok_and(|is_set| *is_set) {
            return Err(reader.refuse(&variable.spec, format!("needs {}", LOG_BUCKET.spec.name)));
        }
    }
    let (sweeps, verifies) = (sweeps?, verifies?);
    Ok(Settings {
        bucket,
        prefix: prefix?.unwrap_or_default(),
        connection: Options {
            region: region?,
            endpoint_url: endpoint_url?.map(|url| url.as_str().trim_end_matches('/').to_owned()),
            force_path_style: force_path_style?,
            role: role?,
        },
        requester_pays: requester_pays?,
        accounts: accounts?.unwrap_or_default(),
        regions: regions?.unwrap_or_default(),
        start: start?,
        lookback: lookback?,
        deduplicates: deduplicates?,
        queue_url,
        visibility: visibility?,
        sweeps: sweeps || verifies,
        verifies,
        digest_key: digest_key?,
    })
}

/// Reads the queue, if one is named. Only a listing makes a stored cursor necessary.
pub(crate) fn queue(reader: &mut Reader<'_>) -> Result<Option<Queue>, Noted> {
    let (url, sweeps, verifies) = (reader.find(&SQS_QUEUE_URL), reader.get(&SWEEP), reader.get(&VERIFY));
    let lists = sweeps? || verifies?;
    Ok(url?.map(|_| Queue { is_the_cursor: !lists }))
}

fn bucket(reader: &mut Reader<'_>) -> Result<String, Noted> {
    if let Some(bucket) = reader.find(&LOG_BUCKET)? {
        return Ok(bucket);
    }
    let rule = format!("is required but not set, and neither is {}. {}", SQS_QUEUE_URL.spec.name, LOG_BUCKET.spec.help);
    Err(reader.refuse(&LOG_BUCKET.spec, rule))
}

fn role(reader: &mut Reader<'_>) -> Result<Option<Role>, Noted> {
    let (arn, external_id) = (reader.find(&ROLE_ARN), reader.find(&EXTERNAL_ID));
    match (arn?, external_id?) {
        (Some(arn), external_id) => Ok(Some(Role { arn, external_id })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let arn = reader.name(&ROLE_ARN.spec);
            Err(reader.refuse(&EXTERNAL_ID.spec, format!("needs {arn}")))
        }
    }
}

fn region(text: &str) -> Result<String, String> {
    if is_region(text) { Ok(text.to_owned()) } else { Err("must be a region such as us-east-1".to_owned()) }
}

/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html>
fn role_arn(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split(':').collect();
    let is_role = match parts[..] {
        ["arn", partition, "iam", "", account, name] => {
            partition.starts_with("aws")
                && is_account(account)
                && name.strip_prefix("role/").is_some_and(|name| !name.is_empty())
        }
        _ => false,
    };
    if is_role && text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("must be the ARN of a role, such as arn:aws:iam::111122223333:role/auditsync".to_owned())
}

/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>
fn external_id(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&byte);
    if (2..=1224).contains(&text.len()) && text.bytes().all(is_part) {
        return Ok(text.to_owned());
    }
    Err("must be 2 to 1224 letters, digits and _+=,.@:/-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs_of;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs_of(super::super::KIND.name, pairs, settings)
    }

    const BUCKET: (&str, &str) = ("CLOUDTRAIL_AUDIT_LOG_BUCKET", "trail");

    #[test]
    fn a_bucket_is_enough() {
        let found = read(&[BUCKET]).unwrap();
        assert_eq!((found.bucket.as_deref(), found.prefix.as_str()), (Some("trail"), ""));
        assert_eq!((found.start, found.lookback), (None, Duration::from_secs(3600)));
        assert!(found.deduplicates && !found.sweeps && !found.verifies && !found.requester_pays);
        assert!(found.connection.role.is_none() && !found.connection.force_path_style);
        let message = read(&[]).unwrap_err();
        assert!(
            message.contains("LOG_BUCKET: is required but not set, and neither is CLOUDTRAIL_AUDIT_SQS_QUEUE_URL"),
            "{message}"
        );
    }

    #[test]
    fn with_a_queue_the_bucket_is_optional() {
        let queue = ("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/111122223333/q");
        assert_eq!(read(&[queue]).unwrap().bucket, None);
        let message = read(&[queue, ("CLOUDTRAIL_AUDIT_SWEEP", "true")]).unwrap_err();
        assert!(message.contains("needs CLOUDTRAIL_AUDIT_LOG_BUCKET"), "{message}");
        let swept = read(&[queue, BUCKET, ("CLOUDTRAIL_AUDIT_SWEEP", "true")]).unwrap();
        assert!(swept.sweeps && !swept.verifies);
        let verified = read(&[queue, BUCKET, ("CLOUDTRAIL_AUDIT_VERIFY", "true")]).unwrap();
        assert!(verified.sweeps && verified.verifies, "verifying includes the sweep");
    }

    #[test]
    fn a_queue_is_the_cursor_unless_the_bucket_is_listed() {
        let url = ("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/111122223333/q");
        let queue = |pairs: &[(&str, &str)]| read_pairs_of(super::super::KIND.name, pairs, super::queue).unwrap();
        assert_eq!(queue(&[BUCKET]), None);
        assert_eq!(queue(&[url]), Some(Queue { is_the_cursor: true }));
        for lists in ["CLOUDTRAIL_AUDIT_SWEEP", "CLOUDTRAIL_AUDIT_VERIFY"] {
            assert_eq!(queue(&[url, BUCKET, (lists, "true")]), Some(Queue { is_the_cursor: false }));
        }
    }

    #[test]
    fn each_variable_reaches_its_own_setting() {
        let found = read(&[
            BUCKET,
            ("CLOUDTRAIL_AUDIT_LOG_PREFIX", "/logs/trail/"),
            ("CLOUDTRAIL_AUDIT_LOG_REGION", "eu-west-1"),
            ("CLOUDTRAIL_AUDIT_ENDPOINT_URL", "https://s3.example.com/"),
            ("CLOUDTRAIL_AUDIT_FORCE_PATH_STYLE", "true"),
            ("CLOUDTRAIL_AUDIT_REQUESTER_PAYS", "true"),
            ("CLOUDTRAIL_AUDIT_ROLE_ARN", "arn:aws-us-gov:iam::111122223333:role/path/reader"),
            ("CLOUDTRAIL_AUDIT_EXTERNAL_ID", "a-1"),
            ("CLOUDTRAIL_AUDIT_ACCOUNTS", "111122223333"),
            ("CLOUDTRAIL_AUDIT_REGIONS", "-us-east-1"),
            ("CLOUDTRAIL_AUDIT_START", "2026-03-01T12:00:00Z"),
            ("CLOUDTRAIL_AUDIT_DEDUPLICATE", "false"),
        ])
        .unwrap();
        assert_eq!(found.prefix, "logs/trail");
        let connection = found.connection;
        assert_eq!(connection.region.as_deref(), Some("eu-west-1"));
        assert_eq!(connection.endpoint_url.as_deref(), Some("https://s3.example.com"));
        assert_eq!(connection.role.unwrap().external_id.as_deref(), Some("a-1"));
        assert!(connection.force_path_style && found.requester_pays && !found.deduplicates);
        assert!(!found.accounts.takes("111122223334") && !found.regions.takes("us-east-1"));
        assert_eq!(found.start, Some("2026-03-01T12:00:00Z".parse().unwrap()));
    }

    #[test]
    fn what_cannot_be_used_is_answered_with_the_rule() {
        for (suffix, value, rule) in [
            ("LOG_BUCKET", "s3://trail", "only the name of a bucket"),
            ("LOG_REGION", "Ireland", "a region such as us-east-1"),
            ("ENDPOINT_URL", "http://s3.example.com", "must begin with https://"),
            ("ROLE_ARN", "arn:aws:iam::1:role/x", "the ARN of a role"),
            ("ROLE_ARN", "arn:aws:iam::111122223333:user/x", "the ARN of a role"),
            ("EXTERNAL_ID", "a b", "2 to 1224 letters"),
            ("EXTERNAL_ID", "abc", "needs CLOUDTRAIL_AUDIT_ROLE_ARN"),
            ("ACCOUNTS", "1234", "twelve digits"),
            ("REGIONS", "*", "regions such as"),
            ("START", "yesterday", "RFC 3339"),
            ("VERIFY", "maybe", "true or false"),
            ("DIGEST_PUBLIC_KEY", "/nonexistent/key.pem", "cannot be read"),
        ] {
            let name = format!("CLOUDTRAIL_AUDIT_{suffix}");
            let message = read(&[(&name, value), BUCKET]).unwrap_err();
            assert!(message.contains(&name) && message.contains(rule), "{message}");
        }
    }
}
