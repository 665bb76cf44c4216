//! A state store that compares and swaps, and fails in every way that a store can.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use auditsync::source::sectigo;
use auditsync::source::sectigo::cursor::SectigoCursor;
use auditsync::state::{Claim, Document, Error, StateStore, Version};

use crate::ledger::Stored;
use crate::plan::StoreFault;
use crate::world::{Life, World, take};

const LOCATION: &str = "the model's store";

#[derive(Debug)]
pub(crate) struct ModelStore {
    world: Arc<World>,
    life: Arc<Life>,
    busy: AtomicU8,
}

impl ModelStore {
    /// Returns a store that refuses its claim this many times.
    pub(crate) fn new(world: Arc<World>, life: Arc<Life>, busy: u8) -> Self {
        Self { world, life, busy: AtomicU8::new(busy) }
    }

    /// Lets one call take its time, and returns its fault.
    async fn call(&self) -> Option<StoreFault> {
        if self.busy.load(Ordering::Relaxed) > 0 {
            self.world.ledger().violated("it worked on a state that another instance holds");
        }
        self.life.pass().await;
        take(self.world.knobs.store_latency).await;
        let fault = self.world.store_script.next();
        if let Some(StoreFault::Slow(millis)) = fault {
            take(millis).await;
        }
        land_straggler(&self.world, self.life.number, false);
        fault
    }

    async fn write(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let fault = self.call().await;
        match fault {
            Some(StoreFault::Fails) => return Err(failure("write")),
            Some(StoreFault::Late(millis)) => {
                self.world.documents().delay(document.clone(), expected.cloned(), millis);
                return Err(failure("write"));
            }
            Some(StoreFault::Overtaken) => self.world.documents().overtake(self.life.number),
            _ => {}
        }
        let written = replace(&self.world, self.life.number, document, expected);
        self.life.pass().await;
        take(self.world.knobs.store_latency).await;
        match fault {
            Some(StoreFault::Unanswered) => return Err(failure("write")),
            Some(StoreFault::GoesBack(saves)) if written.is_ok() => {
                self.world.documents().go_back(saves.into(), self.life.number);
            }
            _ => {}
        }
        written
    }
}

/// Lets a delayed save take effect, if it can: when its time has come, or at once with `now`.
pub(crate) fn land_straggler(world: &World, life: usize, now: bool) {
    let straggler = world.documents().straggler(now);
    if let Some(straggler) = straggler {
        let _ = replace(world, life, &straggler.document, straggler.expected.as_ref());
    }
}

/// Compares and swaps, and records that in the ledger.
fn replace(world: &World, life: usize, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
    if !world.documents().is_at(expected) {
        return Err(Error::Conflict { location: LOCATION.to_owned(), cause: None });
    }
    if world.documents().was_overtaken(life) {
        world.ledger().violated("another writer's document was overwritten");
    }
    let base = world.documents().held().map_or(0, |(written, _)| written.behind);
    let state = document.read(LOCATION)?;
    let position: SectigoCursor = state.cursor.decode().unwrap();
    let before = match &position {
        SectigoCursor::InRange(range) => range.token().map_or_else(Vec::new, |token| world.api().before(&token.0)),
        SectigoCursor::First { .. } | SectigoCursor::Idle { .. } => Vec::new(),
    };
    let position = (sectigo::KIND.reached)(&state.cursor).unwrap();
    let behind = world.ledger().stored(&Stored { cursor: &state.cursor, position, before, base });
    Ok(world.documents().write(document.clone(), life, behind))
}

fn failure(action: &'static str) -> Error {
    Error::Io { action, location: LOCATION.to_owned(), cause: std::io::Error::other("a fault of the model") }
}

#[async_trait]
impl StateStore for ModelStore {
    fn location(&self) -> String {
        LOCATION.to_owned()
    }

    async fn claim(&self) -> Result<Claim, Error> {
        let refused = self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        Ok(if refused.is_ok() { Claim::Busy { holder: "another".to_owned() } } else { Claim::Granted })
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        let loaded = match self.call().await {
            Some(StoreFault::Fails | StoreFault::Unanswered | StoreFault::Late(_)) => Err(failure("read")),
            _ => Ok(self.world.documents().held().map(|(written, version)| (written.document.clone(), version))),
        };
        self.world.ledger().heard();
        loaded
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        self.world.ledger().storing();
        let saved = self.write(document, expected).await;
        self.world.ledger().heard();
        saved
    }

    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }

    fn pace(&self) -> Duration {
        Duration::from_secs(self.world.knobs.paced.into())
    }
}
