//! The store of a pipeline without a state: its source reads from a queue, which keeps undelivered records.

use async_trait::async_trait;

use super::memory::Memory;
use super::{Claim, Document, Error, StateStore, Version};

/// Why there is no state, for messages.
pub(crate) const WHY: &str = "the queue keeps undelivered records, so auditsync stores no state and needs no lease, and several instances may run at once";

/// Keeps the engine's saves in this process.
#[derive(Debug, Default)]
pub(crate) struct Needless(Memory);

#[async_trait]
impl StateStore for Needless {
    fn location(&self) -> String {
        "nowhere (the queue keeps undelivered records)".to_owned()
    }

    async fn claim(&self) -> Result<Claim, Error> {
        self.0.claim().await
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        self.0.load().await
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        self.0.save(document, expected).await
    }

    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}
