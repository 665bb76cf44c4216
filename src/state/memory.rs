//! State that is forgotten when the process ends.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Claim, Document, Error, StateStore, Version};

/// Keeps the document in this process.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Option<(Document, u64)>>);

#[async_trait]
impl StateStore for Memory {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn claim(&self) -> Result<Claim, Error> {
        Ok(Claim::Granted)
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(held.as_ref().map(|(document, version)| (document.clone(), Version(version.to_string()))))
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = held.as_ref().map(|(_, version)| *version);
        if version.map(|version| Version(version.to_string())).as_ref() != expected {
            return Err(Error::Conflict { place: self.place(), cause: None });
        }
        let version = version.unwrap_or_default() + 1;
        *held = Some((document.clone(), version));
        Ok(Version(version.to_string()))
    }

    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}
