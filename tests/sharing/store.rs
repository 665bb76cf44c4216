//! The state store: it compares and swaps, stands still, loses requests and answers, and carries out calls late.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use auditsync::state::{Claim, Document, Error, StateStore, Version};

use crate::plan::Fault;
use crate::world::{LOCATION, World};

/// A store's client gives up after this long.
const LONGEST_CALL: Duration = Duration::from_secs(3);

/// Lasts until the instance has its answer, or gives up.
struct Saving<'a>(&'a Shared);

impl<'a> Saving<'a> {
    fn begins(shared: &'a Shared, document: &Document) -> Self {
        shared.world.saving(shared.instance, document);
        Self(shared)
    }
}

impl Drop for Saving<'_> {
    fn drop(&mut self) {
        self.0.world.saved(self.0.instance);
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

    /// One call under the present outage. `effect` may come when the caller no longer waits for it.
    async fn call<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&World) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.half().await;
        self.world.accident();
        match self.world.fault(self.instance) {
            Some(Fault::Silent) => self.lost().await,
            Some(Fault::Refuses) => {
                self.world.refused();
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
        Ok(match self.world.has_lock() {
            None => Claim::ByLease,
            Some(true) => Claim::Granted,
            Some(false) => Claim::Busy { holder: "another".to_owned() },
        })
    }

    async fn confirm(&self) -> Result<(), Error> {
        if self.world.has_lock() == Some(false) {
            return Err(Error::Busy { location: LOCATION.to_owned(), holder: "another".to_owned() });
        }
        Ok(())
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        self.call(|world| Ok(world.held())).await
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let (_saving, begun) = (Saving::begins(self, document), Instant::now());
        let (document, expected, instance) = (document.clone(), expected.cloned(), self.instance);
        self.call(move |world| world.replace(instance, begun, &document, expected.as_ref())).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.call(|_| Ok(())).await
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(self.world.plan.pace)
    }
}
