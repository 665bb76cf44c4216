//! State in memory.

use std::sync::Arc;

use auditsync::state::memory::Memory;

use crate::suite::{Location, conformance};

struct InMemory(Arc<Memory>);

impl Location for InMemory {
    type Store = Memory;
    const ROUNDS: usize = 1000;

    async fn fresh() -> Self {
        Self(Arc::default())
    }

    fn open(&self) -> Arc<Memory> {
        // The handle is the location, because no other process sees this memory.
        Arc::clone(&self.0)
    }
}

conformance!(InMemory);
