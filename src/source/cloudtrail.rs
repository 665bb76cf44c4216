//! `CloudTrail`'s log files in an S3 bucket.
//!
//! Files are found by listing the bucket, or named by the messages of a queue. In both cases, a `Reader` reads the
//! objects, several ahead, and fills pages with their records.
//!
//! | module | job |
//! |---|---|
//! | `key` | reads an object's key: account, region, slot, and how late it came |
//! | `bucket` | one request to S3, and what its answer means |
//! | `object`, `splitter` | from the bytes of a file to its records |
//! | `record`, `severity` | from a record to an event |
//! | `reader`, `ahead`, `window` | files fetched ahead, pages filled with their records, duplicates dropped |
//! | `cursor`, `plan` | how far a bucket is delivered, and what comes next: decisions without I/O |
//! | `known` | reads and writes a cursor: what is delivered, and what is verified |
//! | `survey`, `listing` | listing the bucket, and pages from what it shows |
//! | `queue` | files that messages of a queue name |
//! | `digest` | digest files, which prove what was delivered |
//! | `letters` | makes dead letters of files and records that cannot be read |

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use url::Url;

use super::variables::LOOKBACK;
use super::{Cursor, Kind, Opening, Page, Product, Source};
use crate::aws::connection::Options;
use crate::clock::LocalTime;
use crate::component::{Check, Configured, Context};
use crate::failure::Failure;
use crate::server_time::ServerClock;
use bucket::Buckets;
use cursor::Progress;
use digest::api::Api;
use digest::keyring::Keys;
use digest::keys::PublicKeys;
use digest::verifier::Verifier;
use error::Error;
use key::{Files, Filter};
use letters::Letters;
use listing::{BesideQueue, Listing, Round};
use queue::{Queue, QueueCursor};
use survey::Terrain;

mod ahead;
mod bucket;
mod check;
mod cursor;
mod digest;
mod error;
mod key;
mod known;
mod letters;
mod listing;
mod object;
mod plan;
mod queue;
mod reader;
mod record;
mod severity;
mod splitter;
mod survey;
pub(crate) mod variables;
mod window;

/// The source's entry in the registry.
pub const KIND: Kind = Kind {
    name: "cloudtrail",
    title: "CloudTrail log files",
    product: Product { name: "cloudtrail", service: "cloudtrail", is_flat: true },
    variables: variables::VARIABLES,
    aliases: &[],
    history: Some("as long as the bucket keeps its files"),
    interval: Some(Duration::from_mins(5)),
    server: None,
    queue: variables::queue,
    first: |reader, now| {
        let (start, lookback) = (reader.find(&variables::START), reader.get(&LOOKBACK));
        let queue = variables::queue(reader);
        Ok(first_cursor(start?, lookback?, queue?, now))
    },
    cursor_at: |since, until, _| Cursor::encode(&Progress::between(since, until)).ok(),
    reached,
    settled: |cursor| {
        let progress: Progress = cursor.decode().map_err(Error::Cursor)?;
        Ok(progress.settled())
    },
    read: |reader| {
        let settings = variables::settings(reader)?;
        Ok(Configured::new(move |context: &Context| -> Arc<dyn Source> {
            Arc::new(CloudTrail::new(settings.clone(), context))
        }))
    },
};

/// The settings of the log files.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a variable of its own")]
pub(crate) struct Settings {
    /// The bucket; none where a queue names the buckets.
    bucket: Option<String>,
    /// The beginning of all keys, without a slash at either end; may be empty.
    prefix: String,
    connection: Options,
    requester_pays: bool,
    accounts: Filter,
    regions: Filter,
    /// The time of the oldest record that the first sync delivers; none for the lookback.
    start: Option<Timestamp>,
    lookback: Duration,
    deduplicates: bool,
    /// The queue that names files; none to list them.
    queue_url: Option<Url>,
    /// How long the queue hides a message.
    visibility: Duration,
    /// Whether auditsync looks once a day for files without a message. Verifying digest files needs a listing, so it turns this on too.
    sweeps: bool,
    /// Whether digest files are verified.
    verifies: bool,
    /// The key of the digest files' signatures; none to fetch it.
    digest_key: Option<PublicKeys>,
}

impl Settings {
    /// The time of the oldest record that is delivered of a file that a message names.
    fn first_record(&self) -> Timestamp {
        self.start.unwrap_or(Timestamp::MIN)
    }
}

/// Log files as a source.
struct CloudTrail {
    settings: Settings,
    server_clock: Arc<ServerClock>,
    terrain: Terrain,
    listing: Arc<Listing>,
    /// Where a queue names the files.
    queue: Option<Queue>,
}

impl CloudTrail {
    fn new(settings: Settings, context: &Context) -> Self {
        let http = context.http.settings().clone();
        let buckets = Arc::new(Buckets::new(settings.connection.clone(), settings.requester_pays, http));
        let server_clock = Arc::new(ServerClock::default());
        let terrain = Terrain {
            buckets,
            bucket: settings.bucket.as_deref().unwrap_or_default().into(),
            prefix: settings.prefix.clone(),
            accounts: settings.accounts.clone(),
            regions: settings.regions.clone(),
            files: Files::Logs,
            clock: context.clock.clone(),
            server_clock: Arc::clone(&server_clock),
        };
        let letters = Letters::new(context.dead_letters.clone(), context.metrics.clone(), context.clock.clone());
        let letters = Arc::new(letters);
        let keys = || match settings.digest_key.clone() {
            Some(keys) => Keys::Given(keys),
            None => Keys::of(Api::new(Arc::clone(&terrain.buckets), Arc::clone(&context.http))),
        };
        let verifier = settings.verifies.then(|| Verifier::new(&terrain, keys(), context.metrics.clone()));
        let sweeps = settings
            .queue_url
            .as_ref()
            .map(|_| BesideQueue { metrics: context.metrics.clone(), since: settings.first_record() });
        let listing = Listing::new(terrain.clone(), Arc::clone(&letters), settings.deduplicates, verifier, sweeps);
        let listing = Arc::new(listing);
        let queue = settings.queue_url.clone().map(|url| {
            let sweeps = settings.sweeps.then(|| Arc::clone(&listing));
            Queue::new(url, settings.clone(), Arc::clone(&terrain.buckets), letters, sweeps, context)
        });
        Self { settings, server_clock, terrain, listing, queue }
    }
}

fn first_cursor(start: Option<Timestamp>, lookback: Duration, queue: Option<super::Queue>, now: Timestamp) -> Cursor {
    let since = start.unwrap_or_else(|| now.checked_sub(lookback).unwrap_or(now));
    let cursor = match queue {
        None => Cursor::encode(&Progress::since(since)),
        Some(queue) if queue.is_the_cursor => Cursor::encode(&QueueCursor::first(now)),
        Some(_) => QueueCursor::first_swept(since).and_then(|decoded| Cursor::encode(&decoded)),
    };
    cursor.unwrap_or_default()
}

/// The time up to which every file is delivered; needs no connection.
fn reached(cursor: &Cursor) -> Result<Timestamp, Failure> {
    if let Ok(decoded) = cursor.decode::<QueueCursor>() {
        return Ok(decoded.reached);
    }
    let progress: Progress = cursor.decode().map_err(Error::Cursor)?;
    Ok(progress.reached())
}

#[async_trait]
impl Source for CloudTrail {
    fn location(&self) -> String {
        self.queue.as_ref().map_or_else(|| self.terrain.root(), Queue::location)
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        let queue = self.queue.as_ref().map(|_| super::Queue { is_the_cursor: !self.settings.sweeps });
        first_cursor(self.settings.start, self.settings.lookback, queue, now)
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        reached(cursor)
    }

    async fn open(&self, opening: &Opening) -> Result<(), Failure> {
        if let Some(queue) = &self.queue {
            queue.open(opening.tasks.clone());
        }
        Ok(())
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        Ok(match &self.queue {
            Some(queue) => queue.next_page(cursor, begun).await?,
            None => self.listing.next_page(cursor, None, begun, Round::Files).await?,
        })
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.server_clock.at(now, now)
    }

    async fn committed(&self, cursor: &Cursor) -> Result<(), Failure> {
        match &self.queue {
            Some(queue) => Ok(queue.committed(cursor).await?),
            None => Ok(()),
        }
    }

    fn pause(&self) {
        self.listing.pause();
        if let Some(queue) = &self.queue {
            queue.pause();
        }
    }

    fn superseded(&self) {
        self.listing.pause();
        if let Some(queue) = &self.queue {
            queue.superseded();
        }
    }

    async fn check(&self, now: LocalTime) -> Vec<Check> {
        let mut checks = match &self.queue {
            Some(queue) => queue.checks().await,
            None => Vec::new(),
        };
        if self.queue.is_none() || self.settings.sweeps {
            checks.extend(check::checks(&self.terrain, now).await);
            checks.extend(self.listing.check_digests(now.wall).await);
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs_of;

    #[test]
    fn a_reset_begins_as_a_first_sync_at_the_start_that_is_set() {
        let now: Timestamp = "2026-03-02T12:00:00Z".parse().unwrap();
        let first = |pairs: &[(&str, &str)]| {
            let cursor = read_pairs_of(KIND.name, pairs, |reader| (KIND.first)(reader, now)).unwrap();
            reached(&cursor).unwrap()
        };
        let since = |time: &str| Progress::since(time.parse().unwrap()).reached();
        let start = ("CLOUDTRAIL_AUDIT_START", "2026-02-01T00:00:00Z");
        assert_eq!(first(&[start]), since(start.1));
        assert_eq!(first(&[("AUDITSYNC_SYNC_LOOKBACK", "2h")]), since("2026-03-02T10:00:00Z"));
        let queue = ("CLOUDTRAIL_AUDIT_SQS_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/queue");
        assert_eq!(first(&[start, queue]), now, "the queue is the cursor");
        let sweep = ("CLOUDTRAIL_AUDIT_SWEEP", "true");
        assert_eq!(first(&[start, queue, sweep]).to_string(), start.1);
    }
}
