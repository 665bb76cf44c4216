//! What all instances share: the store's document, the destination, and the oracle.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use auditsync::clock::LocalTime;
use auditsync::component::Check;
use auditsync::destination::{Acknowledged, Delivery, Destination, Shipment, Tally};
use auditsync::event::{Event, Fields};
use auditsync::failure::{Class, Failure};
use auditsync::source::{Cursor, Page, Source, Then};
use auditsync::state::{Claim, Document, Error, StateStore, Version};
use auditsync::telemetry::liveness::Heartbeat;

use crate::plan::{Accident, End, Fault, Loss, Plan};

/// The start of the simulation.
pub(crate) const ORIGIN: Timestamp = Timestamp::constant(1_772_366_400, 0);

/// A store's client gives up after this long.
const LONGEST_CALL: Duration = Duration::from_secs(3);

const LOCATION: &str = "the model's store";

/// What a case came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// How many events came again.
    pub(crate) repeats: usize,
    /// When the first event was accepted.
    pub(crate) begun_after: Option<Duration>,
    /// How many calls the store refused.
    pub(crate) refused: usize,
    /// How often the source was paused.
    pub(crate) pauses: usize,
}

/// Everything that is not an engine.
pub(crate) struct World {
    pub(crate) plan: Plan,
    begun: Instant,
    oracle: Mutex<Oracle>,
}

#[derive(Default)]
struct Oracle {
    held: Option<(Document, u64)>,
    saves: u64,
    /// Whose save was the last that took effect.
    holder: Option<usize>,
    /// How often each event was accepted.
    accepted: HashMap<usize, usize>,
    /// The cursor in the store.
    place: usize,
    violation: Option<String>,
    /// When the last effective save of each instance was begun.
    begun: HashMap<usize, Instant>,
    /// How many saves of each instance are under way.
    saving: HashMap<usize, usize>,
    /// The first event of each page that each instance has begun to send.
    sent: HashSet<(usize, Bytes)>,
    /// How many pages each instance has begun since its save under way began.
    begun_while_saving: HashMap<usize, usize>,
    /// Every document so far.
    history: Vec<Document>,
    /// Whether the store had its accident.
    had_accident: bool,
    first_accepted: Option<Instant>,
    refused: usize,
    pauses: usize,
    /// Whether the outages are over.
    is_healed: bool,
}

impl Oracle {
    fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), begun: Instant::now(), oracle: Mutex::default() }
    }

    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap()
    }

    pub(crate) fn now(&self) -> Timestamp {
        ORIGIN + self.begun.elapsed()
    }

    pub(crate) fn heal(&self) {
        self.oracle().is_healed = true;
    }

    pub(crate) fn violated(&self, what: String) {
        self.oracle().violated(what);
    }

    /// What is wrong, or what it came to.
    pub(crate) fn verdict(&self) -> Result<Summary, String> {
        let oracle = self.oracle();
        if let Some(violation) = &oracle.violation {
            return Err(violation.clone());
        }
        let missing = (0..self.plan.events).find(|event| !oracle.accepted.contains_key(event));
        if let Some(event) = missing {
            return Err(format!("event {event} never came"));
        }
        let repeats = oracle.accepted.values().sum::<usize>() - oracle.accepted.len();
        let begun_after = oracle.first_accepted.map(|at| at.duration_since(self.begun));
        Ok(Summary { repeats, begun_after, refused: oracle.refused, pauses: oracle.pauses })
    }

    fn fault(&self, instance: usize) -> Option<Fault> {
        if self.oracle().is_healed {
            return None;
        }
        let now = u32::try_from(self.begun.elapsed().as_millis()).unwrap_or(u32::MAX);
        let is_on = |from: u32, lasts: u32| (from..from.saturating_add(lasts)).contains(&now);
        let mut on = self.plan.outages.iter().filter(|outage| is_on(outage.from, outage.lasts));
        on.find(|outage| outage.instance.is_none_or(|one| one == instance)).map(|outage| outage.fault)
    }

    fn replace(
        &self,
        instance: usize,
        begun: Instant,
        document: &Document,
        expected: Option<&Version>,
    ) -> Result<Version, Error> {
        let mut oracle = self.oracle();
        let version = oracle.held.as_ref().map(|(_, version)| Version(version.to_string()));
        if version.as_ref() != expected {
            return Err(Error::Conflict { location: LOCATION.to_owned(), cause: None });
        }
        let state = document.read(LOCATION)?;
        let place: usize = state.cursor.decode().unwrap();
        // An instance that starts over on an emptied store does not know better; one that does overrules it.
        if state.first && oracle.had_accident {
            oracle.begun.insert(instance, begun);
            oracle.saves += 1;
            let saves = oracle.saves;
            (oracle.held, oracle.holder) = (Some((document.clone(), saves)), Some(instance));
            return Ok(Version(saves.to_string()));
        }
        if place < oracle.place {
            let before = oracle.place;
            oracle.violated(format!("the cursor went back from {before} to {place}"));
        }
        if let Some(event) = (0..place).find(|event| !oracle.accepted.contains_key(event)) {
            oracle.violated(format!("the cursor was moved to {place} before event {event} was accepted"));
        }
        oracle.begun.insert(instance, begun);
        oracle.history.push(document.clone());
        oracle.saves += 1;
        let saves = oracle.saves;
        (oracle.held, oracle.holder, oracle.place) = (Some((document.clone(), saves)), Some(instance), place);
        Ok(Version(saves.to_string()))
    }

    /// The store loses its data, or a part, once, if it is time.
    fn accident(&self) {
        let mut oracle = self.oracle();
        let Some(Accident { at, kind }) = self.plan.accident else { return };
        if oracle.had_accident || self.begun.elapsed() < Duration::from_millis(at.into()) {
            return;
        }
        oracle.had_accident = true;
        let before = match kind {
            Loss::Everything => None,
            Loss::Newest(saves) => oracle.history.iter().rev().nth(saves).cloned(),
        };
        oracle.saves += 1;
        let saves = oracle.saves;
        oracle.held = before.map(|document| (document, saves));
    }

    /// One further page is begun while the state is being written; what was cut off goes on when the lease allows.
    fn begins(&self, instance: usize, events: &[Event]) {
        let mut oracle = self.oracle();
        let is_writing = oracle.saving.get(&instance).is_some_and(|saves| *saves > 0);
        let is_new = oracle.sent.insert((instance, events[0].raw().clone()));
        if is_writing && is_new {
            let begun = oracle.begun_while_saving.entry(instance).or_default();
            *begun += 1;
            if *begun > 1 {
                oracle.violated(format!("instance {instance} began two pages while it was writing the state"));
            }
        }
    }

    /// Events arrived.
    fn accepts(&self, events: &[Event]) {
        let mut oracle = self.oracle();
        oracle.first_accepted.get_or_insert_with(Instant::now);
        for event in events {
            let number: usize = std::str::from_utf8(event.raw()).unwrap().parse().unwrap();
            *oracle.accepted.entry(number).or_default() += 1;
        }
    }

    /// A request of `instance` to the destination has ended, one way or the other.
    fn has_sent(&self, instance: usize) {
        let lease = Duration::from_secs(self.plan.lease);
        let mut oracle = self.oracle();
        // A process that stood still notices only when it goes on.
        let stood_still = self.plan.instances.get(instance).is_some_and(|plan| matches!(plan.end, End::StandsStill(_)));
        let late = oracle.begun.get(&instance).is_none_or(|begun| begun.elapsed() > lease * 4 / 5);
        if late && !stood_still {
            oracle.violated(format!("a request of instance {instance} went on after four fifths of its lease"));
        }
    }

    /// A request to the destination is under way now, from `instance`.
    fn is_sending(&self, instance: usize, when: &str) {
        let mut oracle = self.oracle();
        // A store that lost everything has lost the lease, too.
        let lost = oracle.had_accident && matches!(self.plan.accident, Some(Accident { kind: Loss::Everything, .. }));
        if oracle.holder != Some(instance) && !lost {
            let holder = oracle.holder;
            oracle.violated(format!("instance {instance} had a request under way ({when}) in the time of {holder:?}"));
        }
    }
}

/// The row of events.
pub(crate) struct Row(pub(crate) Arc<World>);

#[async_trait]
impl Source for Row {
    fn location(&self) -> String {
        "the model's row".to_owned()
    }

    /// At the very first start it is the beginning. Later it is ahead of what was delivered, as where a backlog reaches back further than
    /// the first synchronisation would.
    fn first_cursor(&self, now: Timestamp) -> Cursor {
        let oracle = self.0.oracle();
        // It is the beginning for all who are started in the first quarter of an hour.
        let late = usize::try_from(now.duration_since(ORIGIN).as_secs() / 900).unwrap();
        let place = if oracle.saves == 0 { late } else { (oracle.place + 50).min(self.0.plan.events) };
        Cursor::encode(&place).unwrap()
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        let place: i64 = cursor.decode().map_err(|cause| Failure::new(Class::Fatal, cause))?;
        Ok(ORIGIN + SignedDuration::from_secs(place))
    }

    async fn next_page(&self, cursor: &Cursor, _: LocalTime) -> Result<Page, Failure> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let from: usize = cursor.decode().map_err(|cause| Failure::new(Class::Fatal, cause))?;
        let to = (from + self.0.plan.page).min(self.0.plan.events);
        let event = |number: usize| Event::new(Bytes::from(number.to_string()), None, Fields::default());
        let next = Cursor::encode(&to).unwrap();
        let then = if to < self.0.plan.events { Then::Now } else { Then::CaughtUp };
        Ok(Page { events: (from..to).map(event).collect(), deduplicated: 0, next, progressed: to > from, then })
    }

    fn pause(&self) {
        self.0.oracle().pauses += 1;
    }

    async fn check(&self, _: LocalTime) -> Vec<Check> {
        Vec::new()
    }
}

/// One instance's way to the destination.
pub(crate) struct Sink {
    pub(crate) world: Arc<World>,
    pub(crate) instance: usize,
    pub(crate) latency: Duration,
}

#[async_trait]
impl Destination for Sink {
    fn location(&self) -> String {
        "the model's sink".to_owned()
    }

    fn open(&self, shipment: Shipment, _: Timestamp) -> Box<dyn Delivery> {
        let (world, instance, latency) = (Arc::clone(&self.world), self.instance, self.latency);
        Box::new(SinkDelivery { world, instance, latency, shipment, tally: Tally::default(), unanswered: 0 })
    }

    async fn check(&self, _: LocalTime) -> Vec<Check> {
        Vec::new()
    }
}

/// One page.
struct SinkDelivery {
    world: Arc<World>,
    instance: usize,
    latency: Duration,
    shipment: Shipment,
    tally: Tally,
    unanswered: usize,
}

#[async_trait]
impl Delivery for SinkDelivery {
    async fn attempt(&mut self, _: Timestamp, _: &Heartbeat) -> Result<Acknowledged, Failure> {
        self.world.is_sending(self.instance, "at its start");
        self.world.begins(self.instance, &self.shipment.events);
        let half = self.latency / 2;
        let request = UnderWay(self);
        tokio::time::sleep(half).await;
        request.0.world.is_sending(request.0.instance, "on its arrival");
        request.0.world.accepts(&request.0.shipment.events);
        tokio::time::sleep(half).await;
        request.0.tally.accepted = request.0.shipment.events.len();
        Ok(Acknowledged::up_to(request.0.shipment.page))
    }

    fn tally(&self) -> Tally {
        self.tally
    }

    fn unanswered(&self) -> usize {
        self.unanswered
    }
}

/// Ends when it is answered, and when it is cut off: then nobody knows whether it arrived.
struct UnderWay<'a>(&'a mut SinkDelivery);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let delivery = &mut *self.0;
        if delivery.tally.accepted == 0 {
            delivery.unanswered += delivery.shipment.events.len();
        }
        delivery.world.has_sent(delivery.instance);
    }
}

/// Ends when the instance has its answer, or gives up.
struct Saving<'a>(&'a Shared);

impl<'a> Saving<'a> {
    fn begins(shared: &'a Shared) -> Self {
        let mut oracle = shared.world.oracle();
        *oracle.saving.entry(shared.instance).or_default() += 1;
        oracle.begun_while_saving.insert(shared.instance, 0);
        drop(oracle);
        Self(shared)
    }
}

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        *self.0.world.oracle().saving.entry(self.0.instance).or_default() -= 1;
    }
}

/// One instance's way to the store.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) world: Arc<World>,
    pub(crate) instance: usize,
}

impl Shared {
    async fn half(&self) {
        tokio::time::sleep(Duration::from_millis(self.world.plan.store_latency / 2)).await;
    }

    async fn lost<T>(&self) -> Result<T, Error> {
        tokio::time::sleep(LONGEST_CALL).await;
        Err(unavailable())
    }

    /// One call, as it goes with what is wrong at present. `effect` may come when nobody waits for it any more.
    async fn call<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&World) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.half().await;
        self.world.accident();
        match self.world.fault(self.instance) {
            Some(Fault::Silent) => self.lost().await,
            Some(Fault::Refuses) => {
                self.world.oracle().refused += 1;
                Err(unavailable())
            }
            Some(Fault::LosesAnswers) => {
                let _ = effect(&self.world);
                self.lost().await
            }
            Some(Fault::Late) => {
                let this = self.clone();
                tokio::spawn(async move {
                    while this.world.fault(this.instance).is_some() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    let _ = effect(&this.world);
                });
                self.lost().await
            }
            None => {
                let done = effect(&self.world);
                self.half().await;
                done
            }
        }
    }
}

fn unavailable() -> Error {
    Error::Unavailable { action: "reach", location: LOCATION.to_owned(), cause: "a fault of the model".into() }
}

#[async_trait]
impl StateStore for Shared {
    fn location(&self) -> String {
        LOCATION.to_owned()
    }

    async fn claim(&self) -> Result<Claim, Error> {
        Ok(Claim::ByLease)
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        let read = |world: &World| Ok(world.oracle().held.clone());
        let held = self.call(read).await?;
        Ok(held.map(|(document, version)| (document, Version(version.to_string()))))
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let (document, expected, instance) = (document.clone(), expected.cloned(), self.instance);
        let (_saving, begun) = (Saving::begins(self), Instant::now());
        self.call(move |world| world.replace(instance, begun, &document, expected.as_ref())).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.call(|_| Ok(())).await
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(self.world.plan.pace)
    }
}
