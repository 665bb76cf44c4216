//! Measures `CloudTrail`'s log files, from a bucket on loopback to standard output, which goes to `/dev/null`.
//!
//! A floor runs beside the program. It downloads the same files one after another, inflates them, splits them into records and writes
//! them. It reads no record and keeps no state.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use flate2::read::GzDecoder;
use jiff::SignedDuration;

use crate::support::{FakeTrail, REGION, log_file, log_key, minutes_ago};
use crate::{Failure, meter, meter::Usage};

/// The number of records in the files of a round, from a quiet region to a busy one.
const FILES: [usize; 6] = [20, 150, 600, 1500, 2500, 5230];

/// A record of about 1.2 kB, like that of a call by an assumed role.
fn record(n: usize, hour: &str, random: &mut fastrand::Rng) -> String {
    const NAMES: [(&str, &str); 5] = [
        ("s3.amazonaws.com", "GetObject"),
        ("ec2.amazonaws.com", "DescribeInstances"),
        ("sts.amazonaws.com", "AssumeRole"),
        ("kms.amazonaws.com", "Decrypt"),
        ("dynamodb.amazonaws.com", "PutItem"),
    ];
    let (source, name) = NAMES[random.usize(..NAMES.len())];
    let (role, session, key) = (random.u16(..60), random.u32(..100_000), random.u64(..));
    let (request, event) = (random.u128(..), random.u128(..));
    let (minute, second) = (n / 60 % 60, n % 60);
    format!(
        "{{\"eventVersion\":\"1.11\",\"userIdentity\":{{\"type\":\"AssumedRole\",\"principalId\":\"AROAEXAMPLE{role:05}:session-{session}\",\
         \"arn\":\"arn:aws:sts::111122223333:assumed-role/service-role-{role}/session-{session}\",\"accountId\":\"111122223333\",\
         \"accessKeyId\":\"ASIAEXAMPLE{session:08}\",\"sessionContext\":{{\"sessionIssuer\":{{\"type\":\"Role\",\
         \"principalId\":\"AROAEXAMPLE{role:05}\",\"arn\":\"arn:aws:iam::111122223333:role/service-role-{role}\",\
         \"accountId\":\"111122223333\",\"userName\":\"service-role-{role}\"}},\"attributes\":{{\"creationDate\":\
         \"2026-11-29T02:{minute:02}:11Z\",\"mfaAuthenticated\":\"false\"}}}}}},\"eventTime\":\"{hour}:{minute:02}:{second:02}Z\",\
         \"eventSource\":\"{source}\",\"eventName\":\"{name}\",\"awsRegion\":\"{REGION}\",\"sourceIPAddress\":\"10.{}.{}.7\",\
         \"userAgent\":\"aws-sdk-java/2.20.1 Linux/5.10 OpenJDK_64-Bit_Server_VM/17\",\"requestParameters\":{{\"bucketName\":\"data-{role}\",\
         \"key\":\"partition={}/part-{key:016x}.parquet\"}},\"responseElements\":null,\"requestID\":\"{request:032x}\",\
         \"eventID\":\"{event:032x}\",\"readOnly\":true,\"eventType\":\"AwsApiCall\",\"managementEvent\":false,\
         \"recipientAccountId\":\"111122223333\",\"eventCategory\":\"Data\",\"tlsDetails\":{{\"tlsVersion\":\"TLSv1.3\",\
         \"cipherSuite\":\"TLS_AES_128_GCM_SHA256\",\"clientProvidedHostHeader\":\"{source}\"}}}}",
        random.u8(..),
        random.u8(..),
        random.u16(..400),
    )
}

/// A bucket with log files.
pub struct Bucket {
    fake: FakeTrail,
    keys: Vec<String>,
    pub events: usize,
    /// The bytes of its records.
    pub bytes: usize,
    /// The bytes of its files.
    pub stored: usize,
}

impl Bucket {
    /// Makes a bucket with files of usual sizes and at least so many events.
    pub async fn of_usual_files(events: usize) -> Self {
        Self::of(FILES.into_iter().cycle(), events).await
    }

    /// Makes a bucket with files of so many records each.
    pub async fn of(sizes: impl Iterator<Item = usize>, events: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let hour = minutes_ago(60).to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H").to_string();
        let mut bucket = Self { fake: FakeTrail::start().await, keys: Vec::new(), events: 0, bytes: 0, stored: 0 };
        for (n, size) in sizes.enumerate() {
            if bucket.events >= events {
                break;
            }
            let size = size.min(events - bucket.events);
            let records: Vec<_> = (0..size).map(|more| record(bucket.events + more, &hour, &mut random)).collect();
            let slot = minutes_ago(600 - i64::try_from(n % 500).unwrap_or_default());
            let (key, file) = (log_key("111122223333", REGION, slot, n), log_file(&records));
            bucket.events += size;
            bucket.bytes += records.iter().map(String::len).sum::<usize>();
            bucket.stored += file.len();
            bucket.fake.put(&key, file, slot + SignedDuration::from_mins(5));
            bucket.keys.push(key);
        }
        bucket
    }

    /// The number of files.
    pub fn files(&self) -> usize {
        self.keys.len()
    }

    /// Runs the program over the bucket.
    pub async fn program(&self, binary: &Path, folder: &Path) -> Result<Usage, Failure> {
        let state = tempfile::tempdir_in(folder)?;
        let mut command = Command::new(binary);
        command.args(["run", "--once"]).env_clear().current_dir(state.path()).envs([
            ("AUDITSYNC_PIPELINES", "cloudtrail:stdout"),
            ("CLOUDTRAIL_AUDIT_LOG_BUCKET", FakeTrail::BUCKET),
            ("CLOUDTRAIL_AUDIT_ENDPOINT_URL", &self.fake.url()),
            ("CLOUDTRAIL_AUDIT_FORCE_PATH_STYLE", "true"),
            ("CLOUDTRAIL_AUDIT_SYNC_LOOKBACK", "24h"),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", "AKIAANYONE"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
        meter::run(command).await
    }

    /// Runs the floor over the bucket, in a process of its own.
    pub async fn floor(&self, folder: &Path) -> Result<Usage, Failure> {
        let list = folder.join("keys");
        let urls: Vec<_> =
            self.keys.iter().map(|key| format!("{}/{}/{key}", self.fake.url(), FakeTrail::BUCKET)).collect();
        std::fs::write(&list, urls.join("\n"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("trail-floor").arg(list);
        meter::run(command).await
    }
}

/// Runs as the floor.
pub async fn floor(list: &Path) -> Result<(), Failure> {
    const BEHIND: &[u8] = b"},{\"eventVersion\"";
    let http = reqwest::Client::new();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for url in std::fs::read_to_string(list)?.lines() {
        let signed = http.get(url).header("authorization", "AWS4-HMAC-SHA256 floor");
        let file = signed.send().await?.error_for_status()?.bytes().await?;
        let mut document = Vec::new();
        GzDecoder::new(&file[..]).read_to_end(&mut document)?;
        let mut rest = document.strip_prefix(b"{\"Records\":[").ok_or("no document")?;
        while let Some(end) = memchr::memmem::find(rest, BEHIND) {
            out.write_all(&rest[..=end])?;
            out.write_all(b"\n")?;
            rest = &rest[end + 2..];
        }
        out.write_all(&rest[..rest.len().saturating_sub(2)])?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
