//! The part of the state for digest files: which of them are verified, and the hashes of delivered log files that no
//! digest has listed yet.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, Serializer};

use super::super::cursor::Progress;
use crate::aws::digest::Sha256;
use crate::fingerprint::Fingerprint;

/// The most log files that wait for their digest in memory, at about 100 bytes each. If 1700 folders get a file every five minutes, and
/// each file waits for 80 minutes, 27,000 files wait.
const MOST: usize = 65_536;

/// The most of these files in the state, which holds the newest.
const MOST_WRITTEN: usize = 4096;

/// The time after which a file without a digest gets none. `CloudTrail` writes a digest every hour.
const LONGEST: SignedDuration = SignedDuration::from_hours(48);

/// The bytes of one file: eight of its key's hash, four of its time, sixteen of its SHA-256.
const WRITTEN: usize = 28;

/// How far digest files are verified.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written<'static>")]
pub(in crate::source::cloudtrail) struct Verified {
    /// The digest files that are finished.
    pub(in crate::source::cloudtrail) digests: Progress,
    /// The time from which `files` holds every delivered file that has no digest yet.
    complete_since: Timestamp,
    files: Files,
}

/// The form of [`Verified`] in the state.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    digests: Cow<'a, Progress>,
    complete_since: Timestamp,
    files: String,
}

/// The files that wait for their digest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Files {
    /// The content of each file, in the order of writing. The key is the time of writing, in seconds since 1970, and the hash of the
    /// file's key.
    contents: BTreeMap<(u32, u64), Content>,
    /// In each folder, the time of writing of the first file since its last digest, as far as this process knows. The state does not hold
    /// it.
    folders: BTreeMap<String, u32>,
    /// The time of each file's writing, by the hash of its key.
    times: HashMap<u64, u32>,
}

/// The first half of a file's SHA-256.
type Content = [u8; 16];

/// Stands for the content of a file that could not be read.
const UNKNOWN: Content = [0; 16];

/// The state of a file that a digest lists.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It was delivered with the content that the digest lists.
    Proven,
    /// It was delivered with other content.
    Mismatched,
    /// It could not be read, and is a dead letter.
    GivenUp,
    /// It may have been delivered long ago.
    Unknown,
}

impl Verified {
    /// The state before the first digest. It knows none of the files that `delivered` counts.
    pub(in crate::source::cloudtrail) fn beginning(delivered: &Progress) -> Self {
        // By the bucket's own clock, because a wrong clock here would take some of those files for undelivered.
        let complete_since = delivered.behind_all().unwrap_or(Timestamp::UNIX_EPOCH);
        Self { digests: Progress::since(delivered.reached()), complete_since, files: Files::default() }
    }

    /// Notes that a file was delivered whole.
    pub(in crate::source::cloudtrail) fn delivered(&mut self, key: &str, modified: Timestamp, sha256: Sha256) {
        self.note(key, modified, sha256.half());
    }

    /// Notes that a file could not be read, and is a dead letter. Its content is unknown.
    pub(in crate::source::cloudtrail) fn given_up(&mut self, key: &str, modified: Timestamp) {
        self.note(key, modified, UNKNOWN);
    }

    fn note(&mut self, key: &str, modified: Timestamp, content: Content) {
        self.files.insert(hash(key), seconds(modified), content);
        let first = self.files.folders.entry(folder(key).to_owned()).or_insert(seconds(modified));
        *first = seconds(modified).min(*first);
        let oldest = modified.checked_sub(LONGEST).map_or(0, seconds);
        let mut dropped = None;
        while let Some(first) = self.files.oldest()
            && (self.files.len() > MOST || first < oldest || dropped == Some(first))
        {
            self.files.drop_oldest();
            dropped = Some(first);
        }
        if let Some(newest) = dropped {
            self.complete_since = self.complete_since.max(behind(newest));
        }
    }

    /// Looks up a file that a digest lists with this hash.
    pub(super) fn known(&self, key: &str, sha256: Sha256) -> Known {
        match self.files.content(hash(key)) {
            Some(UNKNOWN) => Known::GivenUp,
            Some(content) if content == sha256.half() => Known::Proven,
            Some(_) => Known::Mismatched,
            None => Known::Unknown,
        }
    }

    /// Whether an unknown file, written at `modified`, was certainly not delivered.
    pub(super) fn would_know(&self, modified: Timestamp) -> bool {
        modified >= self.complete_since
    }

    /// Notes that a digest has listed these files.
    pub(super) fn done<'a>(&mut self, keys: impl IntoIterator<Item = &'a str>) {
        for key in keys {
            self.files.remove(hash(key));
            self.files.folders.remove(folder(key));
        }
    }

    /// The number of files that no digest has listed, of those written after `from` and up to `to`.
    pub(super) fn unlisted(&self, from: Timestamp, to: Timestamp) -> usize {
        let (from, to) = (seconds(from), seconds(to));
        if from >= to { 0 } else { self.files.contents.range((from + 1, 0)..=(to, u64::MAX)).count() }
    }

    /// The folders of such files, as far as this process knows.
    pub(super) fn unlisted_folders(&self, to: Timestamp) -> impl Iterator<Item = &str> {
        let is_before = move |first: u32| first <= seconds(to);
        self.files.folders.iter().filter(move |(_, first)| is_before(**first)).map(|(folder, _)| folder.as_str())
    }
}

fn hash(key: &str) -> u64 {
    Fingerprint::of_parts([key.as_bytes()]).bits()
}

/// The folder of a log file: `…/<region>/YYYY/MM/DD/<name>`.
fn folder(key: &str) -> &str {
    key.rsplitn(5, '/').last().unwrap_or_default()
}

fn seconds(time: Timestamp) -> u32 {
    u32::try_from(time.as_second()).unwrap_or_default()
}

/// The time one second after `second`.
fn behind(second: u32) -> Timestamp {
    Timestamp::from_second(i64::from(second) + 1).unwrap_or(Timestamp::MAX)
}

impl Files {
    fn len(&self) -> usize {
        self.contents.len()
    }

    fn insert(&mut self, key: u64, modified: u32, content: Content) {
        self.remove(key);
        self.times.insert(key, modified);
        self.contents.insert((modified, key), content);
    }

    fn remove(&mut self, key: u64) {
        if let Some(modified) = self.times.remove(&key) {
            self.contents.remove(&(modified, key));
        }
    }

    fn content(&self, key: u64) -> Option<Content> {
        self.contents.get(&(*self.times.get(&key)?, key)).copied()
    }

    /// The time at which the oldest file was written.
    fn oldest(&self) -> Option<u32> {
        self.contents.first_key_value().map(|((modified, _), _)| *modified)
    }

    fn drop_oldest(&mut self) {
        if let Some(((_, key), _)) = self.contents.pop_first() {
            self.times.remove(&key);
        }
    }

    /// Returns the files as the state holds them, and the time of the newest file that is left out. The files of one second are either
    /// all in the state or all left out.
    fn written(&self) -> (String, Option<u32>) {
        let left_out = self.len().checked_sub(MOST_WRITTEN + 1);
        let left_out = left_out.and_then(|last| self.contents.keys().nth(last)).map(|(modified, _)| *modified);
        let from = left_out.map_or(0, |newest| newest.saturating_add(1));
        let mut bytes = Vec::with_capacity(self.len().min(MOST_WRITTEN) * WRITTEN);
        for ((modified, key), content) in self.contents.range((from, 0)..) {
            bytes.extend_from_slice(&key.to_be_bytes());
            bytes.extend_from_slice(&modified.to_be_bytes());
            bytes.extend_from_slice(content);
        }
        (STANDARD_NO_PAD.encode(bytes), left_out)
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        const RULE: &str = "the files that wait for a digest are base64 of 28 bytes each";
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| RULE)?;
        let (files, rest) = bytes.as_chunks::<WRITTEN>();
        if !rest.is_empty() {
            return Err(RULE);
        }
        let mut read = Self::default();
        for bytes in files {
            let (key, rest) = bytes.split_first_chunk::<8>().ok_or(RULE)?;
            let (modified, content) = rest.split_first_chunk::<4>().ok_or(RULE)?;
            let content = content.try_into().map_err(|_| RULE)?;
            read.insert(u64::from_be_bytes(*key), u32::from_be_bytes(*modified), content);
        }
        Ok(read)
    }
}

impl Serialize for Verified {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (files, left_out) = self.files.written();
        let complete_since = left_out.map_or(self.complete_since, |newest| self.complete_since.max(behind(newest)));
        Written { digests: Cow::Borrowed(&self.digests), complete_since, files }.serialize(serializer)
    }
}

impl TryFrom<Written<'static>> for Verified {
    type Error = &'static str;

    fn try_from(Written { digests, complete_since, files }: Written<'static>) -> Result<Self, Self::Error> {
        Ok(Self { digests: digests.into_owned(), complete_since, files: Files::read(&files)? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cursor::Coverage;
    use super::super::super::key::Class;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn fresh() -> Verified {
        Verified::beginning(&Progress::since(at(0)))
    }

    #[test]
    fn a_delivered_file_is_known_until_its_digest_has_come_and_over_a_restart() {
        let mut verified = fresh();
        verified.delivered("a", at(1), Sha256::of(b"a"));
        verified.delivered("b", at(2), Sha256::of(b"b"));
        let text = serde_json::to_string(&verified).unwrap();
        let mut verified: Verified = serde_json::from_str(&text).unwrap();
        assert_eq!(verified.known("a", Sha256::of(b"a")), Known::Proven);
        assert_eq!(verified.known("b", Sha256::of(b"x")), Known::Mismatched);
        assert_eq!(verified.known("c", Sha256::of(b"c")), Known::Unknown);
        assert!(verified.would_know(at(0)));
        verified.done(["a"]);
        assert_eq!(verified.known("a", Sha256::of(b"a")), Known::Unknown);
        assert_eq!(verified.known("b", Sha256::of(b"b")), Known::Proven);
    }

    #[test]
    fn what_is_dropped_is_never_taken_for_undelivered() {
        let mut verified = fresh();
        for n in 0..=MOST {
            verified.delivered(&n.to_string(), at(i64::try_from(n).unwrap()), Sha256::of(b"x"));
        }
        assert_eq!(verified.known("0", Sha256::of(b"x")), Known::Unknown);
        assert!(!verified.would_know(at(0)) && verified.would_know(at(1)));
        verified.delivered("late", at(49 * 3600), Sha256::of(b"x"));
        assert_eq!(verified.known("1", Sha256::of(b"x")), Known::Unknown);
        assert!(!verified.would_know(at(3599)));
    }

    #[test]
    fn the_files_of_many_folders_wait_for_their_digests_in_memory_and_the_newest_in_the_state() {
        let mut verified = fresh();
        // Three files in each second.
        for n in 0..27_000 {
            verified.delivered(&n.to_string(), at(n / 3), Sha256::of(b"x"));
        }
        assert!((0..27_000).all(|n| verified.known(&n.to_string(), Sha256::of(b"x")) == Known::Proven));
        assert!(verified.would_know(at(0)));
        let text = serde_json::to_string(&verified).unwrap();
        assert!(text.len() < 160_000, "{}", text.len());
        let read: Verified = serde_json::from_str(&text).unwrap();
        let is_known = |n: i64| read.known(&n.to_string(), Sha256::of(b"x")) == Known::Proven;
        let first = (0..27_000).find(|n| is_known(*n)).unwrap();
        assert!((22_904..22_910).contains(&first) && (first..27_000).all(is_known), "{first}");
        for n in 0..27_000 {
            assert_eq!(read.would_know(at(n / 3)), n >= first, "{n}");
        }
    }

    #[test]
    fn files_that_no_digest_has_listed_are_known_by_their_time_and_their_folders() {
        let mut verified = fresh();
        let key = |account: u32, name: &str| format!("AWSLogs/{account}/CloudTrail/us-east-1/2026/11/29/{name}");
        for (second, account, name) in [(10, 1, "a"), (20, 1, "b"), (30, 2, "c")] {
            verified.delivered(&key(account, name), at(second), Sha256::of(b"x"));
        }
        assert_eq!([at(9), at(10), at(29), at(30)].map(|to| verified.unlisted(Timestamp::MIN, to)), [0, 1, 2, 3]);
        assert_eq!((verified.unlisted(at(10), at(30)), verified.unlisted(at(30), at(10))), (2, 0));
        let folders =
            |verified: &Verified, to| verified.unlisted_folders(at(to)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(folders(&verified, 29), ["AWSLogs/1/CloudTrail/us-east-1"]);
        verified.done([&*key(1, "a"), &*key(1, "b")]);
        assert_eq!((verified.unlisted(Timestamp::MIN, at(99)), folders(&verified, 99).len()), (1, 1));
    }

    #[test]
    fn a_file_that_was_given_up_is_neither_proven_nor_mismatched() {
        let mut verified = fresh();
        verified.given_up("a", at(1));
        let verified: Verified = serde_json::from_str(&serde_json::to_string(&verified).unwrap()).unwrap();
        assert_eq!(verified.known("a", Sha256::of(b"a")), Known::GivenUp);
    }

    #[test]
    fn where_files_were_delivered_before_those_are_not_taken_for_undelivered() {
        let mut delivered = Progress::since(at(0));
        delivered.delivered_alone(Class::Regular, at(5), "k");
        let verified = Verified::beginning(&delivered);
        assert!(!verified.would_know(at(5)) && verified.would_know(at(65)));
        // A listing has passed everything that was written up to ten minutes before it.
        delivered.finished(Coverage { class: Class::Regular, began: at(1200) }, Some(at(1200)));
        let verified = Verified::beginning(&delivered);
        assert!(!verified.would_know(at(600)) && verified.would_know(at(660)));
    }
}
