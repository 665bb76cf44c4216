//! Reading a page, however long it takes.

use super::decision::Decision;
use super::{Engine, Error, Halt};
use crate::clock::LocalTime;
use crate::component::Component;
use crate::failure::Chain;
use crate::source::{Cursor, Page};

impl Engine {
    /// The page behind `cursor`. A shutdown ends the call at once: nothing is lost with an answer that nobody reads.
    pub(super) async fn fetch(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Halt> {
        let mut call = self.retries.call(Component::Source);
        let mut from = cursor.clone();
        loop {
            let calling = call.begins();
            let answer = tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(Halt::Stopped),
                answer = self.source.next_page(&from, begun) => answer,
            };
            drop(calling);
            let cause = match answer {
                Ok(page) => {
                    call.succeeded();
                    if page.progressed {
                        self.retries.progress();
                    }
                    return Ok(page);
                }
                Err(cause) => cause,
            };
            let mut decision = call.failed(cause.class());
            if decision == Decision::Narrow {
                if let Some(narrowed) = self.source.narrowed(&from, begun) {
                    tracing::warn!(error = %Chain(&cause), "a page cannot be read; a shorter range is requested");
                    from = narrowed;
                    call.narrowed();
                    continue;
                }
                decision = call.cannot_narrow();
                from = cursor.clone();
            }
            if let Some(reason) = call.wait(decision, &cause).await? {
                return Err(Error::GivenUp { component: Component::Source, reason, cause }.into());
            }
        }
    }
}
