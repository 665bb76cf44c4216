//! Makes pages of messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::super::Settings;
use super::super::ahead::Wanted;
use super::super::bucket;
use super::super::error::Error;
use super::super::key::{Class, LogKey};
use super::super::reader::{Filling, Reader, Taken};
use super::flight::{Handle, MessageNumber};
use super::message::{self, Content};
use super::sqs::Message;
use super::sweep::Sweeping;
use super::{Queue, QueueCursor};
use crate::aws::call::CallError;
use crate::clock::LocalTime;
use crate::failure::Chain;
use crate::http::{Excerpt, Redaction};
use crate::source::{Cursor, Page, Then};
use crate::task;
use crate::telemetry::metrics::QueueMessage;

/// The number of waiting objects below which more messages are received.
const FEW: usize = 64;

/// The most messages in flight. The queue's own limit is 120,000.
const MOST_IN_FLIGHT: usize = 10_000;

/// The number of files with which a page is full.
const PAGE_FILES: usize = 1000;

/// The time after which a page with events takes no more.
const PAGE_TIME: Duration = Duration::from_secs(2);

/// The waits for messages: the longest that SQS allows, and a short one. With a wait of zero, SQS asks only some of its
/// servers.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);

/// The number of failures after which an object is left to the queue, if others could be read meanwhile, or must wait for it.
const MOST_TRIES: u32 = 3;

/// The log text on a message that was not delivered.
const LEFT: &str = "the message is not deleted, so the queue shows it again, until its redrive policy moves it to the dead-letter queue";

/// The received messages. They are in flight from then on, even if nothing takes them.
type Received = Result<Vec<(MessageNumber, Message)>, Error>;

/// The state of reading the queue.
#[derive(Default)]
pub(super) struct Reading {
    /// The last page.
    pub(super) page: u64,
    /// What the messages in flight name, in the order of reading.
    pub(super) objects: VecDeque<Object>,
    pub(super) receiving: Option<AbortOnDropHandle<Received>>,
    reader: Option<Reader>,
    /// An error to return after the last page.
    pending: Option<Error>,
    /// Whether a page is being made. If it is still set at the next request, the call before was dropped, with
    /// everything that it had read.
    is_making: bool,
    /// The pages whose messages were given back to the queue: those after the first number, up to the second.
    given_back: (u64, u64),
    /// The start of the first sync.
    first_sync: Option<Instant>,
    /// When an object was last read to its end.
    pub(super) succeeded: Option<Instant>,
    pub(super) sweeping: Sweeping,
}

pub(super) struct Object {
    message: MessageNumber,
    pub(super) wanted: Wanted,
    /// Its `LastModified`, by the bucket's clock; none before it is read.
    pub(super) modified: Option<Timestamp>,
    /// The time at which the message was sent, by the queue's clock.
    pub(super) sent: Timestamp,
    /// How often the message was received.
    receives: u32,
    /// How many of its records are in pages.
    pub(super) records: u64,
    is_ahead: bool,
    /// How often it failed, and when first.
    tries: u32,
    failing_since: Option<Instant>,
}

/// The page that a call of [`Queue::next_page`] is making.
struct Making {
    filling: Filling,
    page: u64,
    /// The start of the sync.
    begun: Timestamp,
    /// Whether anything of a message is in it.
    has_any: bool,
}

impl Reading {
    /// Stops the work ahead, and forgets which records were read, because some may not be delivered.
    pub(super) fn stop(&mut self) {
        self.objects.clear();
        (self.receiving, self.reader, self.pending) = (None, None, None);
    }

    /// Returns the page after which nothing is delivered, if the reader `id` continues at `decoded`; none if everything is delivered. The
    /// cursor of another reader says nothing of this reader's pages: another instance was active meanwhile.
    fn undelivered_behind(&self, decoded: &QueueCursor, id: &str) -> Option<u64> {
        let delivered = if decoded.queue == id { decoded.page } else { 0 };
        let (from, to) = self.given_back;
        let delivered = if (from..=to).contains(&delivered) { to } else { delivered };
        (self.is_making || delivered < self.page).then_some(delivered)
    }
}

impl Queue {
    /// Reads the page after `cursor`.
    pub(in super::super) async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Error> {
        let reading = &mut *self.reading.lock().await;
        let decoded = QueueCursor::of(cursor, begun.wall);
        self.release(self.rewind(reading, &decoded));
        if let Some(error) = reading.pending.take() {
            return Err(error);
        }
        if let Some(page) = self.sweep_page(reading, cursor, &decoded, begun).await? {
            return Ok(page);
        }
        reading.is_making = true;
        let (filling, page) = (Filling::default(), reading.page + 1);
        let mut making = Making { filling, page, begun: begun.wall, has_any: false };
        let made = self.make(reading, &mut making, begun).await;
        reading.is_making = false;
        let then = match made {
            Ok(then) => then,
            Err(error @ (Error::DeadLetter(_) | Error::Letter(_))) => {
                // The records read are not returned. They come again when the queue no longer hides their messages.
                reading.is_making = true;
                self.rewind(reading, &decoded);
                return Err(error);
            }
            Err(error) if !making.has_any => return Err(error),
            Err(error) => {
                reading.pending = Some(error);
                Then::Now
            }
        };
        if making.has_any {
            reading.page = making.page;
        }
        let reached = if then == Then::CaughtUp { begun.wall } else { decoded.reached };
        let sweep = reading.sweeping.encode()?;
        let next = Cursor::encode(&QueueCursor { queue: self.id.clone(), page: reading.page, reached, sweep })
            .map_err(Error::Cursor)?;
        reading.sweeping.goes_with(&next);
        let Filling { events, deduplicated, .. } = making.filling;
        Ok(Page { events, deduplicated, next, progressed: making.has_any, then })
    }

    /// Forgets everything read after `decoded`: it was not delivered, and comes again from the queue. Returns its messages, which are no
    /// longer in flight.
    fn rewind(&self, reading: &mut Reading, decoded: &QueueCursor) -> Vec<Handle> {
        let Some(page) = reading.undelivered_behind(decoded, &self.id) else { return Vec::new() };
        reading.stop();
        let (from, to) = reading.given_back;
        (reading.is_making, reading.given_back) = (false, (if page == to { from } else { page }, reading.page));
        reading.sweeping.forget();
        let behind = self.shared.flight.lock().behind(page);
        self.shared.forget(&behind);
        behind
    }

    async fn make(&self, reading: &mut Reading, making: &mut Making, begun: LocalTime) -> Result<Then, Error> {
        let is_first = *reading.first_sync.get_or_insert(begun.monotonic) == begun.monotonic;
        let wait = if is_first { SHORT } else { LONG };
        let (started, mut files) = (Instant::now(), 0);
        loop {
            let is_late = started.elapsed() >= PAGE_TIME && making.has_any;
            if making.filling.is_full() || files >= PAGE_FILES || is_late {
                return Ok(Then::Now);
            }
            self.work_ahead(reading, wait);
            // An object that keeps failing must not keep other messages from being read.
            let comes_first = reading.receiving.as_ref().is_some_and(AbortOnDropHandle::is_finished)
                && reading.objects.front().is_some_and(Object::is_failing);
            if !comes_first
                && !reading.is_held()
                && let Some(object) = reading.objects.pop_front()
            {
                files += 1;
                self.read(reading, making, object).await?;
                continue;
            }
            let Some(receiving) = &mut reading.receiving else {
                if reading.sweeping.is_full() && !reading.sweeping.is_wanted() {
                    reading.waits_for_sweep();
                }
                // So much is in flight that its delivery goes on first.
                let is_at_once = making.has_any || reading.sweeping.is_wanted();
                return Ok(if is_at_once { Then::Now } else { Then::After(SHORT) });
            };
            if making.has_any && !receiving.is_finished() {
                return Ok(Then::Now);
            }
            let received = receiving.await;
            reading.receiving = None;
            let messages = task::outcome(received).map_err(Error::Interrupted)??;
            if messages.is_empty() && reading.objects.is_empty() {
                return Ok(Then::CaughtUp);
            }
            self.take_in(reading, making, messages);
            reading.objects.make_contiguous().sort_by_key(Object::is_failing);
        }
    }

    /// Begins to receive messages and to fetch objects.
    fn work_ahead(&self, reading: &mut Reading, wait: Duration) {
        self.extend();
        let is_few = reading.objects.len() < FEW && self.shared.flight.lock().len() < MOST_IN_FLIGHT;
        let may_receive = is_few && !reading.sweeping.is_wanted() && !reading.sweeping.is_full();
        if reading.receiving.is_none() && may_receive {
            let (shared, wait) = (Arc::clone(&self.shared), if reading.objects.is_empty() { wait } else { SHORT });
            reading.receiving = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                let asked = Instant::now();
                let messages = shared.sqs.receive(wait, shared.visibility).await?;
                let mut flight = shared.flight.lock();
                let number = |message: Message| (flight.received(message.receipt.clone(), asked), message);
                Ok(messages.into_iter().map(number).collect())
            })));
        }
        let objects = &mut reading.objects;
        self.reader(&mut reading.reader).fetch_ahead(|| {
            let next = objects.iter_mut().find(|object| !object.is_ahead)?;
            next.is_ahead = true;
            Some(next.wanted.clone())
        });
    }

    fn reader<'a>(&self, reader: &'a mut Option<Reader>) -> &'a mut Reader {
        let since = self.settings.first_record();
        let Settings { deduplicates, verifies, .. } = self.settings;
        reader.get_or_insert_with(|| Reader::new(Arc::clone(&self.buckets), since, deduplicates, verifies))
    }

    /// Puts records of an object into the page.
    async fn read(&self, reading: &mut Reading, making: &mut Making, mut object: Object) -> Result<(), Error> {
        if let (Some(sweep), 0) = (&self.sweep, object.records) {
            let reader = self.reader(&mut reading.reader);
            match reader.open(&object.wanted).await {
                Ok(modified) => object.modified = modified,
                Err(error) => return self.failed(reading, object, error),
            }
            if sweep.has(&reading.sweeping, &object) {
                reader.close();
                making.has_any = true;
                self.shared.flight.lock().object_read(object.message, making.page);
                tracing::debug!(key = object.wanted.key, "a message names a file that is delivered already");
                return Ok(());
            }
        }
        let reader = self.reader(&mut reading.reader);
        let before = object.records;
        let taken = reader.take(&object.wanted, &mut object.records, &mut making.filling).await;
        if object.records > before {
            (object.tries, object.failing_since) = (0, None);
            making.has_any = true;
            self.shared.flight.lock().in_page(object.message, making.page);
        }
        // Dead letters come before the page is returned, because the message may be deleted with it.
        for invalid in making.filling.invalid.drain(..) {
            self.letters.record(&object.wanted, &invalid).await?;
        }
        match taken {
            Ok(Taken::Part) => reading.objects.push_front(object),
            Ok(Taken::Whole { digest }) => {
                making.has_any = true;
                reading.succeeded = Some(Instant::now());
                reading.sweeping.delivered(&object, digest, making.begun);
                self.shared.flight.lock().object_read(object.message, making.page);
            }
            Ok(Taken::Unreadable(reason)) => {
                let location = bucket::location(&object.wanted.bucket, &object.wanted.key);
                self.leave(reading, &object, &Error::Object { location, reason });
            }
            Err(error) => return self.failed(reading, object, error),
        }
        Ok(())
    }

    /// Decides what to do with an object that cannot be read. Returns the error to the engine if no object can be read.
    fn failed(&self, reading: &mut Reading, mut object: Object, error: Error) -> Result<(), Error> {
        object.tries += 1;
        let since = *object.failing_since.get_or_insert_with(Instant::now);
        let is_alone = reading.succeeded.is_some_and(|succeeded| succeeded >= since);
        let is_left = match &error {
            // The queue shows the message again, which is as good as another try.
            Error::Object { .. } => true,
            Error::Call(CallError::Refused { .. }) => reading.succeeded.is_some(),
            // Nothing else is read before the rest of an object. So an object that fails in its middle is left even if it is alone.
            _ => (is_alone || object.records > 0) && object.tries >= MOST_TRIES,
        };
        if is_left {
            self.leave(reading, &object, &error);
            return Ok(());
        }
        object.is_ahead = false;
        // Others come first before it is read again.
        let index = if object.records > 0 { 0 } else { reading.objects.len() };
        reading.objects.insert(index, object);
        Err(error)
    }

    /// Leaves a message to the queue, which shows it again when its visibility time is over.
    fn leave(&self, reading: &mut Reading, object: &Object, error: &Error) {
        let Object { message, wanted, receives, .. } = object;
        self.shared.flight.lock().forget(*message);
        let (left, kept): (VecDeque<_>, _) = reading.objects.drain(..).partition(|other| other.message == *message);
        reading.objects = kept;
        for other in left {
            self.reader(&mut reading.reader).forget(&other.wanted);
        }
        self.shared.metrics.queue_messages(QueueMessage::Left, 1);
        let location = Excerpt::of(bucket::location(&wanted.bucket, &wanted.key).as_bytes(), &Redaction::none());
        tracing::error!(%location, receives, error = %Chain(error), "an object that a message names cannot be read; {LEFT}");
    }

    /// Notes what messages name. One that names nothing for us is in this page, so that it is deleted with it.
    fn take_in(&self, reading: &mut Reading, making: &mut Making, messages: Vec<(MessageNumber, Message)>) {
        for (message, Message { id, body, sent, receives, .. }) in messages {
            let sent = sent.unwrap_or(making.begun);
            let named = match message::read(&body) {
                Ok(Content::Objects(named)) => named,
                Ok(Content::Nothing(nothing)) => {
                    tracing::debug!(id, "a message holds {nothing}; it is deleted");
                    Vec::new()
                }
                Err(error) => {
                    self.shared.flight.lock().forget(message);
                    self.shared.metrics.queue_messages(QueueMessage::Left, 1);
                    let id = Excerpt::of(id.as_bytes(), &Redaction::none());
                    tracing::error!(%id, receives, error = %Chain(&error), "a message is not understood; {LEFT}");
                    continue;
                }
            };
            let wanted: Vec<_> = named.into_iter().filter(|wanted| self.is_wanted(wanted)).collect();
            let mut flight = self.shared.flight.lock();
            if !flight.names(message, wanted.len()) {
                // The queue has shown the message to another reader meanwhile.
                continue;
            }
            if wanted.is_empty() {
                self.shared.metrics.queue_messages(QueueMessage::Ignored, 1);
                flight.in_page(message, making.page);
                making.has_any = true;
            }
            drop(flight);
            reading.objects.extend(wanted.into_iter().map(|wanted| Object::new(message, wanted, sent, receives)));
        }
    }

    /// Whether an object is a log file to deliver.
    fn is_wanted(&self, Wanted { bucket, key, .. }: &Wanted) -> bool {
        let settings = &self.settings;
        let is_ours = settings.bucket.as_deref().is_none_or(|own| own == &**bucket)
            && (settings.prefix.is_empty()
                || key.strip_prefix(&settings.prefix).is_some_and(|rest| rest.starts_with('/')));
        let is_new_enough = |slot: Timestamp| {
            let first = settings.start.and_then(|start| start.checked_sub(Class::Regular.reach()).ok());
            first.is_none_or(|first| slot >= first)
        };
        let is_taken = |log: LogKey<'_>| {
            settings.accounts.takes(log.account) && settings.regions.takes(log.region) && is_new_enough(log.slot)
        };
        let is_wanted = is_ours && LogKey::parse(key).is_some_and(is_taken);
        if !is_wanted {
            let location = Excerpt::of(bucket::location(bucket, key).as_bytes(), &Redaction::none());
            tracing::debug!(%location, "a message names an object that is no log file to be delivered");
        }
        is_wanted
    }
}

impl Object {
    /// Whether it failed, and none of its records is in a page. Others can be read before it.
    fn is_failing(&self) -> bool {
        self.tries > 0 && self.records == 0
    }

    fn new(message: MessageNumber, wanted: Wanted, sent: Timestamp, receives: u32) -> Self {
        Self {
            message,
            wanted,
            modified: None,
            sent,
            receives,
            records: 0,
            is_ahead: false,
            tries: 0,
            failing_since: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(queue: &str, page: u64) -> QueueCursor {
        QueueCursor { queue: queue.to_owned(), page, ..QueueCursor::first(Timestamp::UNIX_EPOCH) }
    }

    #[test]
    fn behind_the_place_of_another_reader_nothing_of_this_one_is_delivered() {
        let mut reading = Reading::default();
        assert_eq!(reading.undelivered_behind(&after("", 0), "own"), None, "nothing is read");
        reading.page = 7;
        assert_eq!(reading.undelivered_behind(&after("own", 7), "own"), None);
        assert_eq!(reading.undelivered_behind(&after("own", 3), "own"), Some(3));
        for other in [after("other", 2), after("other", 9), after("", 0)] {
            assert_eq!(reading.undelivered_behind(&other, "own"), Some(0));
        }
        // Messages that were given back are no longer in flight. So only those read since then are given back.
        reading.given_back = (3, 7);
        assert_eq!(reading.undelivered_behind(&after("own", 3), "own"), None);
        assert_eq!(reading.undelivered_behind(&after("own", 2), "own"), Some(2));
        reading.page = 9;
        assert_eq!(reading.undelivered_behind(&after("own", 3), "own"), Some(7));
        assert_eq!(reading.undelivered_behind(&after("own", 8), "own"), Some(8));
        assert_eq!(reading.undelivered_behind(&after("other", 8), "own"), Some(0));
        // The page that was given back was never returned. The pages before it may still be on their way.
        reading.given_back = (9, 9);
        assert_eq!(reading.undelivered_behind(&after("own", 8), "own"), Some(8));
    }

    #[test]
    fn a_page_that_was_being_made_when_the_reading_stopped_is_not_delivered() {
        let mut reading = Reading { page: 7, is_making: true, ..Reading::default() };
        reading.stop();
        assert_eq!(reading.undelivered_behind(&after("own", 7), "own"), Some(7));
    }
}
