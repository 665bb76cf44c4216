//! Tests, by writes that must not succeed, whether we may write to the store and whether it obeys conditions.

use std::sync::atomic::Ordering;

use super::{Asked, CHECK, Condition, S3};
use crate::aws::answer::{Failure, Meaning};
use crate::state::{Error, StateStore as _};

/// An entity tag in the form of S3's that belongs to no object.
const MADE_UP: &str = "\"00000000000000000000000000000000\"";

/// The content of the object that a probe may leave behind.
const PROBE: &[u8] = b"Written by auditsync to find out whether it may write here. It can be deleted.\n";

impl S3 {
    pub(super) async fn probe_now(&self) -> Result<(), Error> {
        match self.read(CHECK).await? {
            Some((document, _)) => self.probe_at(&document).await,
            None => self.probe_beside().await,
        }
    }

    /// Tries two writes over the document, which the store must refuse.
    ///
    /// If the store writes all the same, auditsync rejects the store. The write replaces the document by its own bytes, or by its bytes of a
    /// moment ago if its holder saved in between. The holder's next save corrects that, since such a store lets it through, too. Without
    /// a next save, the next run repeats a page but loses nothing.
    async fn probe_at(&self, document: &[u8]) -> Result<(), Error> {
        // This condition comes first: it writes nothing if the document was deleted just now.
        self.must_not_write(document, Condition::Unchanged(MADE_UP)).await?;
        self.must_not_write(document, Condition::Absent).await
    }

    /// Tries a write without a document. Only one condition is unmet then. The write uses a key of its own, since a faulty store may carry it out.
    async fn probe_beside(&self) -> Result<(), Error> {
        let (key, condition) = (self.probe_key(), Condition::Unchanged(MADE_UP));
        match self.put(CHECK, &key, PROBE, condition).await? {
            Ok(_) => Err(self.unconditional(format!("{}; the object {key} was left behind", disregarded(condition)))),
            // Without the permission to list, S3 may not say that the object is missing. The first save will show whether we may
            // write it.
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

    /// Checks that a write failed because of its condition.
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
    format!("it wrote although the condition was not met: {}", condition.header())
}
