//! Reads the keys of log files: the account of the file, its slot, and how late it came.
//!
//! `[prefix/]AWSLogs/[o-<organisation>/]<account>/CloudTrail/<region>/YYYY/MM/DD/<account>_CloudTrail_<region>_YYYYMMDDTHHmmZ_<random>.json.gz`
//! (<https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-examples.html>). A key of another
//! form belongs to no log file: digest files, files of Insights, folders, and the file that a trail writes to test its
//! bucket.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The folder of log files in an account's folder.
const LOGS: &str = "CloudTrail";

/// The folder of digest files in an account's folder.
const DIGESTS: &str = "CloudTrail-Digest";

/// A kind of files of a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// Log files.
    Logs,
    /// Digest files.
    Digests,
}

impl Files {
    /// Their folder in an account's folder.
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::Logs => LOGS,
            Self::Digests => DIGESTS,
        }
    }

    /// The slot of such a file; for a digest, the end of its hour. None if `key` does not belong to such a file.
    pub(super) fn slot(self, key: &str) -> Option<Timestamp> {
        match self {
            Self::Logs => LogKey::parse(key).map(|key| key.slot),
            Self::Digests => digest_end(key),
        }
    }

    /// The earliest slot that a key after one of slot `slot` can have in the same folder. Log files are in the order of their slots. The
    /// digests of a day are in the order of their trails first.
    pub(super) fn earliest_behind(self, slot: Timestamp) -> Timestamp {
        match self {
            Self::Logs => slot,
            Self::Digests => slot.checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN),
        }
    }
}

/// Splits `…/<account>/<folder>/<region>/YYYY/MM/DD/<account>_<folder>_<region>_<rest>.json.gz` into its account, its region and the rest.
fn parts<'a>(key: &'a str, folder: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let mut parts = key.rsplit('/');
    let mut rest = parts.next()?;
    let [day, month, year] = [parts.next()?, parts.next()?, parts.next()?];
    let (region, own, account) = (parts.next()?, parts.next()?, parts.next()?);
    let is_date = digits(day, 2) && digits(month, 2) && digits(year, 4);
    if !is_date || own != folder || !is_account(account) || !is_region(region) {
        return None;
    }
    for part in [account, folder, region] {
        rest = rest.strip_prefix(part)?.strip_prefix('_')?;
    }
    Some((account, region, rest.strip_suffix(".json.gz")?))
}

/// The end of the hour of a digest, whose name ends with `<trail>_<home region>_YYYYMMDDTHHmmssZ[_backfill].json.gz`.
fn digest_end(key: &str) -> Option<Timestamp> {
    let (_, _, rest) = parts(key, DIGESTS)?;
    let (_, end) = rest.strip_suffix("_backfill").unwrap_or(rest).rsplit_once('_')?;
    let (minute, second) = end.strip_suffix('Z')?.split_at_checked(13)?;
    digits(second, 2).then(|| slot(&format!("{minute}Z")))?
}

/// The folder of all accounts.
pub(super) const ACCOUNTS: &str = "AWSLogs";

/// The key of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogKey<'a> {
    /// The account, twelve digits.
    pub(super) account: &'a str,
    /// The region.
    pub(super) region: &'a str,
    /// The slot of delivery: whole minutes, in practice in steps of five. The file may hold events of any earlier time.
    pub(super) slot: Timestamp,
}

impl<'a> LogKey<'a> {
    /// Reads `key`; none if it does not belong to a log file.
    pub(super) fn parse(key: &'a str) -> Option<Self> {
        let (account, region, rest) = parts(key, LOGS)?;
        let (slot, random) = rest.split_once('_')?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        (!random.is_empty() && random.bytes().all(is_word)).then_some(())?;
        Some(Self { account, region, slot: self::slot(slot)? })
    }
}

/// Reads a slot such as `20261129T0340Z`.
fn slot(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    (digits(date, 8) && digits(time, 4)).then_some(())?;
    let number = |text: Option<&str>| text?.parse::<i8>().ok();
    let year = date.get(..4)?.parse().ok()?;
    let (month, day) = (number(date.get(4..6))?, number(date.get(6..))?);
    let (hour, minute) = (number(time.get(..2))?, number(time.get(2..))?);
    TimeZone::UTC.to_timestamp(DateTime::new(year, month, day, hour, minute, 0, 0).ok()?).ok()
}

fn digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether `name` is an account's number.
pub(super) fn is_account(name: &str) -> bool {
    digits(name, 12)
}

/// Whether `name` may be a region, such as `us-gov-west-1`.
pub(super) fn is_region(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&name.len()) && name.bytes().all(is_part) && !name.starts_with('-')
}

/// Whether `name` may be an organisation's identifier.
pub(super) fn is_organisation(name: &str) -> bool {
    name.starts_with("o-") && name.bytes().skip(2).all(|byte| byte.is_ascii_alphanumeric())
}

/// How late a log file came, by its own two times alone, so that a file stays in one class. The source looks for each
/// class less often, and further back, than for the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Class {
    /// At most an hour after its slot, or before it. Listed at each sync.
    Regular,
    /// At most two days after its slot. Listed once an hour.
    Late,
    /// Later. Listed once a day, up to 30 days after its slot.
    VeryLate,
}

impl Class {
    /// All of them, the most frequent first.
    pub(super) const ALL: [Self; 3] = [Self::Regular, Self::Late, Self::VeryLate];

    /// The class of a file that was written at `modified` into the slot `slot`.
    pub(super) fn of(slot: Timestamp, modified: Timestamp) -> Self {
        let late_by = modified.duration_since(slot);
        let is_within = |class: &&Self| late_by <= class.reach();
        *Self::ALL.iter().find(is_within).unwrap_or(&Self::VeryLate)
    }

    /// How long after its slot a file of this class may be written. `CloudTrail` itself tries to deliver for 30 days.
    pub(super) const fn reach(self) -> SignedDuration {
        match self {
            Self::Regular => SignedDuration::from_hours(1),
            Self::Late => SignedDuration::from_hours(48),
            Self::VeryLate => SignedDuration::from_hours(30 * 24),
        }
    }

    /// The time between two listings for this class; none for each sync.
    pub(super) const fn period(self) -> Option<Duration> {
        match self {
            Self::Regular => None,
            Self::Late => Some(Duration::from_secs(3600)),
            Self::VeryLate => Some(Duration::from_secs(86_400)),
        }
    }
}

/// A folder of one account's log files in one region: its path, with a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Folder(String);

impl Folder {
    /// Makes a folder of `path`; none if it is not a folder of log files or digests.
    pub(super) fn at(path: String) -> Option<Self> {
        let folder = Self(path);
        folder.parts().map(|_| ())?;
        Some(folder)
    }

    /// Its account and its region.
    fn parts(&self) -> Option<(&str, &str)> {
        let mut parts = self.0.strip_suffix('/')?.rsplit('/');
        let (region, logs, account) = (parts.next()?, parts.next()?, parts.next()?);
        ((logs == LOGS || logs == DIGESTS) && is_account(account) && is_region(region)).then_some((account, region))
    }

    /// Its path, with a slash at its end.
    pub(super) fn path(&self) -> &str {
        &self.0
    }

    /// The key after which to list, to find every file whose slot is `from` or later. In a folder, keys are in the
    /// order of their days, and of their slots within a day.
    pub(super) fn before(&self, from: Timestamp) -> String {
        let (account, region) = self.parts().unwrap_or_default();
        let slot = from.max(EARLIEST).to_zoned(TimeZone::UTC);
        let day = slot.strftime("%Y/%m/%d");
        // Digests of several trails share a folder, and each name begins with its trail's.
        if self.0.contains(DIGESTS) {
            return format!("{}{day}/", self.0);
        }
        format!("{}{day}/{account}_CloudTrail_{region}_{}", self.0, slot.strftime("%Y%m%dT%H%MZ"))
    }
}

/// The earliest slot that is listed. `CloudTrail` began in 2013, and a key needs a year of four digits.
const EARLIEST: Timestamp = Timestamp::constant(1_356_998_400, 0);

/// Selects accounts or regions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filter {
    /// Only these; all if the list is empty.
    wanted: Vec<String>,
    /// Never these.
    unwanted: Vec<String>,
}

impl Filter {
    /// Reads names separated by commas; excludes one that begins with `-`.
    pub(super) fn parse(text: &str, is_name: fn(&str) -> bool, rule: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for part in text.split(',').map(str::trim) {
            let (names, name) = match part.strip_prefix('-') {
                Some(name) => (&mut filter.unwanted, name),
                None => (&mut filter.wanted, part),
            };
            if !is_name(name) {
                return Err(rule.to_owned());
            }
            names.push(name.to_owned());
        }
        Ok(filter)
    }

    /// Whether `name` is selected.
    pub(super) fn takes(&self, name: &str) -> bool {
        let is_it = |known: &String| known == name;
        (self.wanted.is_empty() || self.wanted.iter().any(is_it)) && !self.unwanted.iter().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NAME: &str = "111122223333_CloudTrail_us-gov-west-1_20261129T0340Z_AbCd0123efGh4567.json.gz";

    #[test]
    fn in_a_folder_no_key_behind_another_has_an_earlier_slot_than_is_expected() {
        let (mut logs, mut digests) = (Vec::new(), Vec::new());
        for hour in 0..72 {
            let end = time("2026-11-28T00:00:00Z") + SignedDuration::from_hours(hour);
            let end = end.to_zoned(TimeZone::UTC);
            let folder = |files: Files| {
                format!("AWSLogs/111122223333/{}/us-east-2/{}", files.folder(), end.strftime("%Y/%m/%d"))
            };
            let slot = end.strftime("%Y%m%dT%H%M");
            logs.push(format!(
                "{}/111122223333_CloudTrail_us-east-2_{slot}Z_{:016}.json.gz",
                folder(Files::Logs),
                99 - hour
            ));
            for trail in ["a", "z"] {
                digests.push(format!(
                    "{}/111122223333_CloudTrail-Digest_us-east-2_{trail}_us-east-2_{slot}00Z.json.gz",
                    folder(Files::Digests)
                ));
            }
        }
        for (files, mut keys) in [(Files::Logs, logs), (Files::Digests, digests)] {
            keys.sort();
            let slots: Vec<_> = keys.iter().map(|key| files.slot(key).unwrap()).collect();
            for (n, slot) in slots.iter().enumerate() {
                let earliest = slots[n..].iter().min().unwrap();
                assert!(files.earliest_behind(*slot) <= *earliest, "{files:?}: {slot} before {earliest}");
            }
        }
    }

    #[test]
    fn the_name_of_a_digest_has_the_end_of_its_hour() {
        let folder = "p/AWSLogs/o-a1/111122223333/CloudTrail-Digest/us-east-2/2026/11/29";
        let name = |rest: &str| format!("{folder}/111122223333_CloudTrail-Digest_us-east-2_{rest}");
        let end = Some(time("2026-11-29T15:01:00Z"));
        for rest in ["my_trail_us-east-1_20261129T150131Z.json.gz", "t_us-east-1_20261129T150131Z_backfill.json.gz"] {
            assert_eq!(Files::Digests.slot(&name(rest)), end, "{rest}");
        }
        for other in [
            name("t_us-east-1_20261129T1501Z.json.gz"),
            name("t_us-east-1_20261129T150131Z.json"),
            name("20261129T150131Z").replace("us-east-2_", ""),
            format!("p/AWSLogs/111122223333/CloudTrail/us-gov-west-1/2026/11/29/{NAME}"),
        ] {
            assert_eq!(Files::Digests.slot(&other), None, "{other}");
        }
        let path = "AWSLogs/111122223333/CloudTrail-Digest/us-east-2/".to_owned();
        let folder = Folder::at(path.clone()).unwrap();
        assert_eq!(folder.before(time("2026-11-29T15:01:00Z")), format!("{path}2026/11/29/"));
    }

    #[test]
    fn a_log_file_is_known_with_or_without_prefix_and_organisation() {
        for before in ["", "logs/2026/", "o-a1b2c3d4e5/"] {
            let key = format!("{before}AWSLogs/111122223333/CloudTrail/us-gov-west-1/2026/11/29/{NAME}");
            let found = LogKey::parse(&key).unwrap();
            assert_eq!((found.account, found.region), ("111122223333", "us-gov-west-1"));
            assert_eq!(found.slot, time("2026-11-29T03:40:00Z"));
        }
    }

    #[test]
    fn what_is_no_log_file_is_left_out() {
        let folder = "AWSLogs/111122223333/CloudTrail/us-east-1/2026/11/29";
        let name = NAME.replace("us-gov-west-1", "us-east-1");
        assert!(LogKey::parse(&format!("{folder}/{name}")).is_some());
        for key in [
            format!("AWSLogs/111122223333/CloudTrail-Digest/us-east-1/2026/11/29/{name}"),
            format!("AWSLogs/111122223333/CloudTrail-Insight/us-east-1/2026/11/29/{name}"),
            format!("{folder}/111122223333_CloudTrail-Digest_us-east-1_trail_us-east-1_20261129T034000Z.json.gz"),
            format!("{folder}/"),
            "AWSLogs/111122223333/CloudTrail/us-east-1/2026/11/29/CloudTrail validation message".to_owned(),
            format!("{folder}/{}", name.replace("T0340Z", "T0360Z")),
            format!("{folder}/{}", name.replace("20261129", "20261131")),
            format!("{folder}/{}", name.replace(".gz", ".zst")),
            format!("{folder}/{}", name.replace("111122223333", "111122223334")),
            format!("{folder}/{}", name.replace("us-east-1", "us-east-2")),
            format!("{folder}/{}", name.replace("AbCd0123efGh4567", "")),
            name.clone(),
            String::new(),
        ] {
            assert_eq!(LogKey::parse(&key), None, "{key}");
        }
    }

    #[test]
    fn a_class_follows_from_a_files_own_two_times() {
        let slot = time("2026-11-29T12:00:00Z");
        for (modified, class) in [
            ("2026-11-29T11:55:00Z", Class::Regular),
            ("2026-11-29T13:00:00Z", Class::Regular),
            ("2026-11-29T13:00:01Z", Class::Late),
            ("2026-12-01T12:00:00Z", Class::Late),
            ("2026-12-01T12:00:01Z", Class::VeryLate),
            ("2027-12-01T12:00:01Z", Class::VeryLate),
        ] {
            assert_eq!(Class::of(slot, time(modified)), class, "{modified}");
        }
    }

    #[test]
    fn a_folder_is_listed_from_a_slot_on() {
        let folder = Folder::at("p/AWSLogs/o-abc/111122223333/CloudTrail/us-east-1/".to_owned()).unwrap();
        let before = folder.before(time("2026-11-29T03:40:59Z"));
        let key = |day: &str, slot: &str| {
            format!("{}{day}/111122223333_CloudTrail_us-east-1_{slot}_AbCd.json.gz", folder.path())
        };
        assert!(key("2026/11/29", "20261129T0340Z") > before);
        assert!(key("2026/11/29", "20261129T0335Z") < before);
        assert!(key("2026/12/01", "20261201T0000Z") > before);
        assert!(key("2026/11/28", "20261128T2355Z") < before);
        assert!(folder.before(Timestamp::MIN).contains("/2013/01/01/"));
        for path in ["AWSLogs/111122223333/CloudTrail-Insight/us-east-1/", "AWSLogs/1/CloudTrail/us-east-1/", "", "/"] {
            assert_eq!(Folder::at(path.to_owned()), None, "{path}");
        }
    }

    #[test]
    fn a_filter_takes_what_is_named_and_leaves_out_what_has_a_minus() {
        let parse = |text| Filter::parse(text, is_region, "must be regions");
        let filter = parse("us-east-1, eu-west-1").unwrap();
        assert!(filter.takes("eu-west-1") && !filter.takes("eu-west-2"));
        let filter = parse("-us-east-1").unwrap();
        assert!(filter.takes("eu-west-1") && !filter.takes("us-east-1"));
        assert!(Filter::default().takes("anything"));
        for text in ["US East", "", "a,,b", "--a"] {
            assert_eq!(parse(text), Err("must be regions".to_owned()), "{text}");
        }
    }
}
