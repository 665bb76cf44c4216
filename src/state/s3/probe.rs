//! Finding out whether the store may be written to and obeys conditions, by writes that must not succeed.

use std::sync::atomic::Ordering;

use super::{Asked, CHECK, Condition, S3};
use crate::aws::answer::{Failure, Meaning};
use crate::state::{Error, StateStore as _};

/// An entity tag as S3 makes them, of no object.
const MADE_UP: &str = "\"00000000000000000000000000000000\"";

/// What the object says that may be left behind by a probe.
const PROBE: &[u8] = b"Written by auditsync to find out whether it may write here. It can be deleted.\n";

impl S3 {
    pub(super) async fn probe_now(&self) -> Result<(), Error> {
        match self.read(CHECK).await? {
            Some((document, _)) => self.probe_at(&document).await,
            None => self.probe_beside().await,
        }
    }

    /// Each write here must be refused. On a store that writes all the same, the document is replaced by its own bytes, or by
    /// what it was a moment ago if its holder saved in between. That holder's next save sets it right, since such a store lets it
    /// through too; if there is none, the next run repeats a page but loses nothing. And the store is refused for it.
    async fn probe_at(&self, document: &[u8]) -> Result<(), Error> {
        // This one first: nothing is written if the document was deleted just now.
        self.must_not_write(document, Condition::Unchanged(MADE_UP)).await?;
        self.must_not_write(document, Condition::Absent).await
    }

    /// Without a document there is one condition that does not hold, and a name of its own for what a bad store writes.
    async fn probe_beside(&self) -> Result<(), Error> {
        let (key, condition) = (self.probe_key(), Condition::Unchanged(MADE_UP));
        match self.put(CHECK, &key, PROBE, condition).await? {
            Ok(_) => Err(self.unconditional(format!("{}; the object {key} was left behind", disregarded(condition)))),
            // Whoever may not list may not be told that there is no such object either. The first save will show whether it
            // may be written.
            Err(Failure { meaning: Meaning::Denied, cause }) if self.hidden.load(Ordering::Relaxed) => {
                tracing::warn!(
                    location = %self.location(), answer = %cause,
                    "without s3:ListBucket, only the first save shows whether the store can be written to"
                );
                Ok(())
            }
            Err(failure) => self.obeyed(condition, failure).await,
        }
    }

    async fn must_not_write(&self, document: &[u8], condition: Condition<'_>) -> Result<(), Error> {
        match self.put(CHECK, &self.key, document, condition).await? {
            Ok(_) => Err(self.unconditional(disregarded(condition))),
            Err(failure) => self.obeyed(condition, failure).await,
        }
    }

    /// Whether a write failed for its condition.
    async fn obeyed(&self, condition: Condition<'_>, failure: Failure) -> Result<(), Error> {
        match failure.meaning {
            Meaning::Mismatch | Meaning::Missing => Ok(()),
            _ => Err(self.error(CHECK, Asked::Put(condition), failure).await),
        }
    }

    fn probe_key(&self) -> String {
        format!("{}.probe", self.key)
    }
}

fn disregarded(condition: Condition<'_>) -> String {
    format!("it wrote in spite of a condition that was not met, {}", condition.header())
}
