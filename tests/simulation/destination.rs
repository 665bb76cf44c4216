//! A destination that takes events, parts of them, or none, with or without a buffer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use auditsync::clock::LocalTime;
use auditsync::component::Check;
use auditsync::destination::{Acknowledged, Delivery, Destination, PageNumber, Shipment, Tally};
use auditsync::failure::{Class, Failure};
use auditsync::telemetry::liveness::Heartbeat;

use crate::ledger::Served;
use crate::plan::{DestinationFault, Part};
use crate::world::{Life, World, failure, take};

/// The destination as one process sees it: its buffer is lost with the process.
#[derive(Debug, Clone)]
pub(crate) struct ModelDestination {
    world: Arc<World>,
    life: Arc<Life>,
    buffer: Arc<Mutex<Buffer>>,
}

/// The gathered events.
#[derive(Debug, Default)]
struct Buffer {
    events: Vec<(Served, usize)>,
    /// The newest page whose events are all gathered.
    up_to: Option<PageNumber>,
    /// When the buffer was last empty.
    since: Option<Instant>,
}

impl ModelDestination {
    pub(crate) fn new(world: Arc<World>, life: Arc<Life>) -> Self {
        Self { world, life, buffer: Arc::default() }
    }

    /// Makes the events in the buffer durable.
    fn empty_buffer(&self) -> Acknowledged {
        let gathered = std::mem::take(&mut *self.buffer.lock().unwrap());
        for (page, index) in gathered.events {
            self.world.ledger().arrived(page, index);
        }
        Acknowledged { up_to: gathered.up_to, mark: None }
    }

    async fn call(&self) -> Option<DestinationFault> {
        self.life.pass_delivery().await;
        take(self.world.knobs.destination_latency).await;
        self.world.destination_script.next()
    }
}

#[async_trait]
impl Destination for ModelDestination {
    fn location(&self) -> String {
        "the model's destination".to_owned()
    }

    fn open(&self, shipment: Shipment, _now: Timestamp) -> Box<dyn Delivery> {
        let outstanding = (0..shipment.events.len()).collect();
        Box::new(ModelDelivery { to: self.clone(), shipment, outstanding, tally: Tally::default(), unanswered: 0 })
    }

    fn flush_due(&self) -> Option<Instant> {
        let longest = Duration::from_secs(self.world.knobs.interval.into()) / 3;
        self.buffer.lock().unwrap().since.map(|since| since + longest)
    }

    async fn flush(&self) -> Result<Acknowledged, Failure> {
        match self.call().await {
            Some(DestinationFault::Unavailable(after)) => return Err(unavailable(after)),
            Some(DestinationFault::RefusesAll) => return Err(refuses_all()),
            Some(DestinationFault::Unanswered(part)) => {
                let held = self.buffer.lock().unwrap().events.clone();
                for (page, index) in of(&held, part) {
                    self.world.ledger().unanswered(page, index);
                }
                return Err(unavailable(None));
            }
            _ => {}
        }
        let acknowledged = self.empty_buffer();
        self.life.pass_delivery().await;
        Ok(acknowledged)
    }

    fn discard(&self) {
        *self.buffer.lock().unwrap() = Buffer::default();
    }

    async fn check(&self, _now: LocalTime) -> Vec<Check> {
        Vec::new()
    }
}

/// One page.
#[derive(Debug)]
struct ModelDelivery {
    to: ModelDestination,
    shipment: Shipment,
    outstanding: Vec<usize>,
    tally: Tally,
    unanswered: usize,
}

impl ModelDelivery {
    /// Settles some events: into the buffer where there is one.
    fn take(&mut self, page: Served, indices: &[usize]) {
        for index in indices {
            if self.to.world.knobs.buffer.is_some() {
                self.to.buffer.lock().unwrap().events.push((page, *index));
            } else {
                self.to.world.ledger().arrived(page, *index);
            }
        }
        self.settled(indices);
        self.tally += Tally { accepted: indices.len(), requests: 1, ..Tally::default() };
    }

    /// Refuses one event by itself, as a dead letter.
    fn refuse(&mut self, page: Served, index: usize) {
        self.to.world.ledger().arrived(page, index);
        self.settled(&[index]);
        self.tally += Tally { dead_lettered: 1, requests: 1, ..Tally::default() };
    }

    fn settled(&mut self, indices: &[usize]) {
        let settled: HashSet<_> = indices.iter().copied().collect();
        self.outstanding.retain(|index| !settled.contains(index));
    }
}

#[async_trait]
impl Delivery for ModelDelivery {
    async fn attempt(&mut self, _now: Timestamp, heart: &Heartbeat) -> Result<Acknowledged, Failure> {
        let page = self.to.world.ledger().deliver(&self.shipment);
        if self.to.life.shutdown.is_requested() && !self.has_begun() {
            self.to.world.ledger().violated(format!("{page:?} was begun after the shutdown was requested"));
        }
        let fault = self.to.call().await;
        heart.beat();
        let open = self.outstanding.clone();
        let failure = match fault {
            None => {
                self.take(page, &open);
                None
            }
            Some(DestinationFault::Slow(millis)) => {
                let (first, second) = open.split_at(open.len() / 2);
                self.take(page, first);
                take(millis).await;
                self.to.life.pass_delivery().await;
                self.take(page, second);
                None
            }
            Some(DestinationFault::Unavailable(after)) => Some(unavailable(after)),
            Some(DestinationFault::TakesPart(part)) => {
                self.take(page, &of(&open, part));
                (!self.outstanding.is_empty()).then(|| unavailable(None))
            }
            Some(DestinationFault::Unanswered(part)) => {
                let sent = of(&open, part);
                for index in &sent {
                    self.to.world.ledger().unanswered(page, *index);
                }
                self.unanswered += sent.len();
                Some(unavailable(None))
            }
            Some(DestinationFault::RefusesOne(nth)) => {
                let refused = usize::from(nth) % open.len();
                let others: Vec<_> = open.iter().copied().filter(|index| *index != open[refused]).collect();
                self.take(page, &others);
                self.refuse(page, open[refused]);
                None
            }
            Some(DestinationFault::RefusesAll) => Some(refuses_all()),
        };
        self.to.life.pass_delivery().await;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let Some(most) = self.to.world.knobs.buffer else { return Ok(Acknowledged::up_to(self.shipment.page)) };
        {
            let mut buffer = self.to.buffer.lock().unwrap();
            buffer.up_to = Some(self.shipment.page);
            buffer.since.get_or_insert_with(Instant::now);
            if buffer.events.len() < usize::from(most) {
                return Ok(Acknowledged::default());
            }
        }
        Ok(self.to.empty_buffer())
    }

    fn tally(&self) -> Tally {
        self.tally
    }

    fn unanswered(&self) -> usize {
        self.unanswered
    }
}

/// The chosen eighths.
fn of<T: Copy>(all: &[T], part: Part) -> Vec<T> {
    let chosen = |index: usize| part >> (index * 8 / all.len()) & 1 == 1;
    all.iter().enumerate().filter(|(index, _)| chosen(*index)).map(|(_, one)| *one).collect()
}

fn unavailable(after: Option<u8>) -> Failure {
    let after = after.map(|seconds| Duration::from_secs(seconds.into()));
    failure(Class::Retryable { after }, "the model's destination is unavailable")
}

fn refuses_all() -> Failure {
    failure(Class::Refused, "the model's destination refuses everything")
}
