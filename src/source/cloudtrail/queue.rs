//! Reads log files that the messages of a queue name.
//!
//! The queue is the cursor: a message is hidden from other instances while its objects are read and delivered, and deleted when the destination
//! has accepted them. What is not deleted comes again, to this instance or another. So several instances share a queue, and no state is
//! needed, unless the bucket is swept.
//!
//! | module | job |
//! |---|---|
//! | `message` | which objects a message names |
//! | `sqs` | one request to the queue, and what its answer means |
//! | `flight` | which messages are in flight, and what is to be done about them: pure bookkeeping |
//! | `reading` | from messages to pages |
//! | `sweep` | when to list the bucket beside the queue, and what is known of the bucket |
//! | `check` | `auditsync check` |

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use url::Url;

use super::Settings;
use super::bucket::Buckets;
use super::cursor::Progress;
use super::error::Error;
use super::letters::Letters;
use super::listing::Listing;
use crate::component::Context;
use crate::failure::Chain;
use crate::source::Cursor;
use crate::telemetry::metrics::{Metrics, QueueMessage};
use flight::{Flight, Handle};
use reading::Reading;
use sqs::Sqs;
use sweep::Sweep;

mod check;
mod flight;
mod message;
mod reading;
mod sqs;
mod sweep;

/// A message that cannot be hidden again is tried again this often within its time.
const TRIES: u32 = 8;

/// How long a process tries to give messages back. The queue shows them later in any case. It is short, since a supervisor or Lambda may wait
/// for the end.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// How far the queue was read. It is of use to the very process that made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueCursor {
    /// The reader whose pages these are.
    queue: String,
    /// The reader's last page.
    page: u64,
    /// When the queue was last found empty, or when the reading began.
    pub(super) reached: Timestamp,
    /// The cursor of a listing, if the bucket is swept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sweep: Option<Cursor>,
}

impl QueueCursor {
    /// The cursor before the first page of any reader.
    pub(super) fn first(now: Timestamp) -> Self {
        Self { queue: String::new(), page: 0, reached: now, sweep: None }
    }

    /// The cursor before the first page of any reader, if sweeps look for files from `since` on.
    pub(super) fn first_swept(since: Timestamp) -> Result<Self, serde_json::Error> {
        Ok(Self { sweep: Some(Cursor::encode(&Progress::since(since))?), ..Self::first(since) })
    }

    /// Reads the cursor of a queue, or of a listing that was there before the queue.
    fn of(cursor: &Cursor, now: Timestamp) -> Self {
        if let Ok(decoded) = cursor.decode() {
            return decoded;
        }
        match cursor.decode::<Progress>() {
            Ok(progress) => Self { sweep: Some(cursor.clone()), ..Self::first(progress.reached()) },
            Err(_) => Self::first(now),
        }
    }
}

/// A queue, and the state of reading it.
pub(super) struct Queue {
    shared: Arc<Shared>,
    settings: Settings,
    buckets: Arc<Buckets>,
    letters: Arc<Letters>,
    /// The identifier of this reader.
    id: String,
    reading: tokio::sync::Mutex<Reading>,
    /// Lists the bucket too; none if the queue names every file.
    sweep: Option<Sweep>,
    /// Extends the visibility of what is in flight.
    extending: Mutex<Option<AbortOnDropHandle<()>>>,
    /// The tasks that give messages back. A process waits for them at its end, except in a dry run.
    tasks: OnceLock<TaskTracker>,
}

/// The parts that tasks share.
struct Shared {
    sqs: Sqs,
    flight: Mutex<Flight>,
    visibility: Duration,
    metrics: Metrics,
}

impl Queue {
    pub(super) fn new(
        url: Url,
        settings: Settings,
        buckets: Arc<Buckets>,
        letters: Arc<Letters>,
        sweeps: Option<Arc<Listing>>,
        context: &Context,
    ) -> Self {
        let visibility = settings.visibility;
        let sqs = Sqs::new(url, Arc::clone(&buckets), context.http.settings().clone());
        let metrics = context.metrics.clone();
        let sweep = sweeps.map(|listing| Sweep::new(listing, settings.verifies));
        let shared = Shared { sqs, flight: Mutex::new(Flight::new(visibility)), visibility, metrics };
        Self {
            shared: Arc::new(shared),
            settings,
            buckets,
            letters,
            id: format!("{:016x}", Rng::new().u64(..)),
            reading: tokio::sync::Mutex::default(),
            sweep,
            extending: Mutex::default(),
            tasks: OnceLock::new(),
        }
    }

    /// Lets the process wait for the tasks in `tasks`.
    pub(super) fn open(&self, tasks: TaskTracker) {
        self.tasks.get_or_init(|| tasks);
    }

    /// The queue's address, for messages.
    pub(super) fn location(&self) -> String {
        self.shared.sqs.location()
    }

    /// Deletes the messages whose records are all before `cursor`, and so delivered.
    pub(super) async fn committed(&self, cursor: &Cursor) -> Result<(), Error> {
        let Ok(decoded) = cursor.decode::<QueueCursor>() else { return Ok(()) };
        if decoded.queue != self.id {
            return Ok(());
        }
        let done = self.shared.flight.lock().deletable(decoded.page);
        if done.is_empty() {
            return Ok(());
        }
        let outcome = self.shared.sqs.delete(done).await;
        self.shared.metrics.queue_messages(QueueMessage::Deleted, outcome.done.len());
        self.shared.forget(&outcome.done);
        self.shared.lose(&outcome.lost);
        outcome.failure.map_or(Ok(()), Err)
    }

    /// Stops reading, and shows unread messages to other instances.
    pub(super) fn pause(&self) {
        if let Ok(mut reading) = self.reading.try_lock() {
            reading.stop();
        }
        let unread = self.shared.flight.lock().unread();
        self.release(unread);
    }

    /// Gives up everything in flight, because another instance is active. The queue shows it to that instance at once.
    pub(super) fn superseded(&self) {
        if let Ok(mut reading) = self.reading.try_lock() {
            reading.stop();
        }
        let all = self.shared.flight.lock().all();
        self.release(all);
    }

    /// Gives messages back, so that the queue shows them again at once.
    fn release(&self, handles: Vec<Handle>) {
        if handles.is_empty() {
            return;
        }
        self.shared.forget(&handles);
        let shared = Arc::clone(&self.shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = self.tasks.get_or_init(TaskTracker::new);
            runtime.spawn(tasks.track_future(async move {
                let _ = timeout(GIVING_BACK, shared.sqs.hide(handles, Duration::ZERO)).await;
            }));
        }
    }

    /// Starts to extend the visibility of messages in flight, until the source ends.
    fn extend(&self) {
        self.extending.lock().get_or_insert_with(|| {
            let shared = Arc::clone(&self.shared);
            AbortOnDropHandle::new(tokio::spawn(async move { shared.extend().await }))
        });
    }
}

impl Shared {
    fn forget(&self, handles: &[Handle]) {
        let mut flight = self.flight.lock();
        for handle in handles {
            flight.forget(handle.message);
        }
    }

    /// Drops messages that the queue no longer knows.
    fn lose(&self, handles: &[Handle]) {
        if handles.is_empty() {
            return;
        }
        self.forget(handles);
        tracing::warn!(
            messages = handles.len(),
            "the queue has shown messages to others before they were deleted here; their events may be delivered twice"
        );
    }

    /// Hides each message in flight again when half of its visibility time has passed.
    async fn extend(&self) {
        let mut is_failing = false;
        loop {
            let due = self.flight.lock().next_due();
            match due {
                Some(due) if !is_failing => sleep_until(due).await,
                _ => sleep(self.visibility / TRIES).await,
            }
            let asked = Instant::now();
            let due = self.flight.lock().due(asked);
            if due.is_empty() {
                is_failing = false;
                continue;
            }
            let outcome = self.sqs.hide(due, self.visibility).await;
            let mut flight = self.flight.lock();
            for handle in &outcome.done {
                flight.hidden(handle.message, asked);
            }
            drop(flight);
            self.lose(&outcome.lost);
            is_failing = outcome.failure.is_some();
            if let Some(error) = outcome.failure {
                tracing::warn!(error = %Chain(&error), "auditsync could not extend the visibility of messages in flight; it tries again");
            }
        }
    }
}
