//! A destination that takes events, parts of them, or none, with or without a buffer.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use auditsync::destination::{Delivery, Destination, Error, Receipt, Tally};

use crate::ledger::PageNumber;
use crate::plan::{DestinationFault, Part};
use crate::world::{Life, World, excerpt, place, take};

/// The destination as one process sees it: its buffer is lost with the process.
#[derive(Debug)]
pub(crate) struct ModelDestination {
    world: Arc<World>,
    life: Arc<Life>,
    buffer: Mutex<Vec<(PageNumber, usize)>>,
}

impl ModelDestination {
    pub(crate) fn new(world: Arc<World>, life: Arc<Life>) -> Self {
        Self { world, life, buffer: Mutex::default() }
    }

    /// Settles some events: into the buffer where there is one.
    fn take(&self, delivery: &mut Delivery, page: PageNumber, indices: &[usize]) {
        for index in indices {
            if self.world.knobs.buffer.is_some() {
                self.buffer.lock().unwrap().push((page, *index));
            } else {
                self.world.ledger().arrived(page, *index);
            }
        }
        settled(delivery, indices);
        delivery.count(Tally { accepted: indices.len(), requests: 1, ..Tally::default() });
    }

    /// Rejects one event by itself and keeps it.
    fn reject(&self, delivery: &mut Delivery, page: PageNumber, index: usize) {
        self.world.ledger().arrived(page, index);
        settled(delivery, &[index]);
        delivery.count(Tally { rejected: 1, requests: 1, ..Tally::default() });
    }

    /// What is in the buffer goes where it is safe.
    fn empty_buffer(&self) {
        for (page, index) in self.buffer.lock().unwrap().drain(..) {
            self.world.ledger().arrived(page, index);
        }
    }

    async fn call(&self) -> Option<DestinationFault> {
        self.life.pass_delivery().await;
        take(self.world.knobs.destination_latency).await;
        self.world.destination_script.next()
    }
}

#[async_trait]
impl Destination for ModelDestination {
    fn name(&self) -> &'static str {
        "model"
    }

    async fn deliver(&self, delivery: &mut Delivery, _now: Timestamp) -> Result<Receipt, Error> {
        let page = self.world.ledger().deliver(delivery.events());
        if self.life.stop.is_requested() && !delivery.is_begun() {
            self.world.ledger().violated(format!("page {page} was begun after the request to stop"));
        }
        let fault = self.call().await;
        let open: Vec<_> = delivery.outstanding().iter().cloned().flatten().collect();
        let failure = match fault {
            None => {
                self.take(delivery, page, &open);
                None
            }
            Some(DestinationFault::Slow(millis)) => {
                let (first, second) = open.split_at(open.len() / 2);
                self.take(delivery, page, first);
                take(millis).await;
                self.life.pass_delivery().await;
                self.take(delivery, page, second);
                None
            }
            Some(DestinationFault::Unavailable(after)) => Some(unavailable(after)),
            Some(DestinationFault::TakesPart(part)) => {
                self.take(delivery, page, &of(&open, part));
                (!delivery.is_complete()).then(|| unavailable(None))
            }
            Some(DestinationFault::Unanswered(part)) => {
                let sent = of(&open, part);
                for index in &sent {
                    self.world.ledger().unanswered(page, *index);
                }
                delivery.note_unanswered(sent.len());
                Some(unavailable(None))
            }
            Some(DestinationFault::RejectsOne(nth)) => {
                let rejected = usize::from(nth) % open.len();
                let others: Vec<_> = open.iter().copied().filter(|index| *index != open[rejected]).collect();
                self.take(delivery, page, &others);
                self.reject(delivery, page, open[rejected]);
                None
            }
            Some(DestinationFault::RefusesAll) => Some(refuses_all()),
        };
        self.life.pass_delivery().await;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let most = self.world.knobs.buffer.map_or(0, usize::from);
        if self.buffer.lock().unwrap().len() < most {
            return Ok(Receipt::Held);
        }
        self.empty_buffer();
        Ok(Receipt::Accepted)
    }

    fn is_holding(&self) -> bool {
        !self.buffer.lock().unwrap().is_empty()
    }

    async fn flush(&self) -> Result<(), Error> {
        match self.call().await {
            Some(DestinationFault::Unavailable(after)) => return Err(unavailable(after)),
            Some(DestinationFault::RefusesAll) => return Err(refuses_all()),
            Some(DestinationFault::Unanswered(part)) => {
                let held = self.buffer.lock().unwrap().clone();
                for (page, index) in of(&held, part) {
                    self.world.ledger().unanswered(page, index);
                }
                return Err(unavailable(None));
            }
            _ => {}
        }
        self.empty_buffer();
        self.life.pass_delivery().await;
        Ok(())
    }
}

/// The chosen eighths.
fn of<T: Copy>(all: &[T], part: Part) -> Vec<T> {
    let chosen = |index: usize| part >> (index * 8 / all.len()) & 1 == 1;
    all.iter().enumerate().filter(|(index, _)| chosen(*index)).map(|(_, one)| *one).collect()
}

fn settled(delivery: &mut Delivery, indices: &[usize]) {
    let settled: HashSet<_> = indices.iter().copied().collect();
    let open = delivery.outstanding().iter().cloned().flatten().filter(|index| !settled.contains(index));
    let mut left: Vec<Range<usize>> = Vec::new();
    for index in open {
        match left.last_mut() {
            Some(range) if range.end == index => range.end += 1,
            _ => left.push(index..index + 1),
        }
    }
    delivery.leave(left);
}

fn unavailable(after: Option<u8>) -> Error {
    let after = after.map(|seconds| Duration::from_secs(seconds.into()));
    Error::Unavailable { place: place(), status: 503, after, reason: excerpt() }
}

fn refuses_all() -> Error {
    Error::RefusesAll { place: place(), reason: "a fault of the model".to_owned(), variable: "MODEL_URL" }
}
