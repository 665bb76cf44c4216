//! The delivery of a page: appends its rows to the open object, and closes the object when it is large or old enough.
//!
//! An attempt may be cut off at any await. So the delivery counts each row as soon as it is in the object.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use super::error::Error;
use super::object::Object;
use super::{Archiver, State};
use crate::destination::{Acknowledged, Delivery, Shipment, Tally};
use crate::failure::Failure;
use crate::telemetry::liveness::Heartbeat;

/// The bytes of records that are compressed at a time. That takes a few milliseconds, in which the thread does nothing
/// else.
const PIECE: usize = 64 * 1024;

pub(super) struct Gathering {
    archiver: Arc<Archiver>,
    shipment: Shipment,
    /// The number of the page's rows that are in the object.
    gathered: usize,
    bytes: u64,
}

impl Gathering {
    pub(super) fn new(archiver: Arc<Archiver>, shipment: Shipment) -> Self {
        Self { archiver, shipment, gathered: 0, bytes: 0 }
    }

    /// Appends the page's rows to the object.
    async fn gather(&mut self, state: &mut State, heart: &Heartbeat) -> Result<(), Error> {
        let State { chain, object, .. } = state;
        let object = match object {
            Some(object) => object,
            none => {
                none.insert(self.archiver.open_object(chain.as_ref().map(super::Chain::manifests), &self.shipment)?)
            }
        };
        let events = Arc::clone(&self.shipment.events);
        while let Some(rest @ [_, ..]) = events.get(self.gathered..) {
            let mut bytes = 0;
            let mut fits = |size: usize| {
                bytes += size;
                bytes <= PIECE
            };
            let count = rest.iter().map(|event| event.raw().len()).take_while(|size| fits(*size)).count().max(1);
            let before = object.raw_bytes();
            object.append(rest.get(..count).unwrap_or(rest))?;
            self.gathered += count;
            self.bytes += (object.raw_bytes() - before) as u64;
            heart.beat();
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Archiver {
    fn open_object(&self, number: Option<u64>, shipment: &Shipment) -> Result<Object, Error> {
        let number = number.ok_or(Error::NotOpen)?;
        let since = (self.reached)(&shipment.from).map_err(Error::Cursor)?;
        let object = Object::open(self.layout.attempt(number, since), self.compression)?;
        *self.due.lock() = Some(object.opened() + self.max_age);
        Ok(object)
    }

    /// Whether the object is large or old enough.
    fn is_to_be_closed(&self, object: &Object) -> bool {
        object.raw_bytes() as u64 >= self.max_size.as_u64() || object.opened() + self.max_age <= Instant::now()
    }
}

#[async_trait]
impl Delivery for Gathering {
    async fn attempt(&mut self, _now: Timestamp, heart: &Heartbeat) -> Result<Acknowledged, Failure> {
        let archiver = Arc::clone(&self.archiver);
        let mut state = archiver.state.lock().await;
        // Rows in the object stay there, so a failure from here on duplicates no row.
        if self.gathered < self.shipment.events.len() {
            self.gather(&mut state, heart).await?;
        }
        if let Some(object) = &mut state.object {
            object.page_ends(self.shipment.page, &self.shipment.to);
            object.upload_full_parts(&archiver.bucket).await?;
            heart.beat();
            if archiver.is_to_be_closed(object) {
                return Ok(archiver.close(&mut state).await?);
            }
        }
        Ok(Acknowledged::default())
    }

    fn tally(&self) -> Tally {
        Tally { accepted: self.gathered, bytes: self.bytes, ..Tally::default() }
    }
}
