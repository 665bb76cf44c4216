//! The destination: it makes objects durable, each of one page or of many gathered pages. It may find out what became
//! of the last object.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep};

use auditsync::clock::LocalTime;
use auditsync::component::Check;
use auditsync::destination::{Acknowledged, Delivery, Destination, Mark, PageNumber, Resumed, Shipment, Tally};
use auditsync::event::Event;
use auditsync::failure::Failure;
use auditsync::source::Cursor;
use auditsync::telemetry::liveness::Heartbeat;

use crate::world::World;

/// Gathered events have to be durable after this long.
pub(crate) const GATHERED_FOR: Duration = Duration::from_secs(10);

/// One instance's way to the destination. The events that it gathers are lost with the process.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) world: Arc<World>,
    pub(crate) instance: usize,
    pub(crate) latency: Duration,
    pub(crate) gathered: Arc<Mutex<Gathered>>,
}

/// The events of the next object.
#[derive(Clone, Default)]
pub(crate) struct Gathered {
    /// The number of objects before it.
    pub(crate) number: usize,
    pub(crate) pages: Vec<Arc<[Event]>>,
    /// The cursors before the first page and after the last one.
    pub(crate) ends: Option<(Cursor, Cursor)>,
    up_to: Option<PageNumber>,
    since: Option<Instant>,
}

impl Gathered {
    fn behind(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    fn take(&mut self, Shipment { page, from, to, events }: Shipment) {
        self.pages.push(events);
        let begin = self.ends.take().map_or(from, |(begin, _)| begin);
        self.ends = Some((begin, to));
        self.up_to = Some(page);
        self.since.get_or_insert_with(Instant::now);
    }

    fn events(&self) -> usize {
        self.pages.iter().map(|page| page.len()).sum()
    }
}

impl Sink {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap()
    }

    /// A request; its effect comes when half of its time is over.
    async fn request<T>(&self, effect: impl FnOnce() -> T) -> T {
        self.world.is_sending(self.instance, "at its start");
        let under_way = UnderWay(self);
        sleep(self.latency / 2).await;
        self.world.is_sending(self.instance, "on its arrival");
        let done = effect();
        sleep(self.latency / 2).await;
        drop(under_way);
        done
    }

    /// Makes the gathered events durable.
    async fn put(&self) -> Acknowledged {
        let object = self.gathered().clone();
        self.request(|| self.world.accepts(&object)).await;
        self.world.gathered_for(object.since);
        let number = object.number + 1;
        *self.gathered() = Gathered::behind(number);
        Acknowledged { up_to: object.up_to, mark: self.world.plan.resumes.then(|| Mark(json!(number))) }
    }
}

#[async_trait]
impl Destination for Sink {
    fn location(&self) -> String {
        "the model's sink".to_owned()
    }

    async fn resume(&self, cursor: &Cursor, mark: Option<&Mark>) -> Result<Option<Resumed>, Failure> {
        if !self.world.plan.resumes {
            return Ok(None);
        }
        let known = mark.map_or(0, |mark| usize::try_from(mark.0.as_u64().unwrap()).unwrap());
        let (number, end) = self.request(|| self.world.objects_behind(cursor, known)).await;
        *self.gathered() = Gathered::behind(number);
        self.world.resumed(self.instance, end.clone());
        Ok(end.map(|cursor| Resumed { cursor, mark: Some(Mark(json!(number))) }))
    }

    fn open(&self, shipment: Shipment, _: Timestamp) -> Box<dyn Delivery> {
        Box::new(SinkDelivery { to: self.clone(), shipment, is_gathered: false, accepted: 0, unanswered: 0 })
    }

    fn flush_due(&self) -> Option<Instant> {
        self.gathered().since.map(|since| since + GATHERED_FOR)
    }

    async fn flush(&self) -> Result<Acknowledged, Failure> {
        Ok(self.put().await)
    }

    fn discard(&self) {
        *self.gathered() = Gathered::default();
    }

    async fn check(&self, _: LocalTime) -> Vec<Check> {
        Vec::new()
    }
}

/// One page.
struct SinkDelivery {
    to: Sink,
    shipment: Shipment,
    is_gathered: bool,
    accepted: usize,
    unanswered: usize,
}

#[async_trait]
impl Delivery for SinkDelivery {
    async fn attempt(&mut self, _: Timestamp, _: &Heartbeat) -> Result<Acknowledged, Failure> {
        let events = self.shipment.events.len();
        self.to.world.begins(self.to.instance, &self.shipment.events);
        if !std::mem::replace(&mut self.is_gathered, true) {
            let mut gathered = self.to.gathered();
            if let Some((_, to)) = &gathered.ends {
                self.to.world.gathers(self.to.instance, to, &self.shipment.from);
            }
            gathered.take(self.shipment.clone());
        }
        let mut acknowledged = Acknowledged::default();
        if self.to.gathered().events() >= self.to.world.plan.gathers {
            // If the request is cut off, the engine cannot know whether it arrived.
            self.unanswered += events;
            acknowledged = self.to.put().await;
            self.unanswered -= events;
        }
        self.accepted = events;
        Ok(acknowledged)
    }

    fn tally(&self) -> Tally {
        Tally { accepted: self.accepted, ..Tally::default() }
    }

    fn unanswered(&self) -> usize {
        self.unanswered
    }
}

/// Lasts until the request is answered or cut off.
struct UnderWay<'a>(&'a Sink);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.world.has_sent(self.0.instance);
    }
}
