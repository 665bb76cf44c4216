//! One document, with or without a lease, and an outage.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use auditsync::state::memory::Memory;
use auditsync::state::{Claim, Document, Error, StateStore, Version};

use super::world::World;

/// A store's client gives up after this long.
const LONGEST_CALL: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Store {
    world: Arc<World>,
    held: Memory,
    /// The last document, to see how far it is.
    last: Mutex<Option<Document>>,
}

impl Store {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world, held: Memory::default(), last: Mutex::default() }
    }

    /// How far delivery got.
    pub(crate) fn position(&self) -> Option<jiff::Timestamp> {
        let last = self.last.lock().unwrap();
        let state = last.as_ref()?.read("the model's store").unwrap();
        auditsync::source::sectigo::position(&state.cursor).ok()
    }

    async fn call(&self) -> Result<(), Error> {
        let world = &self.world;
        let is_down = world.plan.lease.is_some_and(|(from, lasts)| {
            (u64::from(from)..u64::from(from + lasts)).contains(&world.elapsed()) && !world.inner().is_healed
        });
        if !is_down {
            return Ok(());
        }
        tokio::time::sleep(LONGEST_CALL).await;
        Err(Error::Unavailable { action: "reach", place: self.place(), cause: "a fault of the model".into() })
    }
}

#[async_trait]
impl StateStore for Store {
    fn place(&self) -> String {
        "the model's store".to_owned()
    }

    async fn claim(&self) -> Result<Claim, Error> {
        Ok(if self.world.plan.lease.is_some() { Claim::ByLease } else { Claim::Granted })
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        self.call().await?;
        self.held.load().await
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        self.call().await?;
        let version = self.held.save(document, expected).await?;
        *self.last.lock().unwrap() = Some(document.clone());
        Ok(version)
    }

    async fn probe(&self) -> Result<(), Error> {
        self.call().await
    }
}
