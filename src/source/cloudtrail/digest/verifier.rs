//! Reads digest files as they appear, and compares their lists with the delivered files.
//!
//! Nothing here stops delivery. An unreadable digest is tried again at the next sync. A flaw is an error in the log,
//! and counts in a metric.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use tokio::time::Instant;

use super::super::bucket::{Body, What, location};
use super::super::cursor::{Current, Progress};
use super::super::error::{Error, Unreadable};
use super::super::key::{Class, Files, LogKey};
use super::super::object::{Decoder, Step};
use super::super::plan::{Plan, Planned};
use super::super::survey::{Survey, Terrain};
use super::file::{Digest, LogFile};
use super::keyring::Keys;
use super::proof::{self, Link, Stored, Untrusted};
use super::report::{Finding, Reporter};
use super::state::{Known, Verified};
use crate::aws::call::CallError;
use crate::aws::digest::Sha256;
use crate::failure::Chain;
use crate::telemetry::metrics::Metrics;

/// The largest digest file, as stored and uncompressed, in bytes. A digest lists some thousand files at most.
const LARGEST_STORED: usize = 4 * 1024 * 1024;
const LARGEST: u64 = 32 * 1024 * 1024;

/// The time after which a step ends at the next log file. The engine treats a call of several minutes as stuck.
const STEP_TIME: Duration = Duration::from_secs(2);

/// The most digests that are remembered, because the next digests name them.
const MOST_REMEMBERED: usize = 4096;

/// The number of failures of one digest in a row after which it is passed, if another one can be read.
const MOST_FAILURES: u32 = 3;

/// Verifies digest files.
pub(in crate::source::cloudtrail) struct Verifier {
    pub(super) terrain: Terrain,
    pub(super) keys: Keys,
    reporter: Reporter,
    /// The last digests, by their keys.
    seen: HashMap<String, Stored>,
    /// The survey under way. The next step continues it after an error.
    survey: Option<Box<Survey>>,
    plan: Option<Plan>,
    /// The state to which the survey and the plan belong; none if a step was broken off.
    belongs_to: Option<Progress>,
    /// The digest that failed last, and the number of its failures in a row.
    failing: Option<(String, u32)>,
    /// The digest whose files are being compared.
    checking: Option<Checking>,
}

/// A digest, and the findings for its first files.
struct Checking {
    stored: Stored,
    digest: Digest,
    findings: Vec<Finding>,
}

/// How much of a digest is compared.
enum Checked {
    Whole,
    Part,
    /// Up to a file that was not delivered.
    To(Current),
}

/// The next step.
#[derive(Debug)]
pub(in crate::source::cloudtrail) enum Next {
    /// Another digest.
    More,
    /// A log file that was not delivered.
    Deliver(Current),
    /// Nothing, before the next sync.
    Done,
}

impl Verifier {
    /// Makes a verifier of the digests of `terrain`, signed with one of the `keys`.
    pub(in crate::source::cloudtrail) fn new(terrain: &Terrain, keys: Keys, metrics: Metrics) -> Self {
        let terrain = Terrain { files: Files::Digests, ..terrain.clone() };
        Self {
            terrain,
            keys,
            reporter: Reporter::new(metrics),
            seen: HashMap::new(),
            survey: None,
            plan: None,
            belongs_to: None,
            failing: None,
            checking: None,
        }
    }

    /// Forgets what is found of a part of a digest, because it belongs to another cursor. The survey and the plan belong to the digests
    /// that are finished, whatever else the cursor holds.
    pub(in crate::source::cloudtrail) fn begin_again(&mut self) {
        self.checking = None;
    }

    /// Verifies a digest, or a part of a long one. Every listed log file that was written up to `listed` is delivered.
    pub(in crate::source::cloudtrail) async fn step(
        &mut self,
        verified: &mut Verified,
        delivered: &Progress,
        listed: Timestamp,
        now: Timestamp,
    ) -> Next {
        if self.belongs_to.take().is_none_or(|digests| digests != verified.digests) {
            (self.survey, self.plan, self.checking) = (None, None, None);
        }
        let next = self.one(verified, delivered, listed, now).await.unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "digest files cannot be read; delivery goes on, and the next sync tries again");
            Next::Done
        });
        self.belongs_to = Some(verified.digests.clone());
        if matches!(next, Next::Done) {
            self.reporter.ends();
        }
        next
    }

    async fn one(
        &mut self,
        verified: &mut Verified,
        delivered: &Progress,
        listed: Timestamp,
        now: Timestamp,
    ) -> Result<Next, Error> {
        if self.plan.is_none() {
            let terrain = &self.terrain;
            let begin = || Box::new(Survey::new(terrain.clone(), &verified.digests, verified.digests.due(now)));
            self.survey.get_or_insert_with(begin).run().await?;
            self.plan = self.survey.take().map(|survey| survey.into_plan());
            if let Some(plan) = &mut self.plan {
                // Files written shortly before a digest may not have been in the last listing of the log files.
                plan.coverage.began = plan.coverage.began.min(listed);
                plan.end_at(plan.coverage.certain());
            }
        }
        let Some(plan) = &self.plan else { return Ok(Next::Done) };
        let Some(file) = plan.first().cloned() else {
            let (is_cut, coverage, newest) = (plan.is_cut, plan.coverage, plan.newest);
            if !is_cut {
                verified.digests.finished(coverage, newest);
                self.reporter.unlisted(verified, coverage.certain());
            }
            self.plan = None;
            return Ok(Next::Done);
        };
        let key = plan.key(&file);
        match self.verify(&key, verified, delivered, now).await? {
            Checked::To(current) => return Ok(Next::Deliver(current)),
            Checked::Whole => self.pass(&file, &key, verified),
            Checked::Part => {}
        }
        Ok(Next::More)
    }

    /// Notes that a digest is finished.
    fn pass(&mut self, Planned { modified, class, .. }: &Planned, key: &str, verified: &mut Verified) {
        if let Some(plan) = &mut self.plan {
            verified.digests.delivered(plan.coverage, *class, *modified, key);
            plan.pop();
        }
    }

    /// Verifies the digest under `key`, or a part of it. Returns an undelivered file in its list, which must be delivered first.
    async fn verify(
        &mut self,
        key: &str,
        verified: &mut Verified,
        delivered: &Progress,
        now: Timestamp,
    ) -> Result<Checked, Error> {
        let mut checking = match self.checking.take().filter(|checking| checking.stored.key == key) {
            Some(checking) => checking,
            None => match self.begin(key, now).await? {
                Some(checking) => checking,
                None => return Ok(Checked::Whole),
            },
        };
        let begun = Instant::now();
        while let Some(file) = checking.digest.files.get(checking.findings.len()) {
            if begun.elapsed() >= STEP_TIME {
                let (compared, files) = (checking.findings.len(), checking.digest.files.len());
                tracing::debug!(
                    key,
                    compared,
                    files,
                    "a digest takes long to verify, so the rest of it is for the next call"
                );
                self.checking = Some(checking);
                return Ok(Checked::Part);
            }
            match self.find(file, key, verified, delivered).await? {
                Finding::Undelivered(current) => {
                    let digest = location(&self.terrain.bucket, key);
                    self.reporter.fetched(&location(&file.bucket, &file.key), &digest);
                    self.checking = Some(checking);
                    return Ok(Checked::To(current));
                }
                finding => checking.findings.push(finding),
            }
        }
        let Checking { stored, digest, findings } = checking;
        let link = self.link(&stored.key, &digest).await?;
        self.reporter.digest(&location(&self.terrain.bucket, key), &digest, &findings, &link);
        verified.done(digest.files.iter().map(|file| file.key.as_str()));
        self.remember(stored);
        Ok(Checked::Whole)
    }

    /// Reads the digest under `key`; none if it proves nothing.
    async fn begin(&mut self, key: &str, now: Timestamp) -> Result<Option<Checking>, Error> {
        let place = location(&self.terrain.bucket, key);
        let bucket = Arc::clone(&self.terrain.bucket);
        let reason = match self.read(&bucket, key).await {
            Ok((stored, content)) => {
                self.failing = None;
                return self.trust(stored, &content, now).await;
            }
            Err(Error::Object { reason, .. }) => reason.to_string(),
            Err(Error::Call(call)) if self.fails_alone(key, &call).await => Chain(&call).to_string(),
            Err(error) => return Err(error),
        };
        self.reporter.unread(&place, &reason);
        Ok(None)
    }

    /// Notes that a digest cannot be read. Returns whether to pass it: it is refused, or keeps failing, and another digest of the plan can
    /// be read.
    async fn fails_alone(&mut self, key: &str, call: &CallError) -> bool {
        let before = self.failing.take().filter(|(known, _)| known == key).map_or(0, |(_, times)| times);
        self.failing = Some((key.to_owned(), before + 1));
        let is_refused = matches!(call, CallError::Refused { .. });
        if !is_refused && before + 1 < MOST_FAILURES {
            return false;
        }
        let Some(plan) = &self.plan else { return false };
        let others = [plan.second(), plan.last()].map(|file| file.map(|file| plan.key(file)));
        for other in others.into_iter().flatten().filter(|other| other != key) {
            if self.terrain.buckets.open(&self.terrain.bucket, &other, None).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Proves the digest `stored`; none if it proves nothing.
    async fn trust(&mut self, stored: Stored, content: &[u8], now: Timestamp) -> Result<Option<Checking>, Error> {
        match self.prove(&stored, content, now).await? {
            Ok(digest) => Ok(Some(Checking { stored, digest, findings: Vec::new() })),
            Err(untrusted) => {
                self.reporter.untrusted(&location(&stored.bucket, &stored.key), &untrusted);
                Ok(None)
            }
        }
    }

    /// Proves the signature of `stored`. If the key is unknown, the keys of that time are fetched.
    pub(super) async fn prove(
        &mut self,
        stored: &Stored,
        content: &[u8],
        now: Timestamp,
    ) -> Result<Result<Digest, Untrusted>, Error> {
        let key = &stored.key;
        let proven = proof::proven(stored, content, self.keys.for_digest(key, now).await?);
        match proven {
            Err(Untrusted::WrongSignature(fingerprint)) if self.keys.fetch_again(key, &fingerprint, now).await? => {
                Ok(proof::proven(stored, content, self.keys.for_digest(key, now).await?))
            }
            proven => Ok(proven),
        }
    }

    /// Finds the digest before `digest`, and compares it with the one that `digest` names.
    async fn link(&mut self, key: &str, digest: &Digest) -> Result<Link, Error> {
        let Some(previous) = &digest.previous else {
            return Ok(if self.has_earlier(key).await? { Link::Restart } else { Link::Start });
        };
        if !self.seen.contains_key(&previous.key) {
            // It is in another bucket if the trail's bucket was changed.
            match self.read(&previous.bucket, &previous.key).await {
                Ok((stored, _)) => self.remember(stored),
                Err(Error::Object { reason: Unreadable::Gone, .. }) => {}
                Err(Error::Object { reason, .. }) => return Ok(Link::Unread(reason.to_string())),
                Err(Error::Call(refused @ CallError::Refused { .. })) => {
                    return Ok(Link::Unread(Chain(&refused).to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(proof::link(digest, self.seen.get(&previous.key)))
    }

    /// Whether the trail of the digest under `key` has written an earlier digest of the same account and region. Looks at the first page
    /// of the folder.
    async fn has_earlier(&self, key: &str) -> Result<bool, Error> {
        // …/<region>/YYYY/MM/DD/<account>_CloudTrail-Digest_<region>_<trail>_<home region>_<time>
        let (Some(folder), Some((trail, time))) = (key.rsplitn(5, '/').last(), name(key).rsplit_once('_')) else {
            return Ok(false);
        };
        if time.starts_with("backfill") {
            return Ok(false);
        }
        let prefix = format!("{folder}/");
        let listing =
            self.terrain.buckets.list(&self.terrain.bucket, What { prefix: &prefix, ..What::default() }).await?;
        let mut names = listing.objects.iter().filter_map(|object| name(&object.key).rsplit_once('_'));
        Ok(names.any(|(other, before)| other == trail && before < time))
    }

    fn remember(&mut self, stored: Stored) {
        if self.seen.len() >= MOST_REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(stored.key.clone(), stored);
    }

    /// Finds out what became of a log file that the digest under `digest` lists.
    async fn find(
        &self,
        file: &LogFile,
        digest: &str,
        verified: &Verified,
        delivered: &Progress,
    ) -> Result<Finding, Error> {
        let terrain = &self.terrain;
        let Some(key) = LogKey::parse(&file.key) else { return Ok(Finding::Unwanted) };
        let is_ours =
            *file.bucket == *terrain.bucket && terrain.accounts.takes(key.account) && terrain.regions.takes(key.region);
        if !is_ours || key.slot < delivered.first_slot() {
            return Ok(Finding::Unwanted);
        }
        match verified.known(&file.key, file.sha256) {
            Known::Proven => return Ok(Finding::Proven),
            Known::Mismatched => return Ok(Finding::Mismatched),
            Known::GivenUp => return Ok(Finding::Unreadable("it is a dead letter".to_owned())),
            Known::Unknown => {}
        }
        let body = match terrain.buckets.open(&file.bucket, &file.key, None).await {
            Err(Error::Object { reason: Unreadable::Gone, .. }) => return Ok(Finding::Missing),
            Err(Error::Object { reason, .. }) => return Ok(Finding::Unreadable(reason.to_string())),
            // If the digest can still be read, access is denied to this file only. The files after it can still be verified.
            Err(Error::Call(refused @ CallError::Refused { .. }))
                if terrain.buckets.open(&terrain.bucket, digest, None).await.is_ok() =>
            {
                return Ok(Finding::Unreadable(Chain(&refused).to_string()));
            }
            body => body?,
        };
        let modified = body.modified.unwrap_or(Timestamp::UNIX_EPOCH);
        if verified.would_know(modified) {
            let class = Class::of(key.slot, modified);
            let (key, size) = (file.key.clone(), body.size);
            return Ok(Finding::Undelivered(Current { key, modified, size, class, records: 0 }));
        }
        Ok(match document_hash(body).await? {
            Ok(hash) if hash == file.sha256 => Finding::ContentOnly,
            Err(reason) if !reason.is_of_other_content() => Finding::Unreadable(reason.to_string()),
            _ => Finding::Mismatched,
        })
    }

    /// Reads a digest.
    pub(super) async fn read(&self, bucket: &str, key: &str) -> Result<(Stored, Vec<u8>), Error> {
        let unreadable = |reason| Error::Object { location: location(bucket, key), reason };
        let mut body = self.terrain.buckets.open(bucket, key, None).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LARGEST_STORED {
                return Err(unreadable(Unreadable::TooLarge("any digest")));
            }
        }
        let mut content = Vec::new();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let inflated = MultiGzDecoder::new(&bytes[..]).take(LARGEST).read_to_end(&mut content);
            inflated.map_err(|error| unreadable(Unreadable::Gzip(error.to_string())))?;
        } else {
            content = bytes;
        }
        let signature = body.metadata.get("signature").cloned();
        let (bucket, key, sha256) = (bucket.to_string(), key.to_owned(), Sha256::of(&content));
        Ok((Stored { bucket, key, sha256, signature }, content))
    }
}

/// The name of the object under `key`, without its folder.
fn name(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

/// Returns the SHA-256 of a log file's document. The inner error tells why the document cannot be read.
async fn document_hash(mut body: Body) -> Result<Result<Sha256, Unreadable>, Error> {
    let mut decoder = Decoder::new(true);
    loop {
        match decoder.step() {
            Ok(Step::Records(_)) => tokio::task::yield_now().await,
            Ok(Step::End) => return Ok(Ok(decoder.digest().unwrap_or_else(|| Sha256::of(b"")))),
            Ok(Step::Hungry) => match body.next().await? {
                Some(piece) => decoder.feed(piece),
                None => decoder.feed_end(),
            },
            Err(reason) => return Ok(Err(reason)),
        }
    }
}
