//! A source that receives pushed entries: an HTTP server that looks like Datadog's logs intake, and like Fluentd.
//!
//! A sender has no cursor, so an entry that was answered 2xx exists here alone. So the receiver stores each entry
//! safely on disk before it answers. The spool on disk is this source's cursor, and belongs to one process.
//!
//! | module | job |
//! |---|---|
//! | `server`, `tls` | connections, and their bounds |
//! | `route`, `keys`, `body`, `entries` | one request: its purpose, its sender's key, its body and its entries |
//! | `intake`, `answer` | from a request to its answer |
//! | `spool` | entries on disk |
//! | `rules`, `record` | from an entry to an event |

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Cursor, Kind, Opening, Page, Product, Queue, Source, Then};
use crate::clock::{Clock, LocalTime};
use crate::component::{Check, Configured, Context};
use crate::event::Event;
use crate::failure::Failure;
use crate::task;
use crate::telemetry::liveness::{self, Liveness};
use crate::telemetry::metrics::Metrics;
use error::Error;
use intake::{Intake, Unheard};
use keys::Keys;
use server::Server;
use spool::{Backlog, Batch, Extract, Notify, Position, Refusal, Spool};
use variables::Settings;

mod answer;
mod body;
mod check;
mod entries;
mod error;
mod intake;
mod keys;
mod record;
mod route;
mod rules;
mod server;
mod spool;
mod tls;
pub(crate) mod variables;

/// How often a disk that refused entries is tested.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// The source's entry in the registry.
pub const KIND: Kind = Kind {
    name: "receiver",
    title: "Receiver",
    product: Product { name: "receiver", service: "receiver", is_flat: false },
    variables: variables::VARIABLES,
    aliases: &[],
    history: None,
    interval: None,
    server: Some(variables::claims),
    queue: |_| Ok(Some(Queue { is_the_cursor: true })),
    first: |reader, now| Ok(first_cursor(&reader.get(&variables::SPOOL_PATH)?, now)),
    cursor_at: |_, _, _| None,
    reached,
    settled: reached,
    read: |reader| {
        let settings = variables::settings(reader)?;
        let keys = settings.keys.clone();
        // A pipeline that starts again finds its server and its spool as they were.
        let running = Arc::new(tokio::sync::Mutex::new(None));
        let build = move |context: &Context| -> Arc<dyn Source> {
            Arc::new(Receiver::new(settings.clone(), context, Arc::clone(&running)))
        };
        Ok(Configured::new(build).with_secrets(keys))
    },
};

/// The cursor: how far a spool is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reached {
    /// The identifier of the spool.
    spool: u64,
    /// The sequence number of the last delivered entry.
    sequence: u64,
    /// The time at which that entry arrived.
    arrived: Timestamp,
}

impl From<Position> for Reached {
    fn from(Position { spool, sequence, arrived }: Position) -> Self {
        Self { spool, sequence, arrived: Timestamp::from_millisecond(arrived).unwrap_or_default() }
    }
}

/// The cursor at the position of the spool in `folder`.
fn first_cursor(folder: &Path, now: Timestamp) -> Cursor {
    let position = spool::look(folder, Some(u64::MAX)).map(|(position, _)| position);
    let nowhere = Position { spool: 0, sequence: 0, arrived: now.as_millisecond() };
    Cursor::encode(&Reached::from(position.unwrap_or(nowhere))).unwrap_or_default()
}

impl Reached {
    /// Whether the cursor belongs to the content of `spool`. A cursor of another spool does not, nor one of entries that
    /// this spool never had: new entries have their numbers, and must not be taken for delivered. Blocks.
    fn applies_to(&self, spool: &Spool) -> Result<bool, Error> {
        if self.spool != spool.position().spool {
            return Ok(false);
        }
        if spool.knows(self.sequence, self.arrived.as_millisecond()).map_err(Error::Unread)? {
            return Ok(true);
        }
        let last = spool.last();
        if spool.rename(self.spool).map_err(Error::Position)? {
            tracing::error!(
                cursor = self.sequence,
                spool = last,
                "the stored cursor counts entries that the spool never had, as after the spool was restored from a copy; auditsync delivers \
                 the whole spool, some of it perhaps again"
            );
        }
        Ok(false)
    }
}

fn reached(cursor: &Cursor) -> Result<Timestamp, Failure> {
    Ok(cursor.decode::<Reached>().map_err(Error::Cursor)?.arrived)
}

type Running = Arc<tokio::sync::Mutex<Option<Arc<Spool>>>>;

/// The receiver as a source.
#[derive(Debug)]
pub struct Receiver {
    settings: Settings,
    context: Context,
    /// The spool, once the server runs.
    running: Running,
    /// The start of the present sync, and the last entry that existed then.
    sync: Mutex<Option<(Instant, u64)>>,
}

impl Receiver {
    fn new(settings: Settings, context: &Context, running: Running) -> Self {
        Self { settings, context: context.clone(), running, sync: Mutex::default() }
    }

    async fn start(&self, opening: &Opening) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Ok(());
        }
        // The port and the files of TLS come first: a mistake in their variables then shows before the spool is read.
        let door = if opening.is_daemon { Some(self.door().await?) } else { None };
        let unheard = Arc::new(Unheard::default());
        let (metrics, liveness) = (self.context.metrics.clone(), opening.liveness.clone());
        if let Some(silence) = self.settings.silence {
            liveness.expects_news_within(silence);
        }
        let notify = Box::new(Told { metrics: metrics.clone(), liveness, unheard: Arc::clone(&unheard) });
        let (folder, size) = (self.settings.spool.clone(), self.settings.spool_size);
        let opened = tokio::task::spawn_blocking(move || Spool::open(&folder, size, notify)).await;
        let spool = Arc::new(task::outcome(opened).map_err(Error::Unread)?.map_err(Error::Spool)?);
        let folder = self.settings.spool.display();
        if let Some((listener, tls)) = door {
            let has_certificates = self.settings.tls.as_ref().is_some_and(|files| files.client_ca.is_some());
            let intake = Arc::new(Intake {
                spool: Arc::clone(&spool),
                keys: self.settings.keys.clone().map(Keys::new),
                has_certificates,
                memory: body::Memory::default(),
                unheard,
                clock: self.context.clock.clone(),
                metrics,
                complaints: Mutex::default(),
            });
            tracing::info!(
                address = %listener.local_addr().unwrap_or(self.settings.listen), is_encrypted = tls.is_some(),
                client_certificates = has_certificates, keys = self.settings.keys.is_some(), spool = %folder,
                "senders can connect"
            );
            let (shutdown, connections) = (opening.shutdown.clone(), opening.tasks.clone());
            let clock = self.context.clock.clone();
            tokio::spawn(retry(Arc::clone(&spool), clock, shutdown.clone()).in_current_span());
            tokio::spawn(Server { listener, tls, intake, shutdown, connections }.run().in_current_span());
        } else {
            tracing::info!(spool = %folder, "a single run delivers what is in the spool; senders cannot connect");
        }
        *running = Some(spool);
        Ok(())
    }

    /// Reads the files of TLS, and binds the port where senders connect.
    async fn door(&self) -> Result<(TcpListener, Option<tls::Rotating>), Error> {
        let tls = self.settings.tls.clone().map(tls::Rotating::new).transpose().map_err(Error::Tls)?;
        let (address, variable) = (self.settings.listen, self.settings.listen_variable.clone());
        let listener = TcpListener::bind(address).await.map_err(|cause| Error::listen(variable, address, cause))?;
        Ok((listener, tls))
    }

    /// The entries after `cursor`, and the position before them.
    async fn read(&self, cursor: &Cursor, begun: LocalTime) -> Result<(Position, Extract), Error> {
        let given: Reached = cursor.decode().map_err(Error::Cursor)?;
        let Some(spool) = self.running.lock().await.clone() else {
            let folder = self.settings.spool.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let (position, _) = spool::look(&folder, None)?;
                let after = if given.spool == position.spool { given.sequence } else { position.sequence };
                let (position, entries) = spool::look(&folder, Some(after))?;
                Ok((Position { sequence: after, ..position }, entries))
            });
            return task::outcome(looked.await).flatten().map_err(Error::Unread);
        };
        let judged = tokio::task::spawn_blocking({
            let spool = Arc::clone(&spool);
            move || given.applies_to(&spool)
        });
        let applies = task::outcome(judged.await).map_err(Error::Unread)??;
        let own = spool.position();
        let after = if applies { given.sequence.max(own.sequence) } else { own.sequence };
        let up_to = self.end_of_sync(&spool, begun);
        let read = tokio::task::spawn_blocking(move || spool.page(after, up_to)).await;
        let entries = task::outcome(read).flatten().map_err(Error::Unread)?;
        let arrived = if applies { given.arrived.as_millisecond() } else { own.arrived };
        Ok((Position { sequence: after, arrived, ..own }, entries))
    }

    /// The last entry that existed when the sync began, so that a sync ends, however fast entries arrive.
    fn end_of_sync(&self, spool: &Spool, begun: LocalTime) -> u64 {
        let mut sync = self.sync.lock();
        match *sync {
            Some((start, end)) if start == begun.monotonic => end,
            _ => {
                let end = spool.last();
                *sync = Some((begun.monotonic, end));
                end
            }
        }
    }

    async fn page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Error> {
        let (position, Extract { entries, damage, is_end, .. }) = self.read(cursor, begun).await?;
        for damage in &damage {
            report(&self.context.metrics, damage);
        }
        let next = entries.last().map_or(position, |last| Position {
            sequence: last.sequence,
            arrived: last.arrived,
            ..position
        });
        // Everything that arrived before the sync began is delivered, however long ago that was.
        let arrived = if is_end { next.arrived.max(begun.wall.as_millisecond()) } else { next.arrived };
        let next = Position { arrived, ..next };
        let mut unknown = 0;
        let events: Vec<Event> = entries
            .iter()
            .map(|stored| {
                let made = record::event(stored, position.spool, &self.settings.rules);
                unknown += usize::from(made.is_unknown);
                made.event
            })
            .collect();
        self.context.metrics.received_unknown(unknown);
        Ok(Page {
            progressed: !events.is_empty(),
            events,
            deduplicated: 0,
            next: Cursor::encode(&Reached::from(next)).map_err(Error::Cursor)?,
            then: if is_end { Then::CaughtUp } else { Then::Now },
        })
    }
}

/// Reports the spool to the metrics and to the health check.
#[derive(Debug)]
struct Told {
    metrics: Metrics,
    liveness: Liveness,
    unheard: Arc<Unheard>,
}

/// Reports a part of the spool that cannot be read.
fn report(metrics: &Metrics, spool::Damage { file, range, entries }: &spool::Damage) {
    metrics.spool_damaged();
    tracing::error!(
        file = %file.display(), from = range.start, to = range.end, entries,
        "auditsync cannot read a damaged part of the spool; at most this number of entries is lost; it delivers the others and keeps the file"
    );
}

/// While the disk refuses entries, tests it from time to time. Otherwise a receiver that a balancer avoids, because it is
/// not ready, would never find out that the disk works again.
async fn retry(spool: Arc<Spool>, clock: Clock, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(sleep(RETRY_EVERY)).await.is_some() {
        if spool.is_failing() {
            // The spool itself notes the result.
            let _ = spool.append(Batch::test(clock.now())).await;
        }
    }
}

impl Notify for Told {
    fn backlog(&self, backlog: Backlog) {
        let time = |at: Option<i64>| at.and_then(|at| Timestamp::from_millisecond(at).ok());
        let Backlog { entries, bytes, oldest, newest } = backlog;
        self.metrics.spool(entries, bytes, time(oldest));
        self.liveness.set_backlog(liveness::Backlog { entries, bytes, oldest: time(oldest) });
        if let Some(newest) = time(newest) {
            self.liveness.has_news(newest);
        }
    }

    fn unheard(&self, digest: [u8; 32]) {
        self.unheard.remember(digest);
    }

    fn refuses(&self, refusal: Option<Refusal>) {
        self.liveness.set_refusal(refusal.map(|refusal| match refusal {
            Refusal::Full => "the spool is full, so senders get 429 until the destination has accepted more",
            Refusal::Unsafe => "the spool cannot be written, so senders get 503",
        }));
    }

    fn damaged(&self, damage: spool::Damage) {
        report(&self.metrics, &damage);
    }
}

#[async_trait]
impl Source for Receiver {
    fn location(&self) -> String {
        let scheme = if self.settings.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.settings.listen)
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        first_cursor(&self.settings.spool, now)
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        reached(cursor)
    }

    async fn open(&self, opening: &Opening) -> Result<(), Failure> {
        Ok(self.start(opening).await?)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        Ok(self.page(cursor, begun).await?)
    }

    async fn committed(&self, cursor: &Cursor) -> Result<(), Failure> {
        let delivered: Reached = cursor.decode().map_err(Error::Cursor)?;
        let Some(spool) = self.running.lock().await.clone() else { return Ok(()) };
        let written = tokio::task::spawn_blocking(move || {
            if !delivered.applies_to(&spool)? {
                return Ok(());
            }
            spool.committed(delivered.sequence, delivered.arrived.as_millisecond()).map_err(Error::Position)
        });
        Ok(task::outcome(written.await).map_err(Error::Position)??)
    }

    async fn check(&self, _now: LocalTime) -> Vec<Check> {
        check::checks(&self.settings).await
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::config::{self, Environment, Owner};
    use crate::dead_letter::DeadLetters;
    use crate::http;

    /// A receiver with its spool in `folder`, opened as for a single run.
    async fn opened(folder: &tempfile::TempDir) -> (Receiver, Arc<Spool>) {
        let spool = folder.path().join("spool").to_str().unwrap().to_owned();
        let pairs = [("RECEIVER_AUDIT_LISTEN", "127.0.0.1:1".to_owned()), ("RECEIVER_AUDIT_SPOOL_PATH", spool)];
        let environment = Environment::from_pairs(pairs.map(|(name, value)| (name.into(), value.into())));
        let owner = Owner::source("receiver", None);
        let settings = config::read(&environment, &owner, variables::settings).unwrap();
        let http = config::read(&environment, &owner, http::variables::settings).unwrap();
        let dead_letters = DeadLetters::new("receiver:stdout".into(), None, "AUDITSYNC_DEAD_LETTER_PATH".into());
        let context = Context::new("receiver:stdout".into(), http, dead_letters);
        let receiver = Receiver::new(settings, &context, Running::default());
        let opening = Opening {
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            is_daemon: false,
            liveness: Liveness::default(),
        };
        receiver.open(&opening).await.unwrap();
        let spool = receiver.running.lock().await.clone().unwrap();
        (receiver, spool)
    }

    fn numbered(numbers: std::ops::Range<usize>, arrived: Timestamp) -> Batch {
        let records = numbers.map(|n| format!("{{\"n\":{n}}}").into()).collect();
        Batch { records, ..Batch::test(arrived) }
    }

    async fn events_after(receiver: &Receiver, cursor: &Cursor) -> (usize, Cursor) {
        let page = receiver.next_page(cursor, Clock::system().local()).await.unwrap();
        (page.events.len(), page.next)
    }

    /// After a spool was restored from an older copy, it gives numbers again that the cursor takes for delivered.
    #[tokio::test]
    async fn a_cursor_ahead_of_its_spool_hides_no_new_entry() {
        let folder = tempfile::tempdir().unwrap();
        let (receiver, spool) = opened(&folder).await;
        let ahead = Reached { spool: spool.position().spool, sequence: 100, arrived: Timestamp::UNIX_EPOCH };
        let ahead = Cursor::encode(&ahead).unwrap();
        // More of them than the cursor counts, before it is read for the first time.
        spool.append(numbered(0..200, Timestamp::UNIX_EPOCH)).await.unwrap();
        receiver.committed(&ahead).await.unwrap();
        assert_eq!(spool.position().sequence, 0);
        assert_eq!(events_after(&receiver, &ahead).await.0, 200);
        // The process ends before it commits that.
        drop((receiver, spool));
        let (receiver, spool) = opened(&folder).await;
        let (events, next) = events_after(&receiver, &ahead).await;
        assert_eq!(events, 200);
        receiver.committed(&ahead).await.unwrap();
        assert_eq!(spool.position().sequence, 0);
        receiver.committed(&next).await.unwrap();
        assert_eq!(spool.position().sequence, 200);
    }

    /// A process may end after it took entries, but before it has read its cursor from a state that cannot be reached.
    #[tokio::test]
    async fn a_cursor_of_entries_that_arrived_before_those_with_its_numbers_hides_none() {
        let folder = tempfile::tempdir().unwrap();
        let (receiver, spool) = opened(&folder).await;
        let second = Timestamp::from_second(1).unwrap();
        let of_then = |sequence| Reached { spool: spool.position().spool, sequence, arrived: Timestamp::UNIX_EPOCH };
        let (own, stale) = (Cursor::encode(&of_then(5)).unwrap(), Cursor::encode(&of_then(10)).unwrap());
        spool.append(numbered(0..5, Timestamp::UNIX_EPOCH)).await.unwrap();
        spool.append(numbered(5..15, second)).await.unwrap();
        drop((receiver, spool));
        let (receiver, spool) = opened(&folder).await;
        assert_eq!(events_after(&receiver, &own).await.0, 10, "the entry with its number arrived in time");
        drop((receiver, spool));
        let (receiver, spool) = opened(&folder).await;
        receiver.committed(&stale).await.unwrap();
        assert_eq!(spool.position().sequence, 0);
        assert_eq!(events_after(&receiver, &stale).await.0, 15);
    }
}
