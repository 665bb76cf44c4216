//! Keeps the state in memory until the process ends.

use std::sync::Arc;

use parking_lot::Mutex;

use async_trait::async_trait;

use super::{Claim, Document, Error, Kind, StateStore, Version};
use crate::component::Configured;

/// The store in the registry.
pub const KIND: Kind = Kind {
    name: "memory",
    variables: &[],
    is_lasting: false,
    folder: |_| None,
    read: |_, _| Ok(Configured::new(|()| -> Arc<dyn StateStore> { Arc::new(Memory::default()) })),
};

/// Keeps the document in this process.
#[derive(Debug)]
pub struct Memory {
    location: &'static str,
    held: Mutex<Option<(Document, u64)>>,
}

impl Memory {
    /// Makes a store that messages call `location`.
    pub(super) fn at(location: &'static str) -> Self {
        Self { location, held: Mutex::default() }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::at("memory")
    }
}

#[async_trait]
impl StateStore for Memory {
    fn location(&self) -> String {
        self.location.to_owned()
    }

    async fn claim(&self) -> Result<Claim, Error> {
        Ok(Claim::Granted)
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        let held = self.held.lock();
        Ok(held.as_ref().map(|(document, version)| (document.clone(), Version(version.to_string()))))
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let mut held = self.held.lock();
        let version = held.as_ref().map(|(_, version)| *version);
        if version.map(|version| Version(version.to_string())).as_ref() != expected {
            return Err(Error::Conflict { location: self.location(), cause: None });
        }
        let version = version.unwrap_or_default() + 1;
        *held = Some((document.clone(), version));
        Ok(Version(version.to_string()))
    }

    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}
