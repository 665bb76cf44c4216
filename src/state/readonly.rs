//! Reads another store and never writes to it, for a dry run beside a running instance.

use std::sync::Arc;

use async_trait::async_trait;

use super::memory::Memory;
use super::{Claim, Document, Error, StateStore, Version};

/// Begins with the document of another store, and keeps every save in this process.
pub struct ReadOnly {
    inner: Arc<dyn StateStore>,
    ahead: Memory,
}

impl ReadOnly {
    /// Begins without a document.
    pub fn empty() -> Self {
        Self::of(Arc::new(Memory::default()))
    }

    /// Begins with the document of `inner`, which it reads once. It ignores later saves there.
    pub fn of(inner: Arc<dyn StateStore>) -> Self {
        Self { inner, ahead: Memory::default() }
    }
}

#[async_trait]
impl StateStore for ReadOnly {
    fn location(&self) -> String {
        self.inner.location()
    }

    /// Always granted: reading needs no lock and no lease.
    async fn claim(&self) -> Result<Claim, Error> {
        Ok(Claim::Granted)
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        if let Some(held) = self.ahead.load().await? {
            return Ok(Some(held));
        }
        let Some((document, _)) = self.inner.load().await? else { return Ok(None) };
        let version = self.ahead.save(&document, None).await?;
        Ok(Some((document, version)))
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        self.ahead.save(document, expected).await
    }

    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_saved_is_read_again_and_never_reaches_the_store() {
        let document = |text: &str| Document::from_bytes(text.as_bytes().to_vec());
        let inner = Arc::new(Memory::default());
        let version = inner.save(&document("1"), None).await.unwrap();
        let dry = ReadOnly::of(inner.clone());
        assert_eq!(dry.claim().await.unwrap(), Claim::Granted);
        let (read, known) = dry.load().await.unwrap().unwrap();
        assert_eq!(read, document("1"));
        // Another instance goes on saving.
        inner.save(&document("2"), Some(&version)).await.unwrap();
        dry.save(&document("3"), Some(&known)).await.unwrap();
        assert_eq!(dry.load().await.unwrap().unwrap().0, document("3"));
        assert_eq!(inner.load().await.unwrap().unwrap().0, document("2"));
    }

    #[tokio::test]
    async fn a_store_without_a_document_stays_so() {
        let inner = Arc::new(Memory::default());
        let dry = ReadOnly::of(inner.clone());
        assert!(dry.load().await.unwrap().is_none());
        dry.save(&Document::from_bytes(vec![b'1']), None).await.unwrap();
        assert!(inner.load().await.unwrap().is_none());
    }
}
